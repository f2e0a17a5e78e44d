"""Declaring derived pages: a new one, the same again, or another recipe for one that is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmsb_torch.errors import InvalidRecipeError, PageExistsError
from mmsb_torch.graph import (
    KindRecipe,
    Node,
    Recipe,
    bind,
    declare_again,
    default_name,
    ir_recipe,
    is_registered,
)
from mmsb_torch.memory import graphs, making, watching
from mmsb_torch.memory.page import Page
from mmsb_torch.runtime.state import Entry
from mmsb_torch.types import EventType

if TYPE_CHECKING:
    from mmsb_torch.memory.memory import Memory


def derive(memory: Memory, function: Any = None, /, *args: Any, **options: Any) -> Any:
    """Declare a page that is computed from others, and return it.

    `@mem.derive` on a function whose parameters name pages; `mem.derive(f, page, ..., name=)`
    for any callable or nn.Module, pages (or their names) in the order of its parameters, or by
    keyword; other keywords are constants.

    Options:
        name: the page's; the function's if left out.
        metadata: plain data kept with the page.
        world: what was registered with `register_world` that it depends on, too.
        rows: True if row i of the result depends on row i of the inputs that have as many rows,
            and on nothing else in them; or the names of those inputs. A sample is compared.
            False: always in full. Left out: it is proved from the function's graph, where that
            is possible and promises to save more than it costs.
        exact: make rows apart only where that gives the bits of the whole. Otherwise rows may
            differ from those of the whole by rounding (`mem.why` says so), and what differs by
            no more than that counts as equal.

    The page is computed when it is read, and again only when what it depends on changed:
    its inputs, bit for bit; its code and the helpers, globals and closures it refers to; the
    parameters, buffers, flags and hooks of modules. It runs without grad and autocast, and its
    result is detached. Declaring a name again with equal code keeps its value, with other code
    replaces the recipe.

    Raises:
        InvalidRecipeError, PageNotFoundError, PageExistsError, CycleDetectedError, WorldError.
        NotRowwiseError (when it is read): a sample shows that `rows` is not so.
    """
    return _derived(memory, function, args, options)


def _derived(memory: Memory, function: Any, args: Sequence[Any], options: dict[str, Any]) -> Any:
    memory._router.check_open()  # noqa: SLF001 - one facade
    if function is None:
        if args:
            raise InvalidRecipeError("mem.derive(None, ...): expected a callable first")
        return lambda decorated: _derived(memory, decorated, (), options)
    options = dict(options)
    name = options.pop("name", None)
    name = default_name(function) if name is None else making.check_name(name)
    metadata, world = options.pop("metadata", None), options.pop("world", None)
    rows, exact = options.pop("rows", None), options.pop("exact", False)
    if name is None:
        raise InvalidRecipeError(
            f"{function!r} suggests no page name: pass name=, as in mem.derive(f, page, name='y')"
        )
    if isinstance(function, Page):
        if rows is not None or exact:
            raise InvalidRecipeError("rows= and exact= are for functions: a graph runs in full")
        recipe = watching.in_worlds(memory, graphs.recipe(memory, function, args, options), world)
        return memory._handles.of(declare(memory, name, recipe, metadata))  # noqa: SLF001
    inputs = tuple(memory._handles.entry(page) for page in args)  # noqa: SLF001
    keywords = {
        key: memory._handles.entry(value) if isinstance(value, Page) else value  # noqa: SLF001
        for key, value in options.items()
    }
    table = memory._router.table  # noqa: SLF001
    bound = bind(function, inputs, keywords, table, rows=_named(rows), exact=exact)
    recipe = watching.in_worlds(memory, bound, world)
    return memory._handles.of(declare(memory, name, recipe, metadata))  # noqa: SLF001


def _named(rows: Any) -> Any:
    """`rows=` with names for pages."""
    if isinstance(rows, Page):
        return rows.name
    if isinstance(rows, list | tuple | set | frozenset):
        return [item.name if isinstance(item, Page) else item for item in rows]
    return rows


def of_kind(memory: Memory, name: str, kind: str, metadata: Mapping[str, Any] | None) -> Entry:
    """Make (or bind again) a derived page of a registered kind."""
    if not isinstance(kind, str):
        raise InvalidRecipeError(f"page {name!r}: a kind is a string, found {kind!r}")
    existing = memory._router.table.get(name) if isinstance(name, str) else None  # noqa: SLF001
    if existing is None:
        return _enter(
            memory,
            name,
            metadata,
            lambda e: KindRecipe(kind, memory, memory._handles.unlisted(e)),  # noqa: SLF001
        )
    return declare(memory, name, KindRecipe(kind, memory, memory._handles.of(existing)), metadata)  # noqa: SLF001


def bind_registered_kinds(memory: Memory) -> None:
    """After reopening: bind the pages whose kind is registered here already, or is a graph's."""
    for node in list(memory._engine.topology.nodes.values()):  # noqa: SLF001
        recipe = ir_recipe.of_kind(node.kind, node.declared)
        if recipe is not None:
            declare(memory, node.name, recipe, None)
        elif node.kind is not None and is_registered(node.kind):
            of_kind(memory, node.name, node.kind, None)


def declare(memory: Memory, name: str, recipe: Recipe, metadata: Mapping[str, Any] | None) -> Entry:
    """Give page `name` this recipe, making the page if there is none."""
    existing = memory._router.table.get(name) if isinstance(name, str) else None  # noqa: SLF001
    if existing is None:
        return _enter(memory, name, metadata, lambda _: recipe)
    node = memory._engine.topology.nodes.get(existing.info.id)  # noqa: SLF001
    if node is None:
        raise PageExistsError(
            f"page {name!r} exists and is no derived page: expected an unused name or a derived "
            "page's. Choose another name=.",
            page_id=existing.info.id,
        )
    declare_again(memory._engine, node, recipe)  # noqa: SLF001
    return existing


def _enter(
    memory: Memory,
    name: str,
    metadata: Mapping[str, Any] | None,
    make: Callable[[Entry], Recipe],
) -> Entry:
    """Make a derived page whose recipe `make` gives; it runs no user code."""
    making.check_name(name)
    plain = making.check_metadata(name, metadata)
    router, engine = memory._router, memory._engine  # noqa: SLF001
    with router.creating:
        router.check_open()
        there = router.table.get(name)
        if there is None:
            entry = Entry(making.new_info(router.table.free_id(None, name), name, None, plain))
        else:
            entry = there
        recipe = make(entry)
        if there is None:
            with router.table.lock:
                # first the node: who finds the page finds it derived
                engine.topology.add(Node(entry, recipe, recipe.inputs))
                router.table.add(entry)
            engine.declarations += 1
    if there is not None:  # another thread declared it meanwhile
        return declare(memory, name, recipe, None)
    fields = {"page": name, "inputs": [item.info.name for item in recipe.inputs]}
    router.events.emit(EventType.DERIVED, fields)
    return entry
