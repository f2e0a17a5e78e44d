"""The notebooks run from top to bottom in a real kernel, and carry no outputs."""

from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
SHOWN = {
    "01_pages_and_what_follows": (
        "cut off, not recomputed",
        "declared with other code",
        "<svg",
        "3 pages recomputed",
    ),
    "03_an_incremental_experiment": (
        "nearest() was redefined: default temperature: 10.0 became 50.0",
        "because images changed",
        "as after cell 2",
        "rows 200, 201",
    ),
}
"""What is to be seen in each when it has run."""
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


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
    for phrase in SHOWN.get(path.stem, ()):
        assert phrase in shown, phrase
