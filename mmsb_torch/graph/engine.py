"""Values are pulled: a read finds what is stale behind it and recomputes just that.

The engine answers "is it fresh?" by a quick look at a page's roots and code, and begins a `Pull` when
it may not be. A pull looks at one moment of the memory, the last transaction when it begins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmsb_torch.graph.activations import Activations
from mmsb_torch.graph.audit import Audit
from mmsb_torch.graph.failures import Overtaken, Restart, said
from mmsb_torch.graph.flights import Flights
from mmsb_torch.graph.look import Look
from mmsb_torch.graph.node import Node, Outcome
from mmsb_torch.graph.past import Past
from mmsb_torch.graph.plans import Plans
from mmsb_torch.graph.pull import Pull
from mmsb_torch.graph.rerun import check_derived
from mmsb_torch.graph.running import Runner
from mmsb_torch.graph.topology import Topology
from mmsb_torch.instrumentation.code import Worlds
from mmsb_torch.instrumentation.context import GradKept, settings
from mmsb_torch.runtime.state import Entry, Router

_CHASES = 3
"""How often a read follows the newest moment before it takes an older one."""


class Counts:
    """How often the engine did what, since the memory was opened."""

    __slots__ = (
        "cut_off",
        "failed",
        "recomputed",
        "rows",
        "saved",
        "seconds",
        "sliced",
        "stepped",
        "unchanged",
    )

    def __init__(self) -> None:
        self.recomputed = 0
        self.unchanged = 0
        self.cut_off = 0
        self.failed = 0
        self.seconds = 0.0
        self.sliced = 0
        """Of those recomputed: on some rows only."""
        self.stepped = 0
        """Of those recomputed: by a step through their graph."""
        self.rows = 0
        """So many rows, all together."""
        self.saved = 0.0

    def ran(self, outcome: Outcome) -> None:
        """Count a recipe that ran."""
        self.recomputed += 1
        self.unchanged += outcome.what == "unchanged"
        self.seconds += outcome.seconds
        self.sliced += outcome.engine == "slice"
        self.stepped += outcome.engine == "mask"
        self.rows += outcome.rows
        self.saved += outcome.saved


class Engine:
    """Keeps derived pages right, when they are read.

    Thread safety: every method may be called from any thread. One thread computes a page, others
    wait for it; no lock is held while a recipe runs.
    """

    def __init__(self, router: Router, device: torch.device | None = None) -> None:
        self.router = router
        self.topology = Topology(lambda node: Look(self).is_right(node))
        self.runner = Runner(router, device or torch.get_default_device())
        self.flights = Flights(self.topology.lock)
        self.plans = Plans()
        self.activations = Activations()
        self.worlds = Worlds()
        """What changed in the code of pages and memoised functions, for people."""
        self.code_changes = 0
        """How often code changed: quick checks made before no longer count."""
        self.declarations = 0
        """How often a page was declared with code that it did not have before."""
        self.suspects: set[int] = set()
        """Pages whose recipes ran when somebody wrote into what they read."""
        self.counts = Counts()
        self.audit = Audit()

    def read(self, entry: Entry) -> Tensor:
        """The value of any page, for reading: a detached alias.

        It is the value at some moment during the call. Inside a recipe it is that of the recipe's
        moment, and the page becomes its input.

        Raises:
            RecipeError, RecipeNotLoadedError, CycleDetectedError, PageMutatedError.
            WrongHitError: an audit found that it is not what its recipe gives; it is stale now.
        """
        frame = self.runner.frame
        if frame is not None and frame.reader.engine is self:
            return frame.reader.read_inside(frame, entry)
        node = self.topology.nodes.get(entry.info.id)
        if node is None:
            return self.router.read(entry)
        since, chases = self.router.tx, 0
        while True:
            if not self.is_fresh(node, since):
                try:
                    self._pull([node])
                except Overtaken:
                    chases += 1
                    if chases == _CHASES:
                        return Past(self, self.router.tx).value(entry)
                    continue
                except Restart:
                    continue
            elif self.audit.share and self.audit.due(self.audit.share):
                self._check(node)
            value = self.router.read_derived(entry)
            if value is not None:
                return value

    def _check(self, node: Node) -> None:
        """Compute a fresh page again, and raise WrongHitError if it gives something else."""
        what = check_derived(self, node)
        if what:
            raise self.audit.wrong("derived page", repr(node.name), what)
        if what is not None:
            self.audit.compared("derived page")

    def is_fresh(self, node: Node, since: int | None = None) -> bool:
        """Whether the value is known to be right now, by a look at its roots and its code.

        With `since`: right for a moment not before that transaction.
        """
        tx = self.router.tx
        cone = node.cone
        if (
            cone is None
            or node.code_changes != self.code_changes
            or node.topology != self.topology.version
            or node.error is not None
            or node.entry.tensor is None
            or node.settings != settings()
        ):
            return False
        as_of = node.as_of
        behind = as_of < (tx if since is None else since)
        if behind:
            for root in cone.roots:
                if root.tx > as_of:
                    return False
        for check in cone.checks:
            if check() is not None:
                return False
        if behind:
            node.as_of = max(tx, node.as_of)
        return True

    def propagate(self) -> list[Node]:
        """Make every derived page right; returns those whose value changed.

        Raises the first failure, after everything else was computed.
        """
        nodes = [node for _, node in sorted(self.topology.nodes.copy().items())]
        before = {node.id: node.entry.epoch for node in nodes}
        while True:
            try:
                self._pull(nodes, keep_going=True)
            except Restart:
                continue
            return [node for node in nodes if node.entry.epoch != before[node.id]]

    def _pull(self, targets: Sequence[Node], *, keep_going: bool = False) -> None:
        pull = Pull(self)
        try:
            with GradKept(), self.runner.plain():
                pull.settle_all(self.topology.order(targets))
        finally:
            for kind, fields in pull.told:
                self.router.events.emit(kind, fields)
        failed = pull.failed
        if keep_going:
            errors = list(dict.fromkeys(failed.values()))
        else:
            errors = [failed[node.id] for node in targets if node.id in failed][:1]
        for other in errors[1:]:
            errors[0].add_note(f"also failed: {said(other)}")
        if errors:
            raise errors[0]
