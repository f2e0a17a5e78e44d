"""A result as tensors and what holds them: tuples, mappings, dataclasses, what torch knows as trees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mmsb_torch.graph.memo.keys import Refused
from mmsb_torch.instrumentation.code.encoding import atom

Build = Callable[[Sequence[Tensor]], Any]
_DEEPEST = 32


class Form:
    """A result taken apart.

    Attributes:
        tensors: each once, in order.
        text: what holds them, for keys.
    """

    def __init__(self, value: Any) -> None:
        """Take a result apart.

        Raises:
            Refused: it holds what cannot be made again, or what others can reach.
        """
        self.tensors: list[Tensor] = []
        self._words: list[str] = []
        self._build = self._take(value, 0)
        self.text = " ".join(self._words)
        memory = [tensor.untyped_storage()._cdata for tensor in self.tensors]  # noqa: SLF001
        if len(set(memory)) < len(memory):
            raise Refused("two tensors of its result share memory")
        if not self.tensors:
            raise Refused("it gives no tensor")

    def let_go(self) -> None:
        """Hold no tensors any more."""
        self.tensors = []

    def build(self, tensors: Sequence[Tensor]) -> Any:
        """The same holding other tensors."""
        return self._build(tensors)

    def _take(self, value: Any, depth: int) -> Build:
        kind = type(value)
        if depth > _DEEPEST:
            raise Refused("its result is nested too deeply")
        if issubclass(kind, Tensor):
            return self._tensor(value)
        if atom(value) is not None and kind not in (tuple, torch.Size):
            self._words.append(repr(value))
            return lambda _: value
        self._words.append(f"{kind.__module__}.{kind.__qualname__}")
        if kind in pytree.SUPPORTED_NODES or pytree.is_namedtuple_instance(value):
            return self._node(value, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._fields(value, depth)
        raise Refused(f"its result holds a {kind.__module__}.{kind.__qualname__}")

    def _tensor(self, value: Tensor) -> Build:
        for number, known in enumerate(self.tensors):
            if known is value:
                self._words.append(f"tensor {number}")
                return lambda tensors: tensors[number]
        _check(value)
        number = len(self.tensors)
        self.tensors.append(value)
        self._words.append(f"tensor {number}")
        return lambda tensors: tensors[number]

    def _node(self, value: Any, depth: int) -> Build:
        """What torch's trees can take apart: its type says how to make it again."""
        kind = pytree._get_node_type(value)  # noqa: SLF001 - no public name for it
        node = pytree.SUPPORTED_NODES[kind]
        children, context = node.flatten_fn(value)
        if not _is_plain(context):
            raise Refused(f"its result holds a {type(value).__qualname__} with more than values")
        self._words.append(f"{len(children)} {context!r}")
        parts = [self._take(child, depth + 1) for child in children]
        return lambda tensors: node.unflatten_fn([part(tensors) for part in parts], context)

    def _fields(self, value: Any, depth: int) -> Build:
        """A dataclass: its fields, without running its __init__."""
        kind, names = type(value), [field.name for field in dataclasses.fields(value)]
        if getattr(value, "__dict__", {}).keys() - set(names):
            raise Refused(f"its result holds a {kind.__qualname__} with more than its fields")
        parts = [(name, self._take(getattr(value, name), depth + 1)) for name in names]

        def build(tensors: Sequence[Tensor]) -> Any:
            made = object.__new__(kind)
            for name, part in parts:
                object.__setattr__(made, name, part(tensors))
            return made

        return build


def _is_plain(context: Any) -> bool:
    if isinstance(context, list | tuple):
        return all(map(_is_plain, context))
    return isinstance(context, type) or atom(context) is not None


def _check(value: Tensor) -> None:
    """Raise Refused for a tensor that could not be told from a new one."""
    if type(value) is not Tensor or value.layout is not torch.strided or not value.is_cpu:
        raise Refused("its result holds a tensor that is not plain, dense and on the CPU")
    if value.requires_grad or value.grad_fn is not None:
        raise Refused("its result carries a gradient")
    if value.is_quantized or value.is_nested or value.is_conj() or value.is_neg() or vars(value):
        raise Refused("its result holds a tensor of a kind that is not kept")
    if value.is_inference() != torch.is_inference_mode_enabled():
        raise Refused("its result was made in another inference mode")
