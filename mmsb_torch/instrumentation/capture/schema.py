"""What an operation does to its arguments and returns, by its schema and by what schemas leave out.

An operation's `OpClass` is worked out once and kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

_UNDECLARED_WRITES = {
    "aten::native_batch_norm": ("running_mean", "running_var"),
    "aten::cudnn_batch_norm": ("running_mean", "running_var"),
    "aten::miopen_batch_norm": ("running_mean", "running_var"),
}
"""Written while `training`, without saying so."""
_UNDECLARED_VIEWS = {"aten::_unsafe_view"}
"""These share memory without saying so."""
_METADATA = {
    "is_same_size", "dense_dim", "sparse_dim", "dim", "numel", "size", "stride", "storage_offset",
    "sym_numel", "sym_size", "sym_stride", "sym_storage_offset", "is_contiguous", "is_coalesced",
    "is_complex", "is_pinned", "is_strides_like_format", "is_non_overlapping_and_dense",
}  # fmt: skip
"""Operations that return plain values and look at no element."""
_NAMESPACES = ("aten", "prims")
"""What the operations of others do, nobody knows."""
_CARELESS = ("aten::_ctc_loss", "aten::_ctc_loss_backward")
"""Their kernels ask for pointers to write where torch forbids it to memory that is shared lazily."""
_PROBABILITIES = ("dropout_p", "dropout")


class OpClass:
    """One operation: an `OpOverload`, or a higher-order operator (about which little is known).

    Attributes:
        func: the operation itself.
        name: such as "aten.add.Tensor".
        writes: the arguments that it may write: (position, name).
        view: some result shares memory with an argument.
        random: it may draw from a random generator; see `draws`.
        reads: it tells Python something about elements: `.item()`, `torch.equal`.
        dynamic: the shape of its result depends on elements.
        factory: it takes no tensor.
        marker: it computes nothing: a mark for the profiler.
        opaque: a higher-order operator, or one without a schema: replaying it is not possible.
        careless: it fails on memory whose copy-on-write flag is set, and so does its backward.
        pure: its result follows from its arguments and is memory of its own, unless it is random.
    """

    __slots__ = (
        "_probability", "_training", "careless", "dynamic", "factory", "func", "marker", "name", "opaque",
        "pure", "random", "reads", "view", "writes",
    )  # fmt: skip

    def __init__(self, func: Any) -> None:
        self.func = func
        schema = getattr(func, "_schema", None)
        self.opaque = schema is None
        self.marker = schema is not None and schema.name.startswith("profiler::")
        self._probability: tuple[int, str, Any] | None = None
        self._training: tuple[int, str, Any] | None = None
        self.careless = schema is not None and schema.name in _CARELESS
        if schema is None:
            self.name = str(getattr(func, "__name__", func))
            self.writes: tuple[tuple[int, str], ...] = ()
            self.view = self.random = self.reads = self.dynamic = self.factory = self.pure = False
            return
        arguments, returns, tags = schema.arguments, schema.returns, func.tags
        self.name = str(func)
        hidden = _UNDECLARED_WRITES.get(schema.name, ())
        self.writes = tuple(
            (place, argument.name)
            for place, argument in enumerate(arguments)
            if argument.name in hidden
            or (argument.alias_info is not None and argument.alias_info.is_write)
        )
        self.view = schema.name in _UNDECLARED_VIEWS or any(
            r.alias_info is not None and not r.alias_info.is_write for r in returns
        )
        self.random = torch.Tag.nondeterministic_seeded in tags
        self.dynamic = torch.Tag.dynamic_output_shape in tags
        takes = any("Tensor" in str(argument.type) for argument in arguments)
        gives = any("Tensor" in str(item.type) for item in returns)
        plain = bool(returns) and not gives
        self.reads = torch.Tag.data_dependent_output in tags or (
            plain and takes and schema.name.partition("::")[2] not in _METADATA
        )
        self.factory = not takes
        places = {
            argument.name: (place, argument.name, argument.default_value)
            for place, argument in enumerate(arguments)
        }
        if self.random:
            named = next((name for name in _PROBABILITIES if name in places), None)
            self._probability = places[named] if named is not None else None
        flag = next((name for name in ("train", "training") if name in places), None)
        if flag is not None and (self.random or hidden):
            self._training = places[flag]
        self.pure = not (
            self.writes
            or self.view
            or self.reads
            or self.factory
            or self.marker
            or self.careless
            or func.namespace not in _NAMESPACES
            or torch.Tag.nondeterministic_bitwise in tags
            or torch.Tag.maybe_aliasing_or_mutating in tags
        )

    def draws(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether this call takes random numbers: dropout with probability 0 does not."""
        if not self.random:
            return False
        return bool(
            _given(self._probability, args, kwargs) and _given(self._training, args, kwargs)
        )

    def written(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[torch.Tensor]:
        """The tensors that this call writes."""
        if self._training is not None and not _given(self._training, args, kwargs):
            return
        for place, name in self.writes:
            value = args[place] if place < len(args) else kwargs.get(name)
            if isinstance(value, torch.Tensor):
                yield value
            elif isinstance(value, (list, tuple)):
                yield from (item for item in value if isinstance(item, torch.Tensor))

    def __repr__(self) -> str:
        flags = ("view", "random", "reads", "dynamic", "factory", "opaque")
        words = [flag for flag in flags if getattr(self, flag)]
        words += [f"writes {', '.join(name for _, name in self.writes)}"] if self.writes else []
        return f"<OpClass {self.name}: {', '.join(words) or 'pure'}>"


def _given(
    argument: tuple[int, str, Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """What an argument is in a call; True if there is no such argument, or nothing is known."""
    if argument is None:
        return True
    place, name, default = argument
    value = args[place] if place < len(args) else kwargs.get(name, default)
    return True if value is None else value


_known: dict[int, OpClass] = {}


def op_class(func: Any) -> OpClass:
    """The class of an operation."""
    found = _known.get(id(func))  # an operator's own hash takes ten times as long
    if found is None:
        found = _known[id(func)] = OpClass(func)  # which holds it: its id is not used again
    return found
