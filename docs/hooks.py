"""What mkdocs does with these pages: the README as the front page, pictures from `examples/`, tables of options.

Tables are made of the settings themselves when the site is built: a recipe's where a page has
`<!-- options: module:Class -->`, by its options, and a run's where it has `<!-- settings: module:Class -->`, by names.
"""

import importlib
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from fracgen.shards.settings import markdown_table

ROOT = Path(__file__).parents[1]
_TABLE = re.compile(r"<!-- (options|settings): ([\w.]+):(\w+) -->")


def on_files(files: Any, config: Any) -> Any:
    """Add the front page and the pictures."""
    readme = (ROOT / "README.md").read_text("utf-8")
    files.append(File.generated(config, "index.md", content=readme.replace("](docs/", "](")))
    for path in sorted((ROOT / "examples").glob("*.png")):
        files.append(File.generated(config, f"examples/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Pictures where the site has them, and the tables of options."""
    return _TABLE.sub(lambda match: _table(*match.groups()), markdown.replace("](../examples/", "](examples/"))


def _table(kind: str, module: str, name: str) -> str:
    settings = getattr(importlib.import_module(module), name)
    return f"### {kind.capitalize()}\n\n{markdown_table(settings, options=kind == 'options')}"
