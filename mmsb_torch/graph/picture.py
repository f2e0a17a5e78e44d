"""The graph of pages as one self-contained SVG: boxes, curves, legend; for light and for dark.

No script, no font file and no ids, so that many pictures can stand in one notebook. Every state
is told by colour, by a sign, by the border and by its word. Style rules are scoped to
`.mmsb-graph`, because a notebook puts the picture into its own page.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from mmsb_torch.graph.layout import (
    Layout,
    Link,
    Measure,
    Neighbours,
    Point,
    components,
    layout,
    shelves,
)
from mmsb_torch.pictures.palette import SIGNS, STYLE
from mmsb_torch.pictures.words import percentage, shown

_MARGIN = 20.0
_PAD = 12.0  # between a box and its text
_NARROWEST, _WIDEST = 136.0, 240.0  # boxes
_COMFORTABLE = 1320.0  # a picture that is wider runs from top to bottom, if that is narrower
_ARROW = 7.0


@dataclass(frozen=True, slots=True)
class Node:
    """What a box shows: one page, as plain data."""

    id: int
    name: str
    kind: str
    """`"page"` (a root) or `"derived"`."""
    dtype: str
    shape: tuple[int, ...] | None
    """None: not computed yet."""
    epoch: int
    status: str
    """`"root"`, `"fresh"`, `"stale"`, `"error"`, `"unbound"`, or `"new"` (never computed)."""
    detail: str = ""
    """A few words more, such as `"recomputed in 12.3 ms"`."""
    heat: float = 0.0
    """Share of the page that changed since the last checkpoint, 0 to 1."""
    caption: str = ""
    """In place of "epoch 3, fresh", for what has no epochs."""

    @property
    def spec(self) -> str:
        """Data type and shape, such as `float32[2000, 384]`."""
        if self.shape is None:
            return f"{self.dtype}, not computed" if self.dtype else "not computed"
        return f"{self.dtype}{list(self.shape)}"

    def state(self, joint: str) -> str:
        """The caption, or epoch and status with `joint` between them."""
        return self.caption or f"epoch {self.epoch:,}{joint}{self.status}"


def share(node: Node) -> float:
    """The heat of a page within 0 to 1; 0 for what is no share."""
    return min(node.heat, 1.0) if node.heat > 0 else 0.0  # False for NaN too


def svg(
    nodes: Sequence[Node], inputs: Neighbours, outputs: Neighbours, heading: str, footnote: str
) -> str:
    """The picture.

    Args:
        nodes: what to draw, in topological order.
        inputs: for each id, the ids it is computed from; all of them are drawn.
        outputs: the same edges the other way round.
        heading: a line above the graph.
        footnote: a line below it; nothing if empty.
    """
    return _Picture(nodes, inputs, outputs).text(heading, footnote)


class _Picture:
    def __init__(self, nodes: Sequence[Node], inputs: Neighbours, outputs: Neighbours) -> None:
        self.nodes = {node.id: node for node in nodes}
        self.inputs, self.outputs = inputs, outputs
        self.has_detail = any(node.detail for node in nodes)
        self.has_heat = any(share(node) for node in nodes)
        self.wide = min(max(map(_needed, nodes), default=0.0), _WIDEST)
        self.wide = max(self.wide, _NARROWEST)
        self.high = 64.0 + 15 * self.has_detail + 8 * self.has_heat
        self.down, self.parts = self._oriented()

    def _oriented(self) -> tuple[bool, list[Layout]]:
        parts = components(list(self.nodes), self.inputs, self.outputs)
        right = self._layouts(parts, Measure(self.wide, self.high, 16, 52, 150))
        widest = max((part.length for part in right), default=0.0)
        if widest <= _COMFORTABLE:
            return False, right
        down = self._layouts(parts, Measure(self.high, self.wide, 26, 30, 110))
        if max(part.breadth for part in down) < widest:
            return True, down
        return False, right

    def _layouts(self, parts: Iterable[Sequence[int]], size: Measure) -> list[Layout]:
        return [layout(part, self.inputs, self.outputs, size) for part in parts]

    def text(self, heading: str, footnote: str) -> str:
        sizes = [self._turned((part.length, part.breadth)) for part in self.parts]
        corners = self._corners(sizes)
        zipped = list(zip(corners, sizes, strict=True))
        inner = max((x + wide for (x, _), (wide, _) in zipped), default=0.0)
        inner = max(inner, _breadth(heading, 13, 0.16), _breadth(footnote, 12), 220.0)
        top = _MARGIN + 32
        bottom = top + max((y + high for (_, y), (_, high) in zipped), default=0.0) + 30
        body = [_text(_MARGIN, _MARGIN + 12, heading, "name")]
        for part, (x, y) in zip(self.parts, corners, strict=True):
            body += [f'<g transform="translate({_n(x + _MARGIN)} {_n(y + top)})">']
            body += [*self._edges(part.links), *self._boxes(part.centres), "</g>"]
        if footnote:
            body.append(_text(_MARGIN, bottom, footnote, "warn"))
            bottom += 26
        legend, bottom = self._legend(inner, bottom)
        wide, high = _n(inner + 2 * _MARGIN), _n(bottom + _MARGIN - 8)
        fitting = "100%" if inner <= _COMFORTABLE else "none"
        frame = f'<rect class="panel" x=".5" y=".5" width="{_n(inner + 2 * _MARGIN - 1)}" '
        frame += f'height="{_n(bottom + _MARGIN - 9)}" rx="10"/>'
        opening = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="mmsb-graph" role="img" '
            f'aria-label="{_attribute(heading)}" width="{wide}" height="{high}" '
            f'viewBox="0 0 {wide} {high}" style="max-width:{fitting};height:auto">'
        )
        return "\n".join([opening, STYLE, frame, *body, *legend, "</svg>\n"])

    def _corners(self, sizes: Sequence[Point]) -> list[Point]:
        """Connected parts side by side, and the lone boxes below them."""
        widest = max((wide for wide, _ in sizes), default=0.0)
        room = max(widest, _COMFORTABLE - 2 * _MARGIN)
        joined = sum(len(part.centres) > 1 for part in self.parts)
        corners = shelves(sizes[:joined], 36, room)
        below = max((y + sizes[i][1] + 36 for i, (_, y) in enumerate(corners)), default=0.0)
        return corners + [(x, y + below) for x, y in shelves(sizes[joined:], 22, room)]

    def _turned(self, point: Point) -> Point:
        return (point[1], point[0]) if self.down else point

    def _edges(self, links: Sequence[Link]) -> Iterator[str]:
        """One path for all edges of one page and colour; one arrowhead for each page reached."""
        ways: dict[tuple[int, str], list[str]] = {}
        heads: dict[int, Point] = {}
        for link in links:
            onward = self.outputs[link.source] if link.target is None else (link.target,)
            late = all(self._late(link.source, target) for target in onward)
            end = link.end
            if link.target is not None:
                heads[link.target] = end
                end = (end[0] - _ARROW + 1, end[1])
            ways.setdefault((link.source, "stale" if late else ""), []).append(
                self._curve(link.start, end)
            )
        # Late ones last: they are on top where edges meet.
        for (_, late_class), pieces in sorted(ways.items(), key=lambda way: way[0][1]):
            yield f'<path class="way {late_class}" d="{"".join(pieces)}"/>'
        for target, end in heads.items():
            status = "stale" if self.nodes[target].status == "stale" else ""
            corners = [end, (end[0] - _ARROW, end[1] - 4), (end[0] - _ARROW, end[1] + 4)]
            points = "L".join(_p(self._turned(corner)) for corner in corners)
            yield f'<path class="tip {status}" d="M{points}z"/>'

    def _late(self, source: int, target: int) -> bool:
        """Whether the target may be stale because of this source: that way is highlighted."""
        if self.nodes[target].status != "stale":
            return False
        stale = [number for number in self.inputs[target] if self.nodes[number].status == "stale"]
        return not stale or source in stale

    def _curve(self, start: Point, end: Point) -> str:
        if abs(start[1] - end[1]) < 0.5:
            return f"M{_p(self._turned(start))}L{_p(self._turned(end))}"
        middle = (start[0] + end[0]) / 2
        points = (start, (middle, start[1]), (middle, end[1]), end)
        first, *others = (_p(self._turned(point)) for point in points)
        return f"M{first}C{' '.join(others)}"

    def _boxes(self, centres: Mapping[int, Point]) -> Iterator[str]:
        for number, centre in centres.items():
            x, y = self._turned(centre)
            yield from self._box(self.nodes[number], x - self.wide / 2, y - self.high / 2)

    def _box(self, node: Node, x: float, y: float) -> Iterator[str]:
        wide, changed = self.wide, share(node)
        corner = 3 if node.kind == "page" else 13
        room = wide - 2 * _PAD
        yield f'<g class="{_class(node)}" transform="translate({_n(x)} {_n(y)})">'
        yield f"<title>{_safe(_tooltip(node, [self.nodes[i].name for i in self.inputs[node.id]]))}</title>"
        yield f'<rect class="box" width="{_n(wide)}" height="{_n(self.high)}" rx="{corner}"/>'
        yield _text(_PAD, 21, _fitted(shown(node.name), room - 20, 13, 0.16), "name")
        yield _badge(wide - 17, 16.5, node.status)
        yield _text(_PAD, 38, _cut(shown(node.spec), int(room / 6.65)), "mono")
        percent = percentage(changed) if changed else ""
        state = shown(node.state(" · "))
        yield _text(_PAD, 54, _cut(state, int(room / 5.6) - len(percent)), "soft")
        if changed:
            yield _text(wide - _PAD, 54, percent, "hot end")
            strip = f'x="{_n(_PAD)}" y="{_n(self.high - 10)}" height="4" rx="2"'
            yield f'<rect class="track" {strip} width="{_n(room)}"/>'
            yield f'<rect class="heat" {strip} width="{_n(max(room * changed, 4))}"/>'
        if node.detail:
            yield _text(_PAD, 69, _fitted(shown(node.detail), room, 11), "soft")
        yield "</g>"

    def _legend(self, inner: float, y: float) -> tuple[list[str], float]:
        known = [status for status in SIGNS if status]
        there = {node.status for node in self.nodes.values()}
        words = [status for status in known if status in there]
        x, parts = _MARGIN, []
        for word in [*words, "changed since the checkpoint"][: len(words) + self.has_heat]:
            length = 24 + _breadth(word, 11) + 18
            if x > _MARGIN and x + length > _MARGIN + inner + 18:
                x, y = _MARGIN, y + 22
            parts.append(f'<g class="{word if word in SIGNS else "root"}">')
            if word in SIGNS:
                parts.append(_badge(x + 8, y - 4, word))
            else:
                parts.append(
                    f'<rect class="heat" x="{_n(x)}" y="{_n(y - 6)}" width="16" height="4" rx="2"/>'
                )
            parts += [_text(x + 23, y, word, "soft"), "</g>"]
            x += length
        return parts, y


def _badge(x: float, y: float, status: str) -> str:
    sign = SIGNS.get(status, SIGNS[""])
    return (
        f'<g transform="translate({_n(x)} {_n(y)})"><circle class="disc" r="8"/>'
        f'<path class="sign" d="{sign}"/></g>'
    )


def _class(node: Node) -> str:
    return node.status if node.status in SIGNS and node.status else "new"


def _tooltip(node: Node, inputs: Sequence[str]) -> str:
    lines = [node.name, f"{node.kind}, {node.spec}", node.state(", ")]
    lines += [node.detail] if node.detail else []
    lines += [f"changed since the checkpoint: {share(node):.1%}"] if share(node) else []
    lines += [f"computed from {', '.join(map(shown, inputs))}"] if inputs else []
    return "\n".join(map(shown, lines))


def _needed(node: Node) -> float:
    state = node.state(" · ") + ("  100%" if share(node) else "")
    widths = (
        _breadth(shown(node.name), 13, 0.16) + 22,
        len(node.spec) * 6.65,
        _breadth(state, 11),
        _breadth(shown(node.detail), 11),
    )
    return max(widths) + 2 * _PAD + 1


def _breadth(text: str, size: float, bold: float = 0.0) -> float:
    """About how wide a sans-serif text is, on the safe side, in pixels."""
    return size * sum(_em(character) * (1 + bold) for character in text)


def _em(character: str) -> float:
    if character in " .,:;|!'`ijlIft()[]":
        return 0.36
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    return 0.88 if character in "mwMW@%&<>=+" else 0.7 if character.isupper() else 0.6


def _fitted(text: str, room: float, size: float, bold: float = 0.0) -> str:
    """Text with its middle left out where it is too long: names differ at both ends."""
    if _breadth(text, size, bold) <= room:
        return text
    keep, shorter = min(len(text), int(room / (0.36 * size))), text
    while keep > 2 and _breadth(shorter, size, bold) > room:
        keep -= 1
        shorter = f"{text[: keep - keep // 2]}…{text[len(text) - keep // 2 :]}"
    return shorter


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text class="{style}" x="{_n(x)}" y="{_n(y)}">{_safe(text)}</text>'


def _safe(text: str) -> str:
    return escape(text, quote=False)


def _attribute(text: str) -> str:
    return escape(shown(text))


def _p(point: Point) -> str:
    return f"{_n(point[0])} {_n(point[1])}"


def _n(value: float) -> str:
    return f"{round(value, 1):g}"
