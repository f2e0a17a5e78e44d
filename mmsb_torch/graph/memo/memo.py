"""Memoised functions: a call whose key is known is answered from what it returned before."""

from __future__ import annotations

import contextlib
import functools
import inspect
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmsb_torch.device import same_bits
from mmsb_torch.errors import (
    CorruptStoreError,
    InvalidMemoError,
    StoreError,
    UnsupportedError,
    WrongHitError,
)
from mmsb_torch.graph.memo import randomness
from mmsb_torch.graph.memo.flights import Flights
from mmsb_torch.graph.memo.keys import Key, Keying, Refused, difference
from mmsb_torch.graph.memo.results import Result, Unkeepable, put_together, take_apart
from mmsb_torch.graph.memo.shelf import Item, Shelf
from mmsb_torch.runtime.store.objects import Objects

_REMEMBERED = 16
_RANDOM = "mmsb.random"
_GENERATORS = "random generators"


class Explanation(NamedTuple):
    """What a call would do, and why. Print it."""

    hit: bool
    reason: str

    def __str__(self) -> str:
        return f"{'hit' if self.hit else 'miss'}: {self.reason}"


class Memo:
    """The memoised results of one memory; `mem.memo`. Thread-safe.

    Args:
        objects: where results outlive the process; None keeps them in memory only.
        budget: bytes of results in memory.
        check: raises if the memory was closed.
    """

    def __init__(
        self,
        objects: Objects | None = None,
        budget: int = 1 << 30,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.objects = objects
        self.shelf = Shelf(budget)
        self.flights = Flights()
        self.counts: Counter[str] = Counter()
        self.check = check

    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        *,
        version: str | None = None,
        ignore: Sequence[str] = (),
        verify: float = 0.0,
    ) -> Any:
        """Memoise a function or nn.Module: `@mem.memo`, `@mem.memo(verify=0.01)` or `mem.memo(f)`.

        A call is answered from before if everything it depends on is the same, bit for bit: the
        arguments (tensors, modules, arrays, plain data, containers, files by content), the code with
        its helpers, globals and closures, torch's settings and modes, and, if it draws random
        numbers, the generators' states. What comes back is new memory, as a run would give.

        A call is executed, and nothing is kept, where that cannot be told or would not be right:
        arguments or code that nobody can watch, gradients, writes to an argument or a global,
        results of other kinds than tensors, arrays and plain data. `explain` says which.

        Args:
            function: what to memoise.
            version: stands for the code: edits then do not matter until it changes.
            ignore: names of parameters that do not change the result.
            verify: share of hits (0 to 1) that are run again and compared, bit for bit.

        Raises:
            InvalidMemoError: it is no callable, has no signature, or is a coroutine or generator.
        """
        self.check()
        if function is None:
            return functools.partial(self, version=version, ignore=ignore, verify=verify)
        return MemoFunction(self, function, version, ignore, verify)

    def explain(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
        """Whether calling a memoised function like that would be a hit, and the reason.

        Raises:
            InvalidMemoError: `function` was not memoised here.
        """
        self.check()
        if not isinstance(function, MemoFunction) or function.memo is not self:
            raise InvalidMemoError(
                f"{function!r} was not memoised by this memory: expected what mem.memo returned."
            )
        return function.explain(args, kwargs)

    def clear(self) -> None:
        """Forget every result, on disk too."""
        self.check()
        self.shelf.clear()
        if self.objects is not None:
            self.objects.clear()

    def find(self, key: Key) -> tuple[Key, Item] | None:
        """A result of this key, and the key that it was found under; random ones have another."""
        item = self._look(key.digest)
        if item is not None and item.result is None:
            key = key.with_part(_GENERATORS, randomness.torch_part())
            item = self._look(key.digest)
        return None if item is None or item.result is None else (key, item)

    def _look(self, digest: str) -> Item | None:
        item = self.shelf.get(digest)
        if item is None and self.objects is not None:
            try:
                found = self.objects.get(digest)
            except (StoreError, UnsupportedError):  # what cannot be read is computed
                found = None
            if found is not None:
                tensors, texts = found
                result = None if _RANDOM in texts else Result(tensors, texts)
                made = int(texts.get("mmsb.made_ns", "0"))
                item = Item(result, float(texts.get("mmsb.seconds", "0")), made)
                self.shelf.put(digest, item)
        return item

    def keep(self, key: Key, result: Result | None, seconds: float, label: str) -> None:
        """Keep a result; None says that calls of this key draw random numbers."""
        item = Item(result, seconds, time.time_ns())
        self.shelf.put(key.digest, item)
        if self.objects is None or not self.objects.writable:
            return
        tensors, texts = ({}, {_RANDOM: "1"}) if result is None else result
        about = {"mmsb.made_ns": str(item.made_ns), "mmsb.seconds": repr(seconds), "mmsb.of": label}
        try:
            self.objects.put(key.digest, tensors, {**texts, **about}, int(seconds * 1e6))
        except StoreError:  # a full disk must not fail the call; the result is in memory
            self.counts["not stored"] += 1

    def stats(self) -> dict[str, int]:
        """Hits, misses, refusals and bytes, as plain data."""
        counts = {name: self.counts[name] for name in ("hits", "misses", "refused", "verified")}
        return {**counts, "results": len(self.shelf), "bytes": self.shelf.nbytes}

    def __repr__(self) -> str:
        s = self.stats()
        return f"<Memo: {s['hits']} hits, {s['misses']} misses, {s['refused']} executed unkept>"


class MemoFunction:
    """A memoised function; call it like the function itself. Thread-safe."""

    def __init__(
        self,
        memo: Memo,
        function: Callable[..., Any],
        version: str | None,
        ignore: Sequence[str],
        verify: float,
    ) -> None:
        _check(function, version, ignore, verify)
        functools.update_wrapper(self, function, updated=())
        self.memo = memo
        self.function = function
        self._verify = float(verify)
        self._keying = Keying(function, ignore, version)
        self._recent: deque[Key] = deque(maxlen=_REMEMBERED)
        self._refusals: dict[str, str] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, or give what it returned for the same call before."""
        memo = self.memo
        memo.check()
        try:
            key = self._key(args, kwargs)
        except Refused:
            memo.counts["refused"] += 1
            return self.function(*args, **kwargs)
        found = memo.find(key)
        if found is None:
            lease = memo.objects.alone if memo.objects is not None else None
            with memo.flights.alone(key.digest) as alone, contextlib.ExitStack() as stack:
                if alone and lease is not None:
                    stack.enter_context(lease(key.digest))
                found = memo.find(key) if alone else None
                if found is None:
                    return self._run(key, args, kwargs)
        memo.counts["hits"] += 1
        self._recent.append(key)
        key, item = found
        item.hits += 1
        if self._verify and random.random() < self._verify:  # noqa: S311 - a sample
            return self._verified(key, item, args, kwargs)
        try:
            return _handed_out(item)
        except CorruptStoreError:  # whole, but nothing that this version wrote
            memo.shelf.remove(key.digest)
            return self.function(*args, **kwargs)

    def explain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Explanation:
        """See `Memo.explain`."""
        try:
            key = self._key(args, kwargs)
        except Refused as reason:
            return Explanation(False, f"executed and not kept: {reason}")
        found = self.memo.find(key)
        if found is not None:
            item = found[1]
            return Explanation(
                True, f"kept, {item.cost_s * 1e3:.1f} ms to compute, {item.hits} hits"
            )
        refusal = self._refusals.get(key.digest)
        if refusal is not None:
            return Explanation(False, f"executed and not kept: {refusal}")
        return Explanation(False, self._why_new(key))

    def _why_new(self, key: Key) -> str:
        recent = list(self._recent)
        if not recent:
            return "never computed in this process"
        nearest = min(reversed(recent), key=lambda old: len(difference(old, key)))
        names = difference(nearest, key)
        if not names:
            return "it was forgotten"
        reason = self._keying.reasons.get(names[0])
        return f"{names[0]} changed" + (f" ({reason})" if reason else "")

    def _key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Key:
        if torch.is_grad_enabled():
            self._check_gradients(args, kwargs)
        return self._keying.key(args, kwargs)

    def _check_gradients(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        values = [*args, *kwargs.values(), self.function]
        for value in values:
            if _requires_grad(value):
                raise Refused("gradients are on, and an input requires them")

    def _run(self, key: Key, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        memo = self.memo
        before = randomness.state()
        begun = time.perf_counter()
        value = self.function(*args, **kwargs)
        seconds = time.perf_counter() - begun
        memo.counts["misses"] += 1
        self._recent.append(key)
        try:
            after = self._check_purity(key, before, args, kwargs)
            result = take_apart(value, _tensors((args, kwargs)))
        except (Unkeepable, Refused) as reason:
            self._refusals[key.digest] = str(reason)
            return value
        label = self._keying.definition.label
        if (after.cpu, after.cuda) != (before.cpu, before.cuda):
            memo.keep(key, None, seconds, label)
            key = key.with_part(_GENERATORS, b"".join((before.cpu, *before.cuda)))
            result.tensors.update(randomness.save())
        memo.keep(key, result, seconds, label)
        return value

    def _check_purity(
        self,
        key: Key,
        before: randomness.State,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> randomness.State:
        """Whether everything is as it was but torch's generators; their states now."""
        after = randomness.state()
        if (after.python, after.numpy) != (before.python, before.numpy):
            raise Refused("it draws random numbers from Python or numpy")
        now = self._keying.key(args, kwargs)
        if now.digest != key.digest:
            raise Refused(f"{difference(key, now)[0]} changed while it ran")
        return after

    def _verified(
        self, key: Key, item: Item, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run a hit again; the value of the run."""
        value = self.function(*args, **kwargs)
        self.memo.counts["verified"] += 1
        assert item.result is not None
        kept = {n: t for n, t in item.result.tensors.items() if not n.startswith("rng ")}
        try:
            again = take_apart(value, _tensors((args, kwargs)))
        except Unkeepable:
            again = Result({}, {})
        tree = "mmsb.result"
        same = (
            again.texts.get(tree) == item.result.texts[tree] and kept.keys() == again.tensors.keys()
        )
        if same and all(same_bits(kept[name], again.tensors[name]) for name in kept):
            return value
        self.memo.shelf.remove(key.digest)
        raise WrongHitError(
            f"{self._keying.definition.label}: a hit, run again, gave something else. It depends on "
            "something that is not in its key, or does not compute the same twice. Pass that as an "
            "argument, or do not memoise it; mem.memo.clear() forgets what was kept."
        )

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self) -> str:
        return f"<MemoFunction {self._keying.definition.label}>"


def _handed_out(item: Item) -> Any:
    assert item.result is not None
    value = put_together(item.result)
    if "rng cpu" in item.result.tensors:
        randomness.put_back(item.result.tensors)
    return value


def _check(
    function: Callable[..., Any], version: str | None, ignore: Sequence[str], verify: float
) -> None:
    if not callable(function):
        raise InvalidMemoError(
            f"{function!r} is not callable: expected a function or an nn.Module."
        )
    inner = function.forward if isinstance(function, nn.Module) else function
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(kind(inner) for kind in kinds):
        raise InvalidMemoError(
            f"{function!r} is a coroutine or generator function: what it gives cannot be kept. "
            "Memoise the function that computes the values."
        )
    try:
        names = set(inspect.signature(inner).parameters)
    except (TypeError, ValueError) as error:
        raise InvalidMemoError(
            f"{function!r} tells no parameters: wrap it, `lambda x: f(x)`."
        ) from error
    unknown = sorted(set(ignore) - names)
    if isinstance(ignore, str) or unknown:
        raise InvalidMemoError(
            f"ignore={ignore!r}: expected names of parameters among {sorted(names)}."
        )
    if not 0 <= verify <= 1:
        raise InvalidMemoError(f"verify={verify!r}: expected a share of the hits, from 0 to 1.")
    if version is not None and not isinstance(version, str):
        raise InvalidMemoError(f"version={version!r}: expected a str.")


def _requires_grad(value: object) -> bool:
    if isinstance(value, nn.Module):
        return any(parameter.requires_grad for parameter in value.parameters())
    return isinstance(value, Tensor) and value.requires_grad


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in arguments: in containers and modules, too."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, nn.Module):
        return [*value.parameters(), *value.buffers()]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
