"""The notebooks run from top to bottom in a real kernel, and carry no outputs."""

from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHOWN = {
    "01_pages_and_what_follows": [
        "cut off, not recomputed",
        "declared with other code",
        "by slice: 1 rows",
        "<svg",
        "3 pages recomputed",
        "image/png",
    ],
    "02_a_training_loop_that_survives_kill_-9": [
        "ended with -9",
        "25 of 25 tensors are the same",
        "the same weights again: True",
        "image/png",
    ],
    "03_an_incremental_experiment": [
        "nearest() was redefined: default temperature: 10.0 became 50.0",
        "because images changed",
        "as after cell 2",
        "rows 200, 201",
    ],
    "04_a_pipeline_cache_on_real_text": [
        "argument 'ids' changed",
        "code changed",
        "6 read ahead (of 7)",
        "image/png",
    ],
    "05_rows_through_a_transformer": [
        "by slice: 3 rows",
        "0 elements differ from a run in full",
        "the same query: 0 pages run",
        "is not row-wise",
        "image/png",
    ],
}
"""What is to be seen in each when it has run."""


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
    for words in SHOWN[path.stem]:
        assert words in shown, words
