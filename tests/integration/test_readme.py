"""Every Python snippet of the README runs as it stands, in one session, in an empty folder."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_the_readme_opens_with_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert text.index("make demo") < text.index("make test") < 200
    assert len(SNIPPETS) == 11


@pytest.mark.filterwarnings("ignore::UserWarning:torch.optim")
def test_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    session = {"__name__": "readme"}
    for number, snippet in enumerate(SNIPPETS):
        exec(compile(snippet, f"README.md snippet {number}", "exec"), session)
    printed = capsys.readouterr().out
    assert "'emb' edited in transaction" in printed
    assert "'v1' -> 'v2' in world 1" in printed
    assert "Diff of transactions" in printed
    assert "torch.Size([100, 8])" in printed
    assert "TransformerEncoder: layers.1" in printed
    assert "hit: kept" in printed
    assert "miss: argument 'model' changed" in printed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "pipeline.mmsb", "run.mmsb"]
