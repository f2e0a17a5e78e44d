"""The snippets of docs/frozen.md run as they stand, in an empty folder."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "frozen.md"


def test_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = {"__name__": "frozen"}
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(snippets) == 1
    exec(compile(snippets[0], "frozen.md", "exec"), session)
    assert session["model"][0].stats()["calls"] == 18
    assert session["model"][0].stats()["rows_computed"] == 192, session["model"][0].why()
