"""Rules: which part of its arguments each part of an operator's result depends on.

A rule gives, for every tensor argument and each of its dimensions, a *link*:

- a number d: index i of the result's dimension d needs only index i of this one, and the operator
  on such parts gives that part of its result;
- `MIXED`: what is needed of the result needs all of this dimension;
- a `Link`: something between, by functions on parts.

An operator without a rule is computed in full whenever an argument changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmsb_torch.errors import UnsupportedError

from .calls import Sized

MIXED = None
"""All of this dimension is needed."""


class Link(NamedTuple):
    """How a dimension of an argument bears on dimension `dim` of the result.

    The functions get a part (a range or sorted int64 indices, or None for everything) and the call
    at its sizes, and give a part.
    """

    dim: int | None
    """None: the result has no such dimension."""
    forward: Callable[[Any, Sized], Any]
    """Which indices of the result read this part of the argument."""
    backward: Callable[[Any, Sized], Any]
    """Which indices of the argument this part of the result reads."""
    piece: bool = False
    """The argument is only a piece of the result."""
    appends: bool = False
    """Where the argument grows at its end, the result's other indices stay what they are."""


Dims = Sequence["int | Link | None"]
"""One link for each dimension of a tensor."""
Links = Mapping[str, "Dims | Sequence[Dims]"]
"""By the names of the arguments; lists of dims for lists of tensors. A tensor left out is MIXED."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is known of an operator.

    Attributes:
        links: what each part of the result needs, for a call at its sizes.
        exact: whether a box of the result, computed alone, has the bits of the whole; may be asked for
            a site and a box.
        moves: the result's elements are the argument's, moved or repeated.
        from_sizes: its result may depend on sizes among its arguments by its own shape only.
        spread, need, whole, build: what the links do not say; see `boxes` and `building`.
        shifts: whether more rows move or change what the result had.
    """

    links: Callable[[Sized], Links]
    exact: bool | Callable[[Any, Any], bool] = True
    moves: bool = False
    from_sizes: bool = False
    spread: Callable[[Any, int, Any], Any] | None = None
    """Which box of the result reads a box of the argument of that number."""
    need: Callable[[Any, Any], Any] | None = None
    """Which boxes of the arguments a box of the result reads."""
    whole: Callable[[Any, Any], Any] | None = None
    """The box, larger if it must be, that can be computed."""
    build: Callable[[Any], Any] | None = None
    """How to compute a box; else the operator runs on boxes of its arguments."""
    shifts: Callable[[Any], bool] | None = None
    """Else they do where a link that does not append has a dimension that grows."""


given: dict[Any, Rule] = {}
"""What was registered."""


def register_row_rule(op: Any, rule: Rule | Callable[[Sized], Links]) -> None:
    """Say how an operator's result depends on its arguments, row by row; process-wide.

    A wrong rule makes wrong values. One that was there for `op` gives way.

        register_row_rule(torch.ops.mine.scale.default, lambda at: {"x": (0, MIXED)})

    Args:
        op: an overload, as `torch.ops.mine.scale.default`.
        rule: a `Rule`, or its function `links`: from the call (`at.shape`, `at.shapes["x"]`,
            `at.arg("dim")`) to the links of its tensor arguments by name.

    Raises:
        UnsupportedError: `op` is no overload, or `rule` cannot be called.
    """
    if not hasattr(op, "_schema"):
        raise UnsupportedError(
            f"register_row_rule({op!r}): expected an overload, as torch.ops.mine.scale.default"
        )
    if not isinstance(rule, Rule) and not callable(rule):
        raise UnsupportedError(
            f"register_row_rule({op}): expected a Rule or links(at), got {rule!r}"
        )
    given[op] = rule if isinstance(rule, Rule) else Rule(rule)


def link_list(at: Sized, rule: Rule) -> list[Dims]:
    """The links of every tensor argument of a call, in the order of `call.tensors`."""
    links = rule.links(at)
    found: list[Any] = []
    for (name, place), shape in zip(at.call.places, tensor_shapes(at), strict=True):
        dims: Any = links.get(name)
        if dims is not None and place is not None and not _is_dims(dims):
            dims = dims[len([one for one in at.call.places[: len(found)] if one[0] == name])]
        found.append((MIXED,) * len(shape) if dims is None else _aligned(dims, shape, at.shape))
    return found


def _aligned(dims: Dims, shape: tuple[int, ...], out: tuple[int, ...]) -> Dims:
    """A dimension that is repeated is needed whole, whatever a rule says."""
    return tuple(
        MIXED if isinstance(link, int) and out[link] != size else link
        for link, size in zip(dims, shape, strict=True)
    )


def _is_dims(dims: Any) -> bool:
    return all(isinstance(item, int | Link) or item is None for item in dims)


def tensor_shapes(at: Sized) -> list[tuple[int, ...]]:
    """The shapes of the tensor arguments of a call, in the order of `call.tensors`."""
    seen: dict[str, int] = {}
    found = []
    for name, place in at.call.places:
        if place is None:
            found.append(at.shapes[name])
        else:
            found.append(at.shapes[name][seen.get(name, 0)])
            seen[name] = seen.get(name, 0) + 1
    return found
