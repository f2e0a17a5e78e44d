"""The snippets of docs/training.md run as they stand, in one session, in an empty folder."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(snippets) == 2
    session = {"__name__": "training"}
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"training.md snippet {number}", "exec"), session)
    session["mem"].close()
    assert "{'loss': " in capsys.readouterr().out
    assert (tmp_path / "exported" / "model.safetensors").exists()
