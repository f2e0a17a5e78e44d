"""mmsb_torch: a tensor memory substrate for PyTorch. One law: state x delta -> state'.

    errors           the error family
    device           merges, bit comparison, packing: tensors in, tensors out
    pictures         HTML and SVG of plain data
    types            Region, Delta, Transaction: immutable values and their algebra
    runtime          store (log, checkpoints) and state (pages, journal, the router: the one door)
    instrumentation  what code a result depends on
    graph            derived pages: what is stale, recomputing it, explaining it
    memory           Memory, Page: what you hold
    training         a training loop whose state is pages
    integrations     other libraries: matplotlib, Prometheus
    notebook         `%load_ext mmsb_torch`: incremental cells
    testing, demo    strategies and models to test against; the main job on real text

Imports go up this list, one way. `mmsb.open()` is where to start.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmsb_torch.device import PageLocation
from mmsb_torch.errors import (
    CaptureError,
    ClosedError,
    CollectedError,
    CorruptLogError,
    CorruptStoreError,
    CycleDetectedError,
    DerivedPageError,
    DeviceFallbackWarning,
    EpochConflictError,
    HistoryError,
    InternalError,
    InvalidDeltaError,
    InvalidMemoError,
    InvalidPageError,
    InvalidRecipeError,
    InvalidSubscriptionError,
    MismatchError,
    MMSBError,
    NotRowwiseError,
    PageExistsError,
    PageMutatedError,
    PageNotFoundError,
    PlanError,
    ReadOnlyError,
    RecipeError,
    RecipeNotLoadedError,
    RecordingError,
    ReplayError,
    SerializationError,
    StoreError,
    StoreLockedError,
    TrackError,
    TransactionError,
    UnsupportedError,
    UnsupportedLocationError,
    WorldError,
    WrongHitError,
)
from mmsb_torch.graph import Why, register_recomputation
from mmsb_torch.instrumentation.code import World
from mmsb_torch.memory import (
    Change,
    Changes,
    Diff,
    Memory,
    Moment,
    Page,
    PageDiff,
    mmsb_start,
    mmsb_stop,
    open,  # noqa: A004 - used as mmsb.open
    repair,
)
from mmsb_torch.types import Delta, Event, EventType, Form, Region, Spec, Transaction

if TYPE_CHECKING:
    from mmsb_torch.graph.draw import Graph
    from mmsb_torch.graph.recording import InstrumentationConfig, Recording
    from mmsb_torch.graph.rows import register_row_rule
    from mmsb_torch.instrumentation.capture.backend import CaptureBackend
    from mmsb_torch.instrumentation.capture.export import Captured, capture
    from mmsb_torch.instrumentation.capture.interpreter import MMSBInterpreter
    from mmsb_torch.instrumentation.capture.ir import IR
    from mmsb_torch.integrations.arrow import (
        arrow_to_page,
        history_to_arrow,
        page_to_arrow,
        registry_to_arrow,
    )
    from mmsb_torch.integrations.console import print_stats
    from mmsb_torch.integrations.plots import plot_stats
    from mmsb_torch.memory.capabilities import capabilities
    from mmsb_torch.memory.exchange import (
        PageRecord,
        compress_delta,
        compress_page,
        deserialize_delta,
        deserialize_event,
        deserialize_from_bytes,
        deserialize_page,
        serialize_delta,
        serialize_event,
        serialize_page,
        serialize_to_bytes,
    )
    from mmsb_torch.memory.statistics import get_stats
    from mmsb_torch.runtime.store.retention import Retention
    from mmsb_torch.training.frozen import cache_frozen
    from mmsb_torch.training.run import Commit, Run, Step
    from mmsb_torch.training.sampler import ResumableSampler
    from mmsb_torch.training.track import track

__all__ = [  # noqa: RUF022 - in plain order
    "CaptureBackend",
    "CaptureError",
    "Captured",
    "Change",
    "Changes",
    "ClosedError",
    "CollectedError",
    "Commit",
    "CorruptLogError",
    "CorruptStoreError",
    "CycleDetectedError",
    "Delta",
    "DerivedPageError",
    "DeviceFallbackWarning",
    "Diff",
    "EpochConflictError",
    "Event",
    "EventType",
    "Form",
    "Graph",
    "HistoryError",
    "IR",
    "InstrumentationConfig",
    "InternalError",
    "InvalidDeltaError",
    "InvalidMemoError",
    "InvalidPageError",
    "InvalidRecipeError",
    "InvalidSubscriptionError",
    "MMSBError",
    "MMSBInterpreter",
    "Memory",
    "MismatchError",
    "Moment",
    "NotRowwiseError",
    "Page",
    "PageDiff",
    "PageExistsError",
    "PageLocation",
    "PageMutatedError",
    "PageNotFoundError",
    "PageRecord",
    "PlanError",
    "ReadOnlyError",
    "RecipeError",
    "RecipeNotLoadedError",
    "Recording",
    "RecordingError",
    "Region",
    "ReplayError",
    "ResumableSampler",
    "Retention",
    "Run",
    "SerializationError",
    "Spec",
    "Step",
    "StoreError",
    "StoreLockedError",
    "TrackError",
    "Transaction",
    "TransactionError",
    "UnsupportedError",
    "UnsupportedLocationError",
    "Why",
    "World",
    "WorldError",
    "WrongHitError",
    "arrow_to_page",
    "cache_frozen",
    "capabilities",
    "capture",
    "compress_delta",
    "compress_page",
    "deserialize_delta",
    "deserialize_event",
    "deserialize_from_bytes",
    "deserialize_page",
    "get_stats",
    "history_to_arrow",
    "mmsb_start",
    "mmsb_stop",
    "open",
    "page_to_arrow",
    "plot_stats",
    "print_stats",
    "register_recomputation",
    "register_row_rule",
    "registry_to_arrow",
    "repair",
    "serialize_delta",
    "serialize_event",
    "serialize_page",
    "serialize_to_bytes",
    "track",
]


_LAZY = {
    **dict.fromkeys(("CaptureBackend",), "instrumentation.capture.backend"),
    **dict.fromkeys(("Captured", "capture"), "instrumentation.capture.export"),
    **dict.fromkeys(("IR",), "instrumentation.capture.ir"),
    **dict.fromkeys(("MMSBInterpreter",), "instrumentation.capture.interpreter"),
    **dict.fromkeys(("Graph",), "graph.draw"),
    **dict.fromkeys(("InstrumentationConfig", "Recording"), "graph.recording"),
    **dict.fromkeys(("Retention",), "runtime.store.retention"),
    **dict.fromkeys(("cache_frozen",), "training.frozen"),
    **dict.fromkeys(("capabilities",), "memory.capabilities"),
    **dict.fromkeys(("register_row_rule",), "graph.rows"),
    **dict.fromkeys(("Commit", "Run", "Step"), "training.run"),
    **dict.fromkeys(("ResumableSampler",), "training.sampler"),
    **dict.fromkeys(("track",), "training.track"),
    **dict.fromkeys(
        ("arrow_to_page", "history_to_arrow", "page_to_arrow", "registry_to_arrow"),
        "integrations.arrow",
    ),
    **dict.fromkeys(("get_stats",), "memory.statistics"),
    **dict.fromkeys(("plot_stats",), "integrations.plots"),
    **dict.fromkeys(("print_stats",), "integrations.console"),
}
"""Where what loads when it is used comes from; of the rest it is `memory.exchange`."""


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext mmsb_torch` in a notebook: see docs/notebook.md."""
    import_module("mmsb_torch.notebook").load_ipython_extension(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext mmsb_torch`."""
    import_module("mmsb_torch.notebook").unload_ipython_extension(shell)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"mmsb_torch.{_LAZY.get(name, 'memory.exchange')}"), name)
