"""A shell of IPython's in this process, with the extension loaded."""

import gc

import pytest


@pytest.fixture
def shell(tmp_path, monkeypatch):
    from IPython.core import async_helpers
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.chdir(tmp_path)
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell(config=config)
    shell.run_cell("%load_ext mmsb_torch").raise_error()
    shell.run_cell("import torch").raise_error()
    yield shell
    shell.run_cell("%unload_ext mmsb_torch")
    shell.reset()
    shell.atexit_operations = lambda: None
    loop = async_helpers._asyncio_event_loop  # IPython keeps one for `await`
    if loop is not None:
        loop.close()
        async_helpers._asyncio_event_loop = None
    gc.collect()


@pytest.fixture
def cell(shell):
    """Runs a cell and gives its summary; what a cell raises is raised."""
    session = shell._mmsb_session

    def run(source, *, raises=None, tracked=True):
        session.last = None
        result = shell.run_cell(f"%%mmsb\n{source}" if tracked else source)
        if raises is None:
            result.raise_error()
        else:
            assert isinstance(result.error_in_exec, raises), result
        return session.last

    run.shell, run.session = shell, session
    return run
