"""Why a page has the value it has: which edits, through which pages, what was done, at what cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from mmsb_torch.graph.engine import Engine
from mmsb_torch.graph.look import Look
from mmsb_torch.graph.node import Node
from mmsb_torch.graph.worlds import note_recipe, note_settings, settings_mark
from mmsb_torch.instrumentation.code import World
from mmsb_torch.instrumentation.context import settings
from mmsb_torch.runtime.state import Entry

_DEEPEST = 20  # levels of indentation
_NEXT = {"new": "to be computed at the next read", "unbound": "its recipe is not declared"}
_PHRASES = {
    "computed": ("computed for the first time", ""),
    "unchanged": ("recomputed", ", equal to before: what depends on it is cut off"),
    "cut off": ("cut off, not recomputed: no bit of its inputs changed", ""),
    "attached": ("its stored value was kept: declared again with equal code", ""),
    "failed": ("its recipe failed", ""),
}


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of a page by somebody, not by a recipe."""

    page: str
    tx: int
    epoch: int
    label: str | None
    region: str
    source: str

    def __str__(self) -> str:
        label = f" ({self.label!r})" if self.label else ""
        done = {"create": "created", "restore": "restored", "load": "loaded"}
        return f"{self.page!r} {done.get(self.source, 'edited')} in transaction {self.tx}{label}: {self.region}"


@dataclass(frozen=True, slots=True, eq=False)
class Why:
    """The answer of `mem.why(page)`: print it, or use its fields (`as_dict`)."""

    page: str
    status: str
    """"root", "fresh", "stale", "failed", "new" (never computed) or "unbound" (no recipe yet)."""
    what: str
    """What was last done ("computed", "recomputed", "unchanged", "cut off", "attached",
    "failed"), or what the next read would do."""
    reason: str | None
    """What changed in the code, or what went wrong."""
    edits: tuple[Edit, ...]
    """The edits behind it, newest first."""
    through: tuple[Why, ...] = ()
    """The same for the derived pages between the edits and this page."""
    seconds: float = 0.0
    """What computing the value took."""
    rows: str | None = None
    """What differs from the value before."""
    inputs: tuple[str, ...] = field(default=())
    world: int | None = None
    """The world in which the value was computed; None if there is none."""
    since: tuple[World, ...] = ()
    """What changed since then in what it depends on beside its inputs."""
    engine: str = "full"
    """How it was last computed: "full", or "slice": its function ran on the changed rows only."""
    computed_rows: int = 0
    """How many rows changed behind it, if it was computed by rows."""
    saved: float = 0.0
    """Seconds less than a run in full takes."""
    in_full: str | None = None
    """Why it was computed in full, if rows could have done or were asked for."""

    def as_dict(self) -> dict[str, Any]:
        """The answer as plain data: `through` names pages that `behind` describes."""
        plain = self._fields()
        plain["behind"] = {page.page: page._fields() for page in self._behind()}
        return plain

    def _fields(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__slots__}
        plain["edits"] = [asdict(edit) for edit in self.edits]
        plain["inputs"] = list(self.inputs)
        plain["through"] = [page.page for page in self.through]
        plain["since"] = [world._asdict() for world in self.since]
        return plain

    def _behind(self) -> list[Why]:
        found: dict[str, Why] = {}
        waiting = list(self.through)
        while waiting:
            page = waiting.pop()
            if page.page not in found:
                found[page.page] = page
                waiting += page.through
        return list(found.values())

    def __str__(self) -> str:
        lines: list[str] = []
        told: set[str] = set()
        waiting: list[tuple[Why, int]] = [(self, 0)]
        while waiting:
            page, depth = waiting.pop()
            indent = "  " * min(depth, _DEEPEST)
            if page.page in told:
                lines.append(f"{indent}{page.page!r}: see above")
                continue
            told.add(page.page)
            lines += page._lines(indent)  # noqa: SLF001
            waiting += [(via, depth + 1) for via in reversed(page.through)]
        return "\n".join(lines)

    def _lines(self, indent: str) -> list[str]:
        cost = f" in {self.seconds * 1e3:.2f} ms" if self.seconds else ""
        cost += f" in world {self.world}" if self.seconds and self.world else ""
        rows = f", changed {self.rows}" if self.rows and self.what != "unchanged" else ""
        before, after = _PHRASES.get(self.what, (self.what, ""))
        lines = [f"{indent}{self.page!r} is {self.status}: {before}{cost}{rows}{after}"]
        if self.engine != "full":
            saved = f", {self.saved * 1e3:.2f} ms saved" if self.saved else ""
            lines.append(f"{indent}  by {self.engine}: {self.computed_rows:,} rows{saved}")
        elif self.in_full:
            lines.append(f"{indent}  in full: {self.in_full}")
        if self.reason:
            lines.append(f"{indent}  because {self.reason}")
        if self.since:
            changes = "; ".join(f"{w.change} in world {w.number}" for w in self.since[-3:])
            lines.append(f"{indent}  computed in world {self.world}; since then {changes}")
        lines += [f"{indent}  because {edit}" for edit in self.edits]
        return lines

    def __repr__(self) -> str:
        return str(self)


