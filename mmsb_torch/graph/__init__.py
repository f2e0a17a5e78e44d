"""Derived pages: who depends on whom, what is stale, and what has to be computed again.

`node` and `topology` hold the graph, `recipes` the functions. A `look` finds what is right for one
moment; a `pull` is a look that computes the rest (with `running` around each recipe); the `engine`
answers reads with them, and `past` does the same for an earlier moment. `explain` and `draw` show it
to people (`draw` loads when a picture is asked for). A `recording` holds the calls of a block, `calls`
shows them, `lifting` and `replay` make recipes of them; these load when something is recorded.
"""

from mmsb_torch.graph.declaration import declare_again, tell_stale
from mmsb_torch.graph.engine import Engine
from mmsb_torch.graph.explain import Edit, Why, status, why
from mmsb_torch.graph.look import Look
from mmsb_torch.graph.node import Node, Outcome
from mmsb_torch.graph.past import Past
from mmsb_torch.graph.recipes import (
    CallRecipe,
    KindRecipe,
    Recipe,
    bind,
    default_name,
    is_registered,
    register_recomputation,
)

__all__ = [
    "CallRecipe",
    "Edit",
    "Engine",
    "KindRecipe",
    "Look",
    "Node",
    "Outcome",
    "Past",
    "Recipe",
    "Why",
    "bind",
    "declare_again",
    "default_name",
    "is_registered",
    "register_recomputation",
    "status",
    "tell_stale",
    "why",
]
