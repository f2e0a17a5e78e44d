"""The one table of rules."""

from __future__ import annotations

import functools
from typing import Any

from .families import all_rules
from .families.pointwise import pointwise_rule
from .rule import Rule, given

_known = functools.cache(all_rules)  # made when it is first asked for
_tagged = functools.cache(pointwise_rule)


def rule_for(op: Any) -> Rule | None:
    """The rule of an overload: one that was registered, or one of the families', or none."""
    return given.get(op) or _known().get(op) or _tagged(op)
