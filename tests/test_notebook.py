"""`examples/quickstart.ipynb`: it runs from begin to end, offline, and lies in git without its outputs."""

import json
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from fracgen.shards.reader import open_shards

PATH = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def test_it_lies_without_outputs_and_its_links_lead_somewhere():
    notebook = json.loads(PATH.read_text("utf-8"))
    cells = notebook["cells"]
    assert len(cells) > 10 and all(not cell.get("outputs") and not cell.get("execution_count") for cell in cells)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"} and not any(cell["metadata"] for cell in cells)
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 3 and all((PATH.parent / link).is_file() for link in links)


def test_it_runs_offline(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    notebook = nbformat.read(PATH, 4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 6
    assert len(open_shards(tmp_path / "quickstart" / "1p-frac")) == 16
    assert "ShardFolder (8, 1, 128, 128)" in text and "OnePFrac (8, 1, 128, 128)" in text
    first, last = map(
        float, re.search(r"^loss ([\d.]+) to ([\d.]+); guessing would give 2\.77$", text, re.MULTILINE).groups()
    )
    assert last < first < 4
    accuracies = dict(re.findall(r"^(tuned|scratch) +(\d+) % of the test images, 109 steps$", text, re.MULTILINE))
    assert accuracies.keys() == {"tuned", "scratch"} and all(33 < int(value) <= 100 for value in accuracies.values())
