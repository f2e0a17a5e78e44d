"""mmsb_torch: a tensor memory substrate for PyTorch. One law: state x delta -> state'.

    errors           the error family
    device           merges, bit comparison, packing: tensors in, tensors out
    types            Region, Delta, Transaction: immutable values and their algebra
    runtime          store (log, checkpoints) and state (pages, journal, the router: the one door)
    instrumentation  what code a result depends on
    graph            derived pages: what is stale, recomputing it, explaining it
    memory           Memory, Page: what you hold
    testing, demo    strategies and models to test against; the main job on real text

Imports go up this list, one way. `mmsb.open()` is where to start.
"""

from typing import TYPE_CHECKING, Any

from mmsb_torch.device import PageLocation
from mmsb_torch.errors import (
    ClosedError,
    CorruptLogError,
    CorruptStoreError,
    CycleDetectedError,
    DerivedPageError,
    DeviceFallbackWarning,
    EpochConflictError,
    HistoryError,
    InternalError,
    InvalidDeltaError,
    InvalidPageError,
    InvalidRecipeError,
    MMSBError,
    PageExistsError,
    PageMutatedError,
    PageNotFoundError,
    ReadOnlyError,
    RecipeError,
    RecipeNotLoadedError,
    RecordingError,
    SerializationError,
    StoreError,
    StoreLockedError,
    TransactionError,
    UnsupportedError,
    UnsupportedLocationError,
)
from mmsb_torch.graph import Why, register_recomputation
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
)
from mmsb_torch.types import Delta, Event, EventType, Form, Region, Spec, Transaction

if TYPE_CHECKING:
    from mmsb_torch.graph.draw import Graph
    from mmsb_torch.graph.recording import InstrumentationConfig, Recording
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

__all__ = [
    "Change",
    "Changes",
    "ClosedError",
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
    "InstrumentationConfig",
    "InternalError",
    "InvalidDeltaError",
    "InvalidPageError",
    "InvalidRecipeError",
    "MMSBError",
    "Memory",
    "Moment",
    "Page",
    "PageDiff",
    "PageExistsError",
    "PageLocation",
    "PageMutatedError",
    "PageNotFoundError",
    "PageRecord",
    "ReadOnlyError",
    "RecipeError",
    "RecipeNotLoadedError",
    "Recording",
    "RecordingError",
    "Region",
    "SerializationError",
    "Spec",
    "StoreError",
    "StoreLockedError",
    "Transaction",
    "TransactionError",
    "UnsupportedError",
    "UnsupportedLocationError",
    "Why",
    "compress_delta",
    "compress_page",
    "deserialize_delta",
    "deserialize_event",
    "deserialize_from_bytes",
    "deserialize_page",
    "mmsb_start",
    "mmsb_stop",
    "open",
    "register_recomputation",
    "serialize_delta",
    "serialize_event",
    "serialize_page",
    "serialize_to_bytes",
]


def __getattr__(name: str) -> Any:
    if name == "Graph":  # drawing loads when it is used
        from mmsb_torch.graph.draw import Graph  # noqa: PLC0415

        return Graph
    if name in {"InstrumentationConfig", "Recording"}:  # so does the recorder
        from mmsb_torch.graph import recording  # noqa: PLC0415

        return getattr(recording, name)
    if name in __all__:  # and so does what writes bytes: all other names are here already
        from mmsb_torch.memory import exchange  # noqa: PLC0415

        return getattr(exchange, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