def why(engine: Engine, entry: Entry) -> Why:
    """Explain one page and, below it, the derived pages it was computed through."""
    told: dict[int, Why] = {}
    node = engine.topology.nodes.get(entry.info.id)
    if node is None:
        edits = _edits(engine, entry, 0)[:3]
        return Why(
            entry.info.name, "root", f"a page of your own at epoch {entry.epoch}", None, edits
        )
    look = Look(engine)
    for item in engine.topology.order([node]):
        told[item.id] = _explain(look, item, told)
    return told[node.id]


def status(look: Look, node: Node) -> str:
    """One word for how a derived page stands at the moment of `look`."""
    if node.error is not None:
        return "failed"
    if node.entry.tensor is None:
        return "new" if node.recipe is not None else "unbound"
    if look.is_right(node):
        return "fresh"
    return "stale" if node.recipe is not None else "unbound"


def _explain(look: Look, node: Node, told: dict[int, Why]) -> Why:
    engine, state = look.engine, status(look, node)
    outcome = node.outcome
    before = dict(zip(node.inputs, node.seen, strict=False))
    untracked = node.recipe.untracked if node.recipe is not None else ()
    moving = node.seen != tuple(entry.content for entry in node.inputs)
    how: tuple[str, int, float, str | None] = ("full", 0, 0.0, None)
    if outcome is not None and (state in {"fresh", "failed"} or (untracked and not moving)):
        what, reason, seconds = outcome.what, outcome.reason, outcome.seconds
        how = (outcome.engine, outcome.rows, outcome.saved, outcome.in_full)
        rows = str(outcome.region) if outcome.region is not None else None
        moved = outcome.moved() if state != "failed" else _pending(node)
    else:
        what, seconds, rows = _NEXT.get(state, "to be recomputed at the next read"), 0.0, None
        reason = look.code_change(node) if not untracked else None
        moved = _pending(node)
    if untracked and reason is None:
        reason = f"it refers to {untracked[0]}, which cannot be watched: it runs at every read"
    edits: list[Edit] = []
    through: list[Why] = []
    for entry in dict.fromkeys(node.inputs):
        above = told.get(entry.info.id)
        if above is not None:
            if (
                entry.info.name in moved
                or above.status != "fresh"
                or (what == "cut off" and above.what in {"cut off", "unchanged"})
            ):
                through.append(above)
        elif entry.info.name in moved:
            edits += _edits(engine, entry, moved[entry.info.name])
        elif what == "cut off":
            edits += [
                e for e in _edits(engine, entry, before.get(entry, 0)) if e.source != "create"
            ]
    inputs = tuple(entry.info.name for entry in node.inputs)
    world = node.world if node.entry.tensor is not None else None
    since = _since(engine, node) if world is not None and state == "stale" else ()
    about = (tuple(edits), tuple(through), seconds, rows, inputs, world, since, *how)
    return Why(node.name, state, what, reason, *about)


def _since(engine: Engine, node: Node) -> tuple[World, ...]:
    """What changed in a page's code since its value was computed; what nobody saw yet is noted."""
    recipe = node.recipe
    if recipe is None:
        return ()
    change = recipe.changed()
    if change is not None:
        note_recipe(engine.worlds, recipe, recipe.refreshed(), change)
    note_settings(engine.worlds, node.settings, settings())
    then = [node.definition]
    if node.settings != settings():
        then.append(settings_mark(node.settings))
    return engine.worlds.since(node.world, then, recipe.worlds)


def _pending(node: Node) -> dict[str, int]:
    """The inputs that changed since the value was computed: page -> epoch before."""
    before = dict(zip(node.seen_of, node.seen, strict=False))
    return {
        entry.info.name: before.get(entry, -1)
        for entry in node.inputs
        if before.get(entry, -1) != entry.content
    }


def _edits(engine: Engine, entry: Entry, after_epoch: int, most: int = 5) -> tuple[Edit, ...]:
    """The newest edits of a root page that moved it beyond `after_epoch`."""
    log = engine.router.log
    found: list[Edit] = []
    for number in log.of_page(entry.info.id, log.last):
        delta = log[number].delta_of(entry.info.id)
        assert delta is not None
        epoch = delta.base_epoch + 1
        if epoch <= after_epoch and (found or delta.source != "create"):
            break
        region = delta.effect
        found.append(Edit(entry.info.name, number, epoch, log[number].label, region, delta.source))
        if len(found) == most or delta.source == "create":
            break
    return tuple(found)
