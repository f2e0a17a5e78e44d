"""What IPython is told: the magics, a change of cells that begin with `%%mmsb`, two events.

An incremental cell runs by IPython's own hands: its first line becomes a call that begins the scope,
the end of the cell ends it. So values are shown, errors point to the user's lines, `await` works and
other magics nest, as in any cell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from IPython.core.error import UsageError
from IPython.core.inputtransformer2 import cell_magic
from IPython.core.magic import Magics, line_cell_magic, magics_class

from mmsb_torch.errors import MMSBError
from mmsb_torch.notebook import commands
from mmsb_torch.notebook.session import Session

_NAME = "_mmsb_session"
_MARK = "%%mmsb"


@magics_class
class MMSBMagics(Magics):
    """`%%mmsb` and `%mmsb`, for one shell."""

    def __init__(self, shell: Any, session: Session) -> None:
        super().__init__(shell)
        self.run_cell = shell.run_cell
        self.session = session

    @line_cell_magic
    def mmsb(self, line: str, cell: str | None = None) -> Any:
        """Run a cell incrementally (%%mmsb), or look at the memory (%mmsb COMMAND).

        The calls of torch in a cell that begins with %%mmsb are executed only if what they depend
        on changed; a line below says what ran, what was reused, and why. %%mmsb -q says nothing.
        """
        if cell is not None:  # called by hand: a cell that begins so was changed before
            result = self.run_cell(
                "".join(begins([f"{_MARK} {line}\n", *cell.splitlines(keepends=True)]))
            )
            result.raise_error()
            return None
        try:
            return commands.run(self.session, line)
        except MMSBError as error:
            raise UsageError(str(error)) from None


MMSBMagics.mmsb.__doc__ = f"{MMSBMagics.mmsb.__doc__}\n{commands.usage()}\n"


def begins(lines: list[str]) -> list[str]:
    """Lines of a cell: a first one that is `%%mmsb` becomes a call that begins the scope."""
    first = lines[0] if lines else ""
    if not first.startswith(_MARK) or first[len(_MARK) :][:1].strip():
        return lines
    options = first[len(_MARK) :].strip()
    rest = lines[1:]
    if rest and rest[0].startswith("%%"):
        rest = cell_magic(rest)
    return [f"get_ipython().run_line_magic('mmsb', {f'cell {options}'.strip()!r})\n", *rest]


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext mmsb_torch`."""
    if getattr(shell, _NAME, None) is not None:
        return
    session = Session(shell)
    setattr(shell, _NAME, session)
    shell.register_magics(MMSBMagics(shell, session))
    shell.input_transformer_manager.line_transforms.insert(0, begins)
    for event, callback in _events(session).items():
        shell.events.register(event, callback)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext mmsb_torch`: what `%mmsb open` opened is closed."""
    session: Session | None = getattr(shell, _NAME, None)
    if session is None:
        return
    for event, callback in _events(session).items():
        shell.events.unregister(event, callback)
    shell.input_transformer_manager.line_transforms.remove(begins)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("mmsb", None)
    delattr(shell, _NAME)
    session.close()


def _events(session: Session) -> dict[str, Callable[[Any], None]]:
    return {"pre_run_cell": session.before_cell, "post_run_cell": session.after_cell}
