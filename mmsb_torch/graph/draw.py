"""The dependency graph of pages, to read and to look at: text, Graphviz, SVG.

A `Graph` is made from plain data and knows nothing of the engine; `mem.graph` makes one. It is a
picture of one moment: it does not follow what happens afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from mmsb_torch.errors import (
    CycleDetectedError,
    PageExistsError,
    PageNotFoundError,
    UnsupportedError,
)
from mmsb_torch.graph.layout import reachable, topological
from mmsb_torch.graph.picture import Node, share, svg
from mmsb_torch.pictures.words import percentage, shown

__all__ = ["Graph", "Node"]

_MARKS = {
    "root": "■", "fresh": "✓", "stale": "~", "error": "✗", "unbound": "?", "new": "+",
    "input": "■", "forward": "→", "backward": "←", "optimizer": "↑",
}  # fmt: skip
_DOT_STYLES = {"stale": "dashed", "error": "bold", "unbound": "dotted", "new": "dashed"}
_DOT_COLOURS = {
    "root": "#33608f",
    "fresh": "#1a7f45",
    "stale": "#9a5b00",
    "error": "#c21f2e",
    "unbound": "#7a43b6",
}
_LONGEST_NAME, _LONGEST_SPEC, _NAMED_INPUTS = 40, 32, 4  # in one line of text


class Graph:
    """Pages and what is computed from what; immutable.

    Args:
        nodes: the pages; ids and names are each unique.
        edges: pairs (id of an input, id of the page computed from it). A pair that occurs twice
            counts once; the order is the order in which inputs are named.

    Raises:
        PageExistsError: an id or a name occurs twice.
        PageNotFoundError: an edge begins or ends at no page.
        CycleDetectedError: a page would depend on itself.
    """

    __slots__ = ("_edges", "_ids", "_inputs", "_nodes", "_order", "_outputs")
    noun = "page"

    def __init__(self, nodes: Sequence[Node], edges: Sequence[tuple[int, int]]) -> None:
        self._nodes = {node.id: node for node in nodes}
        self._ids = {node.name: node.id for node in nodes}
        if len(self._nodes) < len(nodes) or len(self._ids) < len(nodes):
            raise PageExistsError(f"graph of {len(nodes)} pages: {_repeated(nodes)} occurs twice")
        self._edges = tuple(dict.fromkeys((source, target) for source, target in edges))
        self._inputs: dict[int, list[int]] = {number: [] for number in self._nodes}
        self._outputs: dict[int, list[int]] = {number: [] for number in self._nodes}
        for source, target in self._edges:
            if source not in self._nodes or target not in self._nodes:
                raise PageNotFoundError(
                    f"graph: the edge from {source} to {target} needs two of its pages",
                    page_id=target if source in self._nodes else source,
                )
            self._inputs[target].append(source)
            self._outputs[source].append(target)
        self._order = topological(self._nodes, self._inputs, self._outputs)
        if len(self._order) < len(self._nodes):
            raise CycleDetectedError(f"graph: a page depends on itself: {self._cycle()}")

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every page, inputs before what is computed from them, else by id."""
        return tuple(self._nodes[number] for number in self._order)

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Pairs (id of an input, id of the page computed from it), each once, as given."""
        return self._edges

    def ancestors(self, name: str) -> list[str]:
        """Names of all pages that `name` is computed from, directly or not, in topological order.

        Raises:
            PageNotFoundError: no page of that name is in the graph.
        """
        return self._named(reachable(self._id(name), self._inputs))

    def descendants(self, name: str) -> list[str]:
        """Names of all pages computed from `name`, directly or not, in topological order.

        Raises:
            PageNotFoundError: no page of that name is in the graph.
        """
        return self._named(reachable(self._id(name), self._outputs))

    def text(self, limit: int = 200) -> str:
        """One line a page, in topological order: name, spec, epoch, status, inputs, detail.

        Args:
            limit: at most so many pages; a last line says how many are left out.
        """
        order = self._order[: max(limit, 0)]
        rows = [self._row(self._nodes[number]) for number in order]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        widths[-1:] = [0] * len(widths[-1:])  # what comes last needs no padding
        lines = [self._summary()]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join(cell for cell in cells if cell).rstrip())
        if len(order) < len(self._order):
            left = len(self._order) - len(order)
            lines.append(f"... and {left:,} more {_plural(left, self.noun)}: text(limit=...)")
        return "\n".join(lines)

    def dot(self) -> str:
        """The whole graph in Graphviz's language."""
        lines = [
            "digraph pages {",
            "  rankdir=LR;",
            '  node [shape=box, fontname="Helvetica", fontsize=11];',
            '  edge [color="#8c959f"];',
        ]
        for node in self.nodes:
            label = "\\n".join(_escaped(part) for part in (node.name, node.spec, node.state(", ")))
            corners = [] if node.kind == "page" else ["rounded"]
            style = ",".join([*corners, _DOT_STYLES.get(node.status, "solid")])
            colour = _DOT_COLOURS.get(node.status, "#59636e")
            lines.append(
                f'  "{node.id}" [label="{label}", style="{style}", color="{colour}", '
                f'tooltip="{_escaped(node.detail or node.name)}"];'
            )
        lines += [f'  "{source}" -> "{target}";' for source, target in self._edges]
        return "\n".join([*lines, "}", ""])

    def svg(self, limit: int = 300) -> str:
        """A picture that needs nothing but itself, for light and dark surroundings.

        Args:
            limit: at most so many pages, the first in topological order; a line in the picture
                says how many are not drawn.
        """
        drawn = self._order[: max(limit, 0)]
        chosen = set(drawn)
        inputs = {number: [i for i in self._inputs[number] if i in chosen] for number in drawn}
        outputs = {number: [i for i in self._outputs[number] if i in chosen] for number in drawn}
        left = len(self._order) - len(drawn)
        note = (
            f"{left:,} more {_plural(left, f'{self.noun} is', f'{self.noun}s are')} not drawn; "
            f"these are the first {len(drawn):,} in topological order."
        )
        nodes = [self._nodes[number] for number in drawn]
        return svg(nodes, inputs, outputs, self._summary(), note if left else "")

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the graph to a file and return its path; the suffix says how.

        Args:
            path: ends in `.svg`, `.dot` or `.txt`; a file that exists is replaced.

        Raises:
            UnsupportedError: another suffix.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".svg":
            content = self.svg()
        elif suffix == ".dot":
            content = self.dot()
        elif suffix == ".txt":
            content = self.text(limit=len(self)) + "\n"
        else:
            raise UnsupportedError(
                f"cannot save a graph as {path.name!r}: expected a name that ends in .svg, .dot "
                f"or .txt, found {path.suffix or 'no suffix'!r}."
            )
        path.write_text(content, encoding="utf-8", newline="\n")
        return path

    def __len__(self) -> int:
        return len(self._nodes)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<Graph {self._summary()}>"

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_html_(self) -> str:
        return f'<div style="overflow:auto">{self.svg()}</div>'

    def _summary(self) -> str:
        statuses = [node.status for node in self._nodes.values()]
        derived = sum(node.kind == "derived" for node in self._nodes.values())
        parts = [
            f"{len(statuses):,} {_plural(len(statuses), 'page')}",
            f"{derived:,} derived",
            f"{len(self._edges):,} {_plural(len(self._edges), 'edge')}",
        ]
        for status in ("stale", "error", "unbound", "new"):
            count = statuses.count(status)
            parts += [f"{count:,} {'in error' if status == 'error' else status}"] if count else []
        return ", ".join(parts)

    def _row(self, node: Node) -> tuple[str, ...]:
        names = [_cut(self._nodes[number].name, _LONGEST_NAME) for number in self._inputs[node.id]]
        if len(names) > _NAMED_INPUTS + 1:
            names[_NAMED_INPUTS:] = [f"{len(names) - _NAMED_INPUTS:,} more"]
        detail = f"({shown(node.detail)})" if node.detail else ""
        return (
            _MARKS.get(node.status, "-"),
            _cut(node.name, _LONGEST_NAME),
            _cut(node.spec, _LONGEST_SPEC),
            *(
                [shown(node.caption)]
                if node.caption
                else [f"epoch {node.epoch:,}", shown(node.status)]
            ),
            f"{percentage(share(node))} changed" if share(node) else "",
            "  ".join(filter(None, (f"<- {', '.join(names)}" if names else "", detail))),
        )

    def _id(self, name: str) -> int:
        if name not in self._ids:
            raise PageNotFoundError(
                f"no {self.noun} {name!r} in this graph of {len(self)} {self.noun}s"
            )
        return self._ids[name]

    def _named(self, chosen: set[int]) -> list[str]:
        return [self._nodes[number].name for number in self._order if number in chosen]

    def _cycle(self) -> str:
        """One cycle, as names in the order of the edges."""
        stuck = set(self._nodes) - set(self._order)
        number = min(stuck)
        way: dict[int, None] = {}
        while number not in way:
            way[number] = None
            number = next(source for source in self._inputs[number] if source in stuck)
        around = list(way)[list(way).index(number) :]
        names = [repr(self._nodes[member].name) for member in (number, *reversed(around))]
        if len(names) > 9:
            names[8:-1] = [f"{len(names) - 9:,} more"]
        return " -> ".join(names)


def _repeated(nodes: Sequence[Node]) -> str:
    ids: set[int] = set()
    names: set[str] = set()
    for node in nodes:
        if node.id in ids or node.name in names:
            return f"{f'the id {node.id}' if node.id in ids else f'the name {node.name!r}'}"
        ids.add(node.id)
        names.add(node.name)
    return "nothing"


def _plural(count: int, one: str, many: str = "") -> str:
    return one if count == 1 else many or f"{one}s"


def _cut(text: str, length: int) -> str:
    text = shown(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _escaped(text: str) -> str:
    # In a label Graphviz reads escapes (\N, \G, \l) and entities of HTML as well.
    text = shown(text).replace("\\", "\\\\").replace('"', '\\"')
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
