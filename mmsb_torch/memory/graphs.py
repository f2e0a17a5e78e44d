"""Pages that hold graphs, and pages that such a graph computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mmsb_torch.device import same_bits
from mmsb_torch.errors import InvalidPageError, InvalidRecipeError
from mmsb_torch.graph import ir_recipe
from mmsb_torch.memory.page import Page

if TYPE_CHECKING:
    from mmsb_torch.instrumentation.capture.ir import IR
    from mmsb_torch.memory.memory import Memory


def ir(
    memory: Memory,
    name: str,
    function: Callable[..., Any] | None = None,
    /,
    *args: Any,
    **kwargs: Any,
) -> Page:
    """A page that holds what a function does as a graph; `mem.derive(page, x, name=)` runs it.

    The graph is captured as it computes with `args` (pages stand for their values; see
    `capture`), constants and weights inside, and is stored as any page: durable, with history. A
    page of that name gets the new graph, and what depends on it is stale then, unless it is equal.

    Args:
        memory: this one.
        name: of the page.
        function: a function, a module, or a graph that was captured before. Without one the page
            of that name is returned.
        args: example arguments; shapes, dtypes and strides of tensors, and all else by value.
        kwargs: keyword arguments and the options of `capture`.

    Raises:
        CaptureError, UnsupportedError: the function cannot be captured.
        InvalidPageError: the page holds no graph, or the graph does not fit into it.
    """
    if memory._router.alert:  # noqa: SLF001 - one facade
        memory._router.attend()  # noqa: SLF001
    existing = memory._router.table.get(name) if isinstance(name, str) else None  # noqa: SLF001 - one facade
    if existing is not None and not ir_recipe.is_ir(existing):
        raise InvalidPageError(
            f"page {name!r} holds no graph: expected one made with mem.ir(name, function, ...)",
            page_id=existing.info.id,
        )
    if function is None:
        return memory.page(name)
    graph = _graph(function, [_value(item) for item in args], kwargs)
    if existing is None:
        return memory.page(
            name, ir_recipe.page_value(graph), device="cpu", metadata=ir_recipe.metadata()
        )
    page = memory.page(name)
    value = ir_recipe.page_value(graph, page.shape[0])
    if not same_bits(page.tensor, value):
        memory.update(page, value)
    return page


def _value(item: Any) -> Any:
    return item.tensor if isinstance(item, Page) else item


def _graph(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> IR:
    from mmsb_torch.instrumentation.capture import export, ir  # noqa: PLC0415 - loads when used

    if isinstance(function, ir.IR):
        return function
    if isinstance(function, export.Captured):
        return function.ir
    return export.capture(function, *args, **{key: _value(item) for key, item in kwargs.items()}).ir


def read(page: Page) -> IR:
    """What `Page.ir` does."""
    from mmsb_torch.instrumentation.capture.ir import IR  # noqa: PLC0415 - as above

    if page.memory._router.alert:  # noqa: SLF001 - one facade
        page.memory._router.attend()  # noqa: SLF001
    if not ir_recipe.is_ir(page._entry):  # noqa: SLF001 - one facade
        raise InvalidPageError(
            f"page {page.name!r} holds no graph: expected one made with mem.ir(...)",
            page_id=page.id,
        )
    return IR.from_bytes(ir_recipe.used_bytes(page.tensor))


def recipe(
    memory: Memory, page: Page, args: Sequence[Any], options: dict[str, Any]
) -> ir_recipe.IRRecipe:
    """The recipe of `mem.derive(page, *args, output=)`, `page` holding a graph.

    Raises:
        InvalidRecipeError: it holds none, or the graph takes other tensors.
    """
    output = options.pop("output", None)
    if options or not (output is None or (type(output) is int and output >= 0)):
        raise InvalidRecipeError(
            f"a page over {page.name!r} takes pages for the graph's tensors in order, name=, "
            f"metadata= and output= (which result, from 0): found {options or output!r}"
        )
    entries = [memory._handles.entry(item) for item in (page, *args)]  # noqa: SLF001
    if not ir_recipe.is_ir(entries[0]):
        raise InvalidRecipeError(
            f"page {page.name!r} holds no graph: expected one made with mem.ir(...), or a callable"
        )
    expected = len(read(page).inputs)
    if len(args) != expected:
        raise InvalidRecipeError(
            f"the graph in page {page.name!r} takes {expected} tensors: found {len(args)} pages"
        )
    return ir_recipe.IRRecipe(entries, output)
