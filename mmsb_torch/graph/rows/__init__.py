"""Functions in parts: which rows of a result depend on which rows of the inputs.

- `calls`: a function as a list of calls, with sizes that depend on one number; `tracing` makes it
- `rule`: which part of its arguments each part of an operator's result needs; `families`: the
  rules; `table`: all of them
- `slices`: the proof that a result's rows follow its inputs' rows
- `plan`: all of that, for one function

Nothing here knows pages.
"""

from mmsb_torch.graph.rows.plan import Plan, plan
from mmsb_torch.graph.rows.rule import MIXED, Link, Rule, register_row_rule

__all__ = ["MIXED", "Link", "Plan", "Rule", "plan", "register_row_rule"]
