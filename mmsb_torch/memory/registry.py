"""What a checkpoint says of the pages beside their tensors, as plain data, and back."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from mmsb_torch.errors import CorruptStoreError
from mmsb_torch.graph import Engine, Look, Node
from mmsb_torch.instrumentation.context import as_plain, from_plain
from mmsb_torch.runtime.state import Entry, Journal, Router
from mmsb_torch.runtime.store import Snapshot
from mmsb_torch.runtime.store.log import About
from mmsb_torch.runtime.store.manifest import Manifest
from mmsb_torch.types import PageInfo, Spec

_FORMAT = 1


def capture(engine: Engine, since: int | None) -> tuple[Snapshot, dict[int, int]]:
    """The present state for a checkpoint, at one moment, and the epoch of each page in it.

    `since` is the transaction of the checkpoint that the pages' journals go on from, if any.
    """
    router = engine.router
    tensors: dict[str, Tensor] = {}
    pages: list[dict[str, Any]] = []
    unchanged: set[str] = set()
    epochs: dict[int, int] = {}
    with router.table.lock:
        broken = next((entry for entry in router.table if not entry.is_unwritten()), None)
    if broken is not None:
        raise router.repair(broken)
    look, nodes = Look(engine), engine.topology.nodes.copy()
    doubtful = {node.id for node in nodes.values() if not _is_current(look, node)}
    with router.table.lock:
        tx = router.tx
        for entry in router.table:
            node = engine.topology.nodes.get(entry.info.id)
            has_value = entry.tensor is not None
            if has_value:
                tensors[entry.info.name] = entry.alias()
                if entry.epoch == entry.journal.checkpoint:
                    unchanged.add(entry.info.name)
            epochs[entry.info.id] = entry.journal.pending = entry.epoch
            known = has_value and entry.info.id not in doubtful
            pages.append(_page(entry, node, known=known))
    last = router.log.about(tx) if tx else None
    registry = {
        "format": _FORMAT,
        "pages": pages,
        "label": last.label if last is not None else None,
        "step": last.step if last is not None else None,
        "time_ns": last.time_ns if last is not None else 0,
        "worlds": engine.worlds.as_plain(),
    }
    return Snapshot(tx, tensors, registry, frozenset(unchanged), since), epochs


def _is_current(look: Look, node: Node) -> bool:
    """Whether the value is what the page's recipe, as it is now, gave for some inputs."""
    return node.error is None and node.seen_of == node.inputs and look.code_change(node) is None


def _page(entry: Entry, node: Node | None, *, known: bool) -> dict[str, Any]:
    info = entry.info
    page: dict[str, Any] = {
        "id": info.id,
        "name": info.name,
        "epoch": entry.epoch,
        "content": entry.content,
        "tx": entry.tx,
        "created_ns": info.created_ns,
        "device": str(entry.spec.device) if entry.spec is not None else None,
        "metadata": dict(info.metadata),
    }
    if info.rows_made is not None:
        page["rows_made"] = info.rows_made
    if node is not None:
        page["derived"] = {
            "recipe": node.label,
            "kind": node.kind,
            "declared": [item.info.id for item in node.declared],
            "inputs": [item.info.id for item in node.inputs],
            "seen": list(node.seen) if known else [],
            "code": node.code if known else "",
            "settings": as_plain(node.settings) if known else {},
            "as_of": node.as_of if known else -1,
            "world": node.world,
            "definition": node.definition,
        }
    return page


def outline(snapshot: Snapshot | Manifest) -> tuple[About, dict[int, int], dict[int, str]]:
    """The transaction that a checkpoint was made after, and epochs and names of its pages by id.

    Raises:
        CorruptStoreError: its registry does not say.
    """
    fields = snapshot.registry
    try:
        pages = [page for page in fields["pages"] if "derived" not in page]
        about = About(snapshot.tx, fields["label"], fields["step"], fields["time_ns"])
        epochs = {page["id"]: page["epoch"] for page in pages}
        return about, epochs, {page["id"]: page["name"] for page in pages}
    except (KeyError, TypeError) as error:
        raise CorruptStoreError(
            f"the registry of the checkpoint {snapshot.tx} cannot be read: "
            f"{type(error).__name__}: {error}."
        ) from error


def restore_pages(engine: Engine, snapshot: Snapshot, where: str) -> None:
    """Fill an empty memory with a checkpoint's pages. Recipes are unbound until declared again.

    Raises:
        CorruptStoreError: the registry does not fit the tensors.
    """
    try:
        _restore(engine, snapshot)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptStoreError(
            f"the registry of the checkpoint in {where} cannot be read: "
            f"{type(error).__name__}: {error}. Bring a copy of it back."
        ) from error


def _restore(engine: Engine, snapshot: Snapshot) -> None:
    registry = snapshot.registry
    if registry["format"] != _FORMAT:
        raise ValueError(f"registry format {registry['format']}, expected {_FORMAT}")
    router = engine.router
    engine.worlds.fill(registry.get("worlds", {}))  # stores of the first format may have none
    derived: list[tuple[Entry, Mapping[str, Any]]] = []
    for page in registry["pages"]:
        value = snapshot.tensors.get(page["name"])
        entry = _entry(page, value)
        with router.table.lock:
            router.table.add(entry)
        if entry.info.derived:
            derived.append((entry, page["derived"]))
    for entry, stored in derived:
        engine.topology.add(_node(router, entry, stored))
    router.tx = snapshot.tx


def _entry(page: Mapping[str, Any], value: Tensor | None) -> Entry:
    derived = "derived" in page
    if value is None and not derived:
        raise ValueError(f"page {page['name']!r} has no tensor")
    spec = Spec.of(value) if value is not None else None
    info = PageInfo(
        page["id"],
        page["name"],
        None if derived else spec,
        derived,
        MappingProxyType(page["metadata"]),
        page["created_ns"],
        page.get("rows_made"),
    )
    entry = Entry(info)
    entry.spec = spec
    entry.epoch, entry.content, entry.tx = page["epoch"], page["content"], page["tx"]
    entry.journal = Journal(entry.epoch)
    if value is not None:
        entry.put(value.detach(), shared=False)
    return entry


def _node(router: Router, entry: Entry, stored: Mapping[str, Any]) -> Node:
    declared = tuple(router.table.find(page) for page in stored["declared"])
    node = Node(entry, None, declared)
    node.label, node.kind = stored["recipe"], stored["kind"]
    node.inputs = tuple(router.table.find(page) for page in stored["inputs"])
    node.seen, node.seen_of = tuple(stored["seen"]), node.inputs
    node.code, node.settings = stored["code"], from_plain(stored["settings"])
    node.as_of, node.code_changes = stored["as_of"], 0
    node.world, node.definition = stored.get("world", 0), stored.get("definition", "")
    return node
