"""Which moment the user means."""

from __future__ import annotations

import re

from mmsb_torch.errors import HistoryError
from mmsb_torch.memory import Memory, Moment

_NUMBER = re.compile(r"[0-9]{1,20}")
_STEP = re.compile(r"-?[0-9]{1,20}")


def moment_at(memory: Memory, text: str) -> Moment:
    """The moment that `text` names: a transaction's number, `step:N`, `label:NAME`, or a label.

    Raises:
        HistoryError: there is no such moment in the history at hand.
    """
    kind, colon, name = text.partition(":")
    if colon and kind == "label":
        return memory.at(name)
    if colon and kind == "step":
        if not _STEP.fullmatch(name):
            raise HistoryError(
                f"{text!r}: expected a number after 'step:'. A label of that name is "
                f"{'label:' + text!r}."
            )
        return memory.at(step=int(name))
    return memory.at(int(text) if _NUMBER.fullmatch(text) else text)
