"""The error family: every error this package raises for a caller's reason is an `MMSBError`.

Each also inherits the builtin that fits, so `except KeyError` keeps working, and each message
says where, what was expected, what was found, and what to do.
"""

from __future__ import annotations


class MMSBError(Exception):
    """Base of every error of this package.

    Args:
        message: where, expected, found, what to do.
        page_id: the page concerned, if one is.
        delta_id: the delta concerned, if one is.
    """

    def __init__(
        self, message: str, page_id: int | None = None, delta_id: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.page_id = page_id
        self.delta_id = delta_id

    def __str__(self) -> str:
        return self.message


class InternalError(MMSBError, AssertionError):
    """A law of this package was broken by this package: please report it."""


class ClosedError(MMSBError, RuntimeError):
    """The memory was closed; snapshots taken before stay valid."""


class ReadOnlyError(MMSBError, PermissionError):
    """The memory was opened for reading only."""


class PageNotFoundError(MMSBError, KeyError):
    """No page of that name or id."""


class PageExistsError(MMSBError, ValueError):
    """A page of that name or id exists and is not what was asked for."""


class InvalidPageError(MMSBError, ValueError):
    """A page cannot be made like that: bad name, shape, dtype, layout or metadata."""


class InvalidDeltaError(MMSBError, ValueError):
    """A change does not fit its page: shape, dtype, device, rows, indices or mask."""


class DerivedPageError(MMSBError, TypeError):
    """A derived page is changed by its recipe only; change one of its inputs instead."""


class PageMutatedError(MMSBError, RuntimeError):
    """Somebody wrote through `page.tensor`, which is for reading."""


class EpochConflictError(MMSBError, RuntimeError):
    """`update(..., epoch=n)` found the page at another epoch."""


class TransactionError(MMSBError, RuntimeError):
    """A transaction was used outside its `with` block, or twice."""


class CycleDetectedError(MMSBError, ValueError):
    """A derived page would depend on itself."""


class InvalidRecipeError(MMSBError, TypeError):
    """A recipe cannot be declared like that."""


class RecipeError(MMSBError, RuntimeError):
    """A recipe raised or returned something that is no dense tensor; its page stays stale."""


class NotRowwiseError(RecipeError):
    """A recipe was declared row-wise, and rows computed apart are not those of the whole."""


class RecipeNotLoadedError(MMSBError, LookupError):
    """A stale derived page was read, and its recipe has not been declared in this process."""


class InvalidMemoError(MMSBError, TypeError):
    """This callable cannot be memoised like that."""


class WrongHitError(MMSBError, AssertionError):
    """A memoised result, run again, came out different: something it depends on was not seen."""


class WorldError(MMSBError, ValueError):
    """No world of that name is registered, or it cannot be registered like that."""


class CaptureError(MMSBError, RuntimeError):
    """A function cannot be captured as a graph; it still runs as it is."""


class ReplayError(MMSBError, RuntimeError):
    """A captured graph does not hold for these arguments; the function itself still does."""


class RecordingError(MMSBError, RuntimeError):
    """A recording cannot begin, end or be lifted like that."""


class PlanError(MMSBError, RuntimeError):
    """A function cannot be computed in parts (any more); run it in full."""


class InvalidSubscriptionError(MMSBError, ValueError, TypeError):
    """Nobody can be told of events like that: no callable, or a filter that names nothing."""


class HistoryError(MMSBError, LookupError):
    """No such transaction, label or step in the history at hand."""


class CollectedError(HistoryError):
    """The writer has collected what this reader had not read yet; open the store again."""


class TrackError(MMSBError, RuntimeError):
    """A tracked run cannot begin, go on or go back like that."""


class MismatchError(TrackError, ValueError):
    """A model, an optimizer or another part of a run is not what the run kept; each difference is named."""


class UnsupportedLocationError(MMSBError, NotImplementedError):
    """Pages cannot live there on this machine."""


class UnsupportedError(MMSBError, NotImplementedError):
    """This is not supported (yet); the message names what to use instead."""


class SerializationError(MMSBError, ValueError):
    """Bytes or files that are not what they should be."""


class CorruptStoreError(SerializationError):
    """A checkpoint is damaged; the message names the file."""


class CorruptLogError(SerializationError):
    """The log is damaged; the message names the range."""


class StoreError(MMSBError, OSError):
    """The store's folder cannot be used like that."""


class StoreLockedError(StoreError, BlockingIOError):
    """Another process has the store open for writing; the message names it."""


class DeviceFallbackWarning(UserWarning):
    """A device that was asked for is not here, and another one is used."""
