"""The snippets of docs/callbacks.md run as they stand, in one session, in an empty folder."""

import logging
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "callbacks.md"


@pytest.mark.filterwarnings("ignore")
def test_snippets_run(tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    pytest.importorskip("accelerate")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    monkeypatch.chdir(tmp_path)
    session = {"__name__": "callbacks"}
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(snippets) == 2
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"callbacks.md snippet {number}", "exec"), session)
    assert (tmp_path / "lightning.mmsb").is_dir()
    assert session["trainer"].state.global_step == 16
