"""Who depends on whom: edges, cycles, orders. Nothing here recurses, so depth has no limit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Sequence

from mmsb_torch.errors import CycleDetectedError
from mmsb_torch.graph.node import Check, Cone, Node
from mmsb_torch.runtime.state import Entry

_LARGEST_CONE = 64
_ORDERS_KEPT = 32
_LONGEST_KEPT = 4096


class Topology:
    """The derived pages of one memory and their edges.

    `version` moves when an existing page gets other inputs or other code; cones and orders made
    before are then made anew. Thread safety: edges change under `lock`; readers see each node's
    inputs as one tuple.
    """

    def __init__(self, is_right: Callable[[Node], bool]) -> None:
        self.lock = threading.RLock()
        self.version = 0
        self.nodes: dict[int, Node] = {}
        self._is_right = is_right
        self._orders: dict[tuple[int, ...], tuple[int, list[Node]]] = {}

    def add(self, node: Node) -> None:
        """Enter a new derived page. It has no dependants yet, so no cycle can arise."""
        with self.lock:
            for entry in node.inputs:
                entry.watched = True
            self.nodes[node.id] = node

    def connect(self, node: Node, inputs: Sequence[Entry]) -> None:
        """Replace the inputs of `node`.

        Raises:
            CycleDetectedError: an input depends on `node`; the message has the path.
        """
        with self.lock:
            for entry in inputs:
                self.check_acyclic(node, entry)
                entry.watched = True
            node.inputs = tuple(inputs)
            self.version += 1

    def note_read(self, node: Node, entry: Entry) -> None:
        """Note that the recipe of `node`, which is running, reads `entry`.

        Raises:
            CycleDetectedError: `entry` depends on `node`; the message has the path.
        """
        if entry in node.declared:
            return
        with self.lock:
            if entry not in node.inputs:
                self.check_acyclic(node, entry)
                entry.watched = True
                node.inputs = (*node.inputs, entry)
                self.version += 1
            if node.flight is not None:
                node.flight.reads.add(entry)

    def doubt(self, entry: Entry) -> None:
        """Let every page that read `entry` be computed again: its value may not be what it was."""
        with self.lock:
            for node in self.nodes.values():
                if entry in node.inputs:
                    node.seen = ()
            self.version += 1

    def doubt_page(self, node: Node) -> None:
        """Let a page be computed again: its value may not be right."""
        with self.lock:
            node.seen = ()
            self.version += 1

    def check_acyclic(self, node: Node, entry: Entry) -> None:
        """Raise CycleDetectedError if `entry` is `node`'s page or depends on it. Lock held.

        What a recipe was seen to read the last time, for a value that is no longer right, binds
        nobody: such edges on the way are forgotten, and made again when that recipe runs.
        """
        while True:
            path = self._path(node, entry)
            if path is None:
                return
            loose = [above for above, read in path if not self._binds(above, read)]
            if not loose:
                raise CycleDetectedError(_said(node, path), page_id=node.id)
            for above in loose:
                reads = above.flight.reads if above.flight is not None else ()
                above.inputs = tuple(dict.fromkeys((*above.declared, *reads)))
            self.version += 1

    def _binds(self, node: Node, read: Entry) -> bool:
        if read in node.declared:
            return True
        if node.flight is not None:
            return read in node.flight.reads
        return self._is_right(node)

    def _path(self, node: Node, entry: Entry) -> list[tuple[Node, Entry]] | None:
        """Who reads whom from `entry` up to `node`'s page; None if that leads nowhere."""
        if entry.info.id == node.id:
            return []
        came_from: dict[int, tuple[Node, Entry]] = {}
        waiting = [entry]
        while waiting:
            reader = self.nodes.get(waiting.pop().info.id)
            for parent in reader.inputs if reader is not None else ():
                if reader is None or parent.info.id in came_from:
                    continue
                came_from[parent.info.id] = (reader, parent)
                if parent.info.id == node.id:
                    return _walked(came_from, entry, parent)
                waiting.append(parent)
        return None

    def order(self, targets: Sequence[Node], known: Container[int] = ()) -> list[Node]:
        """`targets` and every derived page they depend on, inputs first; do not write to it.

        Pages in `known`, and what is behind those alone, are left out.
        """
        if known:
            return self._sorted(targets, lambda node: node.inputs, known)
        key = tuple(node.id for node in targets)
        kept = self._orders.get(key)
        if kept is not None and kept[0] == self.version:
            return kept[1]
        version = self.version
        order = self._sorted(targets, lambda node: node.inputs)
        if len(order) <= _LONGEST_KEPT and len(key) <= _LARGEST_CONE:
            if len(self._orders) >= _ORDERS_KEPT:
                self._orders.clear()
            self._orders[key] = (version, order)
        return order

    def declared_order(self, node: Node, known: Container[int] = ()) -> list[Node]:
        """As `order`, by the inputs of declarations alone."""
        return self._sorted([node], lambda item: item.declared, known)

    def _sorted(
        self,
        targets: Iterable[Node],
        inputs_of: Callable[[Node], tuple[Entry, ...]],
        known: Container[int] = (),
    ) -> list[Node]:
        nodes = self.nodes
        order: list[Node] = []
        done: set[int] = set()
        for target in targets:
            stack: list[tuple[Node, int]] = [(target, 0)]
            while stack:
                node, position = stack.pop()
                if node.id in done or node.id in known:
                    continue
                inputs = inputs_of(node)
                while position < len(inputs):
                    above = nodes.get(inputs[position].info.id)
                    position += 1
                    if above is not None and above.id not in done and above.id not in known:
                        stack.append((node, position))
                        stack.append((above, 0))
                        break
                else:
                    done.add(node.id)
                    order.append(node)
        return order

    def dependants(self) -> dict[int, list[Node]]:
        """Page id -> the derived pages that read it, in order of their ids."""
        below: dict[int, list[Node]] = {}
        for _, node in sorted(self.nodes.copy().items()):
            for entry in dict.fromkeys(node.inputs):
                below.setdefault(entry.info.id, []).append(node)
        return below

    def downstream(self, pages: Iterable[int]) -> list[Node]:
        """Every derived page that depends on one of `pages`, near ones first."""
        below = self.dependants()
        found: dict[int, Node] = {}
        waiting = list(pages)
        for page in waiting:
            for node in below.get(page, ()):
                if node.id not in found:
                    found[node.id] = node
                    waiting.append(node.id)
        return list(found.values())

    def cone(self, node: Node, version: int) -> Cone | None:
        """Roots and code checks of `node`, from those of its inputs; None if there are many.

        The inputs' cones must be up to date: call it in topological order.
        """
        roots: dict[int, Entry] = {}
        checks: dict[int, Check] = {}
        if node.recipe is not None:
            if node.recipe.untracked or node.peeked:  # runs at every read: no quick check may pass
                return None
            changed = node.recipe.changed
            checks[id(getattr(changed, "__self__", changed))] = changed
        for entry in node.inputs:
            above = self.nodes.get(entry.info.id)
            if above is None:
                roots[entry.info.id] = entry
            elif above.cone is None or above.topology != version:
                return None
            else:
                roots.update((root.info.id, root) for root in above.cone.roots)
                checks.update((id(getattr(c, "__self__", c)), c) for c in above.cone.checks)
            if len(roots) > _LARGEST_CONE or len(checks) > _LARGEST_CONE:
                return None
        return Cone(tuple(roots.values()), tuple(checks.values()))


def _walked(
    came_from: dict[int, tuple[Node, Entry]], first: Entry, last: Entry
) -> list[tuple[Node, Entry]]:
    path = []
    page = last.info.id
    while page != first.info.id:
        edge = came_from[page]
        path.append(edge)
        page = edge[0].id
    return path


def _said(node: Node, path: list[tuple[Node, Entry]]) -> str:
    # the path was walked from the page that was asked for up to its inputs
    names = [node.name, *(reader.name for reader, _ in path), node.name]
    chain = " -> ".join(map(repr, names))
    return (
        f"page {node.name!r} would depend on itself: {chain}. "
        "A derived page can only read pages that do not need it; break the loop."
    )
