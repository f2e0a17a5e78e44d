"""`capture`: what a function does with tensors, as a graph that runs without it.

Three ways are tried, best first, and each is sound by itself or refuses:

1. "export": `torch.export`, which runs the function on tensors without values, so nothing that
   depends on values can be baked in. It keeps the operators that people wrote.
2. "make_fx": the same by `make_fx`, below autograd; it takes what export's rules refuse, such as
   gradients that are computed inside.
3. "tape": the function runs once for real and the operators that ran are the graph, with a guard
   on each value that was read out of a tensor. It takes branches on values.

The function runs without grad and autocast, and sees the arguments' tensors, not copies. What it
reads elsewhere (the clock, Python's random numbers, globals) is baked in, as everywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmsb_torch.device import same_bits
from mmsb_torch.errors import CaptureError, MMSBError, UnsupportedError
from mmsb_torch.instrumentation.context import GradKept, plain_torch

from .fx_tape import record
from .ir import IR
from .ir_bytes import Constant
from .ir_trees import flatten, unflatten
from .ir_writer import About, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

Dynamic = Mapping[int, Mapping[int, str]]
"""Sizes that may vary: number of the tensor -> dimension -> name."""

WAYS = ("export", "make_fx", "tape")


class Captured:
    """A function as a graph; call it like the function.

    Attributes:
        ir: the graph.
        way: "export", "make_fx" or "tape".
        refusals: why the ways before that one were not taken, by way.
    """

    def __init__(self, ir: IR, way: str, refusals: Mapping[str, str]) -> None:
        self.ir = ir
        self.way = way
        self.refusals = dict(refusals)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph.

        Raises:
            ReplayError: it does not hold for these arguments; call the function itself.
        """
        return self.ir(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Captured by {self.way}: {self.ir!r}>"


def capture(
    function: Callable[..., Any],
    *args: Any,
    dynamic: Dynamic | None = None,
    ways: Sequence[str] = WAYS,
    exact: bool = True,
    **kwargs: Any,
) -> Captured:
    """Capture a function or module as it computes with these arguments.

    Torch's random generators are afterwards as they were.

    Args:
        function: tensors in plain containers in and out, no effects on its arguments.
        args: what it is called with; the graph holds for tensors of the same dtypes, shapes,
            strides and devices, and for equal other values.
        dynamic: sizes that may vary, as {0: {0: "batch"}} for dimension 0 of the first tensor; only
            export knows how.
        ways: which ways to try, in this order.
        exact: run function and graph once, and refuse a way whose results differ in a bit. (They
            may where torch chooses kernels by what it finds itself called from, as the fast path of
            nn.TransformerEncoder does; then False takes the graph, which is right up to rounding.)
        kwargs: keywords of the function's.

    Raises:
        CaptureError: no way took it; the message has what each said.
        UnsupportedError: arguments or results that no graph can hold.
    """
    if not callable(function) or not ways or not set(ways) <= set(WAYS):
        raise UnsupportedError(
            f"capture({function!r:.60}, ways={ways!r}): expected a callable, and ways of {WAYS}"
        )
    found, tree = flatten((args, kwargs))
    leaves = [leaf.detach() for leaf in found]  # one object each: tracers tell tensors by identity
    flat = _Flat(function, tree)
    default = str(torch.get_default_dtype()).removeprefix("torch.")
    refusals: dict[str, str] = {}
    device = leaves[0].device if leaves else torch.device("cpu")
    for way in ways:
        try:
            with GradKept(), plain_torch(device), same_random_numbers():
                source = _WAYS[way](flat, leaves, About(tree, [], default), dynamic or {})
                ir = IR.of(source)
                _check_pure(ir, leaves)
                if exact:
                    _check_exact(ir, flat, leaves)
            return Captured(ir, way, refusals)
        except _EffectError as error:
            raise CaptureError(f"{_label(function)} cannot be captured: {error}") from error
        except Exception as error:  # noqa: BLE001 - tracers raise anything; the function may, too
            refusals[way] = _said(error)
            last = error
    raise CaptureError(
        f"{_label(function)} cannot be captured as a graph: "
        + "; ".join(f"{way} says {why}" for way, why in refusals.items())
        + ". It still runs as it is."
    ) from last


class _EffectError(Exception):
    """The function changes its arguments or its own tensors."""


class _StoppedError(Exception):
    """The function, or a tracer in it, raised a RuntimeError."""


class _Flat(nn.Module):
    """A function of tensors in plain containers as one from tensors to a tuple of tensors."""

    def __init__(self, function: Callable[..., Any], tree: Any) -> None:
        super().__init__()
        self._tree = tree
        seen: list[Any] = [None]  # in closures: tracers put a module's attributes back
        self._note: Callable[[Any], None] = lambda found: seen.__setitem__(0, found)
        self._noted: Callable[[], Any] = lambda: seen[0]
        if isinstance(function, nn.Module):
            self.captured_ = function
        else:
            object.__setattr__(self, "captured_", function)

    def forward(self, *leaves: Tensor) -> tuple[Any, ...]:
        args, kwargs = unflatten(self._tree, leaves)
        try:
            results, found = flatten(self.captured_(*args, **kwargs))
        except RuntimeError as error:  # torch.export prints some of those
            raise _StoppedError(f"{type(error).__name__}: {_first_line(error)}") from error
        self._note(found)
        return tuple(results)

    @property
    def outputs(self) -> Any:
        """The tree of the results of the last call."""
        return self._noted()

    def paths(self) -> dict[int, str]:
        """The path of each parameter and buffer of the function's, by identity."""
        if not isinstance(self.captured_, nn.Module):
            return {}
        named = [*self.captured_.named_parameters(), *self.captured_.named_buffers()]
        return {id(value): name for name, value in reversed(named)}


def _export(flat: _Flat, leaves: list[Tensor], about: About, dynamic: Dynamic) -> Source:
    shapes = None
    if dynamic:
        names = {name for sizes in dynamic.values() for name in sizes.values()}
        dims = {name: torch.export.Dim(name) for name in sorted(names)}
        shapes = (
            tuple(
                {at: dims[name] for at, name in dynamic.get(index, {}).items()}
                for index in range(len(leaves))
            ),
        )
    with quiet():
        program = torch.export.export(flat, tuple(leaves), dynamic_shapes=shapes, strict=False)
    bound: dict[str, Constant] = {}
    kinds = torch.export.graph_signature.InputKind
    for item in program.graph_signature.input_specs:
        if item.kind is kinds.USER_INPUT:
            continue
        value, path = _held(program, item), None
        if item.kind in {kinds.PARAMETER, kinds.BUFFER}:
            path = str(item.target).removeprefix("captured_.")
        bound[item.arg.name] = Constant.of(value, path)
    about = about._replace(symbols=_ranges(program))
    return Source(program.graph, program.graph_module, about, bound, outputs=flat.outputs)


def _held(program: Any, item: Any) -> Tensor:
    for holder in (program.state_dict, program.constants):
        value = holder.get(item.target)
        if isinstance(value, Tensor):
            return value
    raise UnsupportedError(f"a graph cannot hold the {item.kind.name.lower()} {item.target!r}")


def _ranges(program: Any) -> list[list[Any]]:
    """The sizes that may vary by their canonical names, as the writer gives them."""
    from .ir_writer import Sizes  # noqa: PLC0415

    sizes = Sizes()
    for node in program.graph.find_nodes(op="placeholder"):
        sizes.of(node.meta.get("val"))
    found = []
    for symbol, limits in program.range_constraints.items():
        if str(symbol).startswith("s"):
            most = int(limits.upper) if str(limits.upper).isdecimal() else None
            found.append([sizes.name(symbol), int(limits.lower), most])
    return sorted(found)


def _make_fx(flat: _Flat, leaves: list[Tensor], about: About, dynamic: Dynamic) -> Source:
    from torch.fx.experimental.proxy_tensor import make_fx  # noqa: PLC0415 - two seconds to import

    if dynamic:
        raise UnsupportedError("only export knows sizes that vary")
    named = {**dict(flat.named_parameters()), **dict(flat.named_buffers())}

    def call(weights: Sequence[Tensor], *inputs: Tensor) -> Any:
        given = dict(zip(named, weights, strict=True))
        return torch.func.functional_call(flat, given, inputs)

    with quiet():
        tracer = make_fx(call, tracing_mode="fake", _allow_non_fake_inputs=True)
        traced = tracer(list(named.values()), *leaves)
    places = traced.graph.find_nodes(op="placeholder")
    bound = {
        place.name: Constant.of(value, path.removeprefix("captured_."))
        for place, (path, value) in zip(places, named.items(), strict=False)
    }
    known = {
        str(node.target): Constant.of(value, None)
        for node in traced.graph.find_nodes(op="get_attr")
        if isinstance(value := getattr(traced, str(node.target), None), Tensor)
    }
    return Source(traced.graph, traced, about, bound, known, flat.outputs)


def _tape(flat: _Flat, leaves: list[Tensor], about: About, dynamic: Dynamic) -> Source:
    if dynamic:
        raise UnsupportedError("only export knows sizes that vary")
    graph, known = record(flat, leaves, flat.paths())
    return Source(graph, nn.Module(), about, known=known, outputs=flat.outputs)


_WAYS: Mapping[str, Callable[[_Flat, list[Tensor], About, Dynamic], Source]] = {
    "export": _export,
    "make_fx": _make_fx,
    "tape": _tape,
}


def _check_pure(ir: IR, leaves: list[Tensor]) -> None:
    """Raise _EffectError if a graph that writes in place writes into its inputs or constants."""
    if not ir.writes:
        return
    copies = [leaf.clone(memory_format=torch.preserve_format) for leaf in leaves]
    given = [*copies, *(constant.tensor for constant in ir.constants)]
    before = [value._version for value in given]  # noqa: SLF001 - the public counter
    ir.module(*copies)
    if [value._version for value in given] != before:  # noqa: SLF001
        raise _EffectError(
            "the function writes into its arguments, parameters or buffers: expected one that only "
            "computes. Let it work on x.clone(), or call module.eval() first."
        )


def _check_exact(ir: IR, flat: _Flat, leaves: list[Tensor]) -> None:
    """Raise CaptureError unless function and graph give the same bits for these arguments."""
    with same_random_numbers():
        wanted = flat(*leaves)
    with same_random_numbers():
        found, tree = flatten(ir.run(leaves))
    if repr(tree) != repr(flat.outputs):
        raise CaptureError("its results come in other containers or with other numbers")
    for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
        if (one.dtype, one.shape) != (other.dtype, other.shape) or not same_bits(one, other):
            raise CaptureError(
                f"its result {index} differs from the function's in some bits. Pass exact=False "
                "to take a graph that is right up to rounding."
            )


def same_random_numbers() -> AbstractContextManager[None]:
    """Puts torch's generators back as they were."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


@contextmanager
def quiet() -> Iterator[None]:
    """Tracers warn and log about what is reported in `refusals`, or does not concern the caller."""
    import logging  # noqa: PLC0415

    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled


def _first_line(error: BaseException) -> str:
    text = str(error.message if isinstance(error, MMSBError) else error).strip()
    return text.splitlines()[0][:300] if text else ""


def _said(error: Exception) -> str:
    text = _first_line(error)
    return text if isinstance(error, _StoppedError) else f"{type(error).__name__}: {text}"


def _label(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))
