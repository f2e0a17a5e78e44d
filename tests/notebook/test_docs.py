"""Every snippet of docs/notebook.md, and those of the README for a notebook, run as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUP = """
data, weights = torch.randn(300, 300), torch.randn(300, 300)
x, scale = torch.randn(64, 32, 64), 0.5
encoder = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval()
"""


def snippets(file, kind):
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(("file", "number"), [("README.md", 3), ("docs/notebook.md", 1)])
def test_snippets_run(shell, capsys, file, number):
    shell.run_cell(SETUP).raise_error()
    found = snippets(file, "ipython")
    assert len(found) == number
    for snippet in found:
        shell.run_cell(snippet).raise_error()
    assert "mmsb [1] ran" in capsys.readouterr().out


def test_python_snippets_run(shell):
    found = snippets("docs/notebook.md", "python")
    assert len(found) == 1
    for snippet in found:
        shell.run_cell(snippet).raise_error()


def test_pictures_are_there_and_small():
    for name in re.findall(r"\]\((pictures/.*?)\)", (ROOT / "docs/notebook.md").read_text()):
        assert 1000 < (ROOT / "docs" / name).stat().st_size < 100_000, name


def test_every_command_is_described():
    from mmsb_torch.notebook.commands import COMMANDS

    text = (ROOT / "docs/notebook.md").read_text()
    for name in COMMANDS:
        assert f"%mmsb {name}" in text, name
