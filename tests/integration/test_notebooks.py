"""The notebooks run from top to bottom in a real kernel, and carry no outputs."""

from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


SHOWN = {  # what a notebook must come to show, by the beginning of its name
    "01": [
        "cut off, not recomputed",
        "declared with other code",
        "by slice: 1 rows",
        "<svg",
        "3 pages recomputed",
        "image/png",
    ],
    "04": ["argument 'ids' changed", "code changed", "6 read ahead (of 7)", "image/png"],
    "05": [
        "by slice: 3 rows",
        "0 elements differ from a run in full",
        "the same query: 0 pages run",
        "is not row-wise",
        "image/png",
    ],
}


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_kept(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.minilm
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# what the kernel's own client leaves open or deprecates is not ours
@pytest.mark.filterwarnings("ignore:::zmq", "ignore:::jupyter_client", "ignore::ResourceWarning")
def test_it_runs(path, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = "\n".join(
        str(output.get("text", "")) + str(output.get("data", {}))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    for words in SHOWN[path.stem[:2]]:
        assert words in shown, words
