"""`fracgen explore`: sigma and Delta by hand, live in the browser."""

import contextlib
import importlib
import os
import sys
import threading
import webbrowser
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fracgen.cli.output import InterruptError

if TYPE_CHECKING:
    from fracgen.explore.augmented import Augmenter


def explore(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="SOURCE",
            help="What to begin with: a YAML recipe, a base fractal (CSV or JSON), or a folder of shards. "
            "1p-frac without one.",
        ),
    ] = None,
    photograph: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="<path>", help="Photograph for warps, instead of a generated one; may be given again for others."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="<path>", help="Folder in which sets are rendered.", show_default="this one"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535, show_default="8642, or any free one")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Look at data sets while you set them: a page on this machine, drawn live by the renderer."""
    from fracgen.explore.explorer import Explorer
    from fracgen.explore.inputs import read_source
    from fracgen.explore.server import ExploreServer
    from fracgen.machine import check_compiler

    check_compiler()
    explorer = Explorer(read_source(source, photograph or []), out or Path(), training_augmenter())
    with ExploreServer(explorer, port) as server:
        threading.Thread(target=explorer.warm_up, name="warm-up", daemon=True).start()
        print(server.address, flush=True)
        print("fracgen: Ctrl-C ends it", file=sys.stderr)
        if open_page and _has_screen():
            threading.Thread(target=webbrowser.open, args=(server.address_once,), daemon=True).start()
        try:
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever(poll_interval=0.1)
        finally:
            unfinished = explorer.close()
    if unfinished:
        raise InterruptError(f"ended; finished shards are kept in {unfinished}; render it again to go on")
    print("fracgen: ended", file=sys.stderr)


def _has_screen() -> bool:
    """Whether a browser would have a window, and not this terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def training_augmenter() -> "Augmenter | None":
    """The augmentation of `fracgen.train`, which is imported when it is used; None without its libraries."""
    from fracgen.explore.augmented import Augmenter

    def settings() -> tuple[type, type]:
        module = importlib.import_module("fracgen.train.augment.settings")
        return module.Augmentation, module.Mix

    def views(*arguments: Any, **options: Any) -> Any:
        return importlib.import_module("fracgen.train.augment.views").augmented_views(*arguments, **options)

    is_installed = all(find_spec(library) is not None for library in ("torch", "timm"))
    return Augmenter(settings, views) if is_installed else None
