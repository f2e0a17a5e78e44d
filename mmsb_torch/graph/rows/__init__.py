"""Functions in parts: which rows of a result depend on which rows of the inputs.

- `calls`: a function as a list of calls, with sizes that depend on one number; `tracing` makes it
- `rule`: which part of its arguments each part of an operator's result needs; `families`: the
  rules; `table`: all of them
- `slices`: the proof that a result's rows follow its inputs' rows
- `plan`: all of that, for one function; `kept`: what a plan keeps between edits, and the edits
- `parts`: pieces of dimensions, and boxes of them; `boxes`: how they go through a call; `program`: from
  a kind of edit to the calls that make a result right; `tape`: so that edits of one kind need no new
  analysis; `building`: a call on a box; `skeleton`, `whole`: a graph for all edits, and all of it run

Nothing here knows pages.
"""

from mmsb_torch.graph.rows.kept import Kept
from mmsb_torch.graph.rows.parts import Box
from mmsb_torch.graph.rows.plan import Plan, plan
from mmsb_torch.graph.rows.rule import MIXED, Link, Rule, register_row_rule

__all__ = ["MIXED", "Box", "Kept", "Link", "Plan", "Rule", "plan", "register_row_rule"]
