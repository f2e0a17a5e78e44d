"""What is known of a graph for all edits: its sites, and which values no input bears on."""

from __future__ import annotations

import math

import torch

from .boxes import Site
from .calls import Graph, Ref, Size
from .families.factory import factories
from .rule import tensor_shapes
from .table import rule_for


class Skeleton:
    """A graph seen at one number of rows.

    Attributes:
        sites: its calls that the result needs, in order.
        fixed: constants, what is computed from those alone, what is made from sizes, and `masks`.
        still: those and whatever else no input's values bear on.
        masks: masks of attention that depend on sizes only, with what they are computed from.
        values: how many values there are.
        rows: the number that its sizes are seen at. Links hold for all others if it is a prime
            that no other size has as a factor.
    """

    def __init__(self, graph: Graph, rows: int, device: torch.device) -> None:
        self.graph = graph
        self.rows = rows
        self.device = device
        self.values = graph.first + len(graph.calls)
        needed = _needed(graph)
        self.sites = [
            Site(graph, at, None if at.call.op in factories else rule_for(at.call.op))
            for at in graph.at(rows)
            if at.call.value in needed
        ]
        inputs = len(graph.inputs)
        fixed = set(range(inputs, graph.first))
        for site in self.sites:
            call = site.call
            if call.op in factories or (
                not call.grows
                and not call.sized
                and all(value in fixed and not _grows(graph, value) for value in call.tensors)
            ):
                fixed.add(call.value)
        self._by_value = {site.call.value: site for site in self.sites}
        self.still = self._still()
        self.masks = self._masks()
        self.fixed = frozenset(fixed | self._behind(self.masks))

    def _still(self) -> frozenset[int]:
        still = set(range(len(self.graph.inputs), self.graph.first))
        for site in self.sites:
            if site.call.op in factories or all(value in still for value in site.call.tensors):
                still.add(site.call.value)
        return frozenset(still)

    def _masks(self) -> frozenset[int]:
        """Square masks that no input's values bear on."""
        found = set()
        for site in self.sites:
            mask = site.call.args.get("attn_mask")
            if (
                isinstance(mask, Ref)
                and mask.value in self.still
                and not site.at.arg("is_causal", False)
            ):
                length, keys = site.at.shapes["query"][-2], site.at.shapes["key"][-2]
                if site.at.shapes["attn_mask"][-2:] == (length, keys) and length == keys:
                    found.add(mask.value)
        return frozenset(found)

    def _behind(self, values: frozenset[int]) -> set[int]:
        """The calls that these are computed from, and these."""
        found = set(values)
        for site in reversed(self.sites):
            if site.call.value in found:
                found.update(value for value in site.call.tensors if value in self._by_value)
        return found

    def larger(self, site: Site) -> bool:
        """Whether a value only repeats a smaller one, which can be kept in its place."""
        elements = math.prod(site.at.shape)
        while site.rule is not None and site.rule.moves:
            (source, *_), (shape, *_) = site.call.tensors, tensor_shapes(site.at)
            if math.prod(shape) < elements or source in self.fixed:
                return True
            if source not in self._by_value:
                return True  # an input, which is at hand
            site = self._by_value[source]
        return False


def _grows(graph: Graph, value: int) -> bool:
    return any(isinstance(size, Size) for size in graph.shape(value))


def _needed(graph: Graph) -> set[int]:
    found = {graph.output}
    for call in reversed(graph.calls):
        if call.value in found:
            found.update(call.tensors)
    return found
