"""Memoised functions: a call whose key is known is answered from what it returned before."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmsb_torch.device import same_bits
from mmsb_torch.errors import (
    CorruptStoreError,
    InvalidMemoError,
    StoreError,
    UnsupportedError,
)
from mmsb_torch.graph.audit import Audit
from mmsb_torch.graph.memo import randomness
from mmsb_torch.graph.memo.checks import (
    check_function,
    check_options,
    requires_grad,
    said,
    tensors_in,
)
from mmsb_torch.graph.memo.explain import Calls, Explanation, hit
from mmsb_torch.graph.memo.flights import Flights
from mmsb_torch.graph.memo.keys import Key, Keying, Refused, Unfit, difference
from mmsb_torch.graph.memo.results import Result, Unkeepable, put_together, take_apart
from mmsb_torch.graph.memo.shelf import Item, Shelf
from mmsb_torch.instrumentation.code import Definition, Worlds
from mmsb_torch.instrumentation.identity import LEDGER
from mmsb_torch.runtime.store.objects import Objects

_RANDOM = "mmsb.random"
_GENERATORS = "random generators"


class Memo:
    """The memoised results of one memory; `mem.memo`. Thread-safe.

    Args:
        objects: where results outlive the process; None keeps them in memory only.
        budget: bytes of results in memory.
        check: raises if the memory was closed.
        worlds: of the memory.
        audit: of the memory.
    """

    def __init__(
        self,
        objects: Objects | None = None,
        budget: int = 1 << 30,
        check: Callable[[], None] = lambda: None,
        worlds: Worlds | None = None,
        audit: Audit | None = None,
    ) -> None:
        self.objects = objects
        self.worlds = Worlds() if worlds is None else worlds
        self.audit = Audit() if audit is None else audit
        self._calls: dict[str, Calls] = {}
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
        world: str | Sequence[str] = (),
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
            world: what was registered with `register_world` that the result depends on, too.

        Raises:
            InvalidMemoError: it is no callable, has no signature, or is a coroutine or generator.
            WorldError: such a world is not registered.
        """
        self.check()
        if function is not None:
            return MemoFunction(self, function, version, ignore, verify, world)
        options: dict[str, Any] = {"version": version, "ignore": ignore, "verify": verify}
        return functools.partial(self, **options, world=world)

    def explain(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
        """Whether calling a memoised function like that would be a hit, and the reason.

        Raises:
            InvalidMemoError: `function` was not memoised here, or the arguments do not fit it.
        """
        self.check()
        if not isinstance(function, MemoFunction) or function.memo is not self:
            raise InvalidMemoError(
                f"{said(function)} was not memoised by this memory: expected what mem.memo returned."
            )
        return function.explain(args, kwargs)

    def clear(self) -> None:
        """Forget every result, on disk too."""
        self.check()
        self.shelf.clear()
        if self.objects is not None:
            self.objects.clear()

    def calls_of(self, definition: Definition) -> Calls:
        """The last calls of a function, and of those that stood in its place before."""
        place = definition.place
        return Calls() if place is None else self._calls.setdefault(place, Calls())

    def forget(self, digest: str) -> None:
        """Forget one result, on disk too."""
        self.shelf.remove(digest)
        if self.objects is not None:
            self.objects.remove(digest)

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
                world = int(texts.get("mmsb.world", "0"))
                item = Item(result, float(texts.get("mmsb.seconds", "0")), made, world)
                self.shelf.put(digest, item)
        return item

    def keep(self, key: Key, result: Result | None, seconds: float, label: str, world: int) -> None:
        """Keep a result; None says that calls of this key draw random numbers."""
        item = Item(result, seconds, time.time_ns(), world)
        self.shelf.put(key.digest, item)
        if self.objects is None or not self.objects.writable:
            return
        tensors, texts = ({}, {_RANDOM: "1"}) if result is None else result
        about = {"mmsb.made_ns": str(item.made_ns), "mmsb.seconds": repr(seconds), "mmsb.of": label}
        about["mmsb.world"] = str(world)
        try:
            self.objects.put(key.digest, tensors, {**texts, **about}, int(seconds * 1e6))
        except StoreError:  # a full disk must not fail the call; the result is in memory
            self.counts["not stored"] += 1

    def stats(self) -> dict[str, int]:
        """Hits, misses, refusals and bytes, as plain data."""
        self.check()
        counts = {name: self.counts[name] for name in ("hits", "misses", "refused", "verified")}
        return {**counts, "results": len(self.shelf), "bytes": self.shelf.nbytes}

    def __repr__(self) -> str:
        c = self.counts
        return f"<Memo: {c['hits']} hits, {c['misses']} misses, {c['refused']} executed unkept>"


class MemoFunction:
    """A memoised function; call it like the function itself. Thread-safe."""

    def __init__(
        self,
        memo: Memo,
        function: Callable[..., Any],
        version: str | None,
        ignore: Sequence[str],
        verify: float,
        world: str | Sequence[str],
    ) -> None:
        check_options(check_function(function), version, ignore, verify)
        functools.update_wrapper(self, function, updated=())
        self.memo = memo
        self.function = function
        self._share = max(float(verify), memo.audit.share)
        self._worlds = memo.worlds.names(world)
        self._keying = Keying(function, ignore, version)
        if version is None:
            memo.worlds.declare(self._keying.definition)
        self._definition = self._keying.definition
        self._calls = memo.calls_of(self._definition)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, or give what it returned for the same call before."""
        memo = self.memo
        memo.check()
        try:
            key = self._key(args, kwargs)
        except (Refused, Unfit):  # arguments that do not fit are the function's to refuse
            memo.counts["refused"] += 1
            return self.function(*args, **kwargs)
        found = memo.find(key)
        return self._once(key, args, kwargs) if found is None else self._hit(found, args, kwargs)

    def _once(self, key: Key, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run the function, or wait for the thread or the process that does."""
        memo, digest, air = self.memo, key.digest, threading.Lock()
        with air:
            alone = memo.flights.take_off(digest, air)
            lease = memo.objects.lease(digest) if alone and memo.objects is not None else None
            with lease or contextlib.nullcontext():
                try:
                    found = memo.find(key) if alone else None
                    if found is None:
                        return self._run(key, args, kwargs)
                finally:
                    memo.flights.land(digest, air)
                    if lease is not None and memo.objects is not None:
                        memo.objects.end_lease(digest)
        return self._hit(found, args, kwargs)

    def _hit(
        self, found: tuple[Key, Item], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """What was found, as a run would give it."""
        memo, (key, item) = self.memo, found
        memo.counts["hits"] += 1
        self._calls.note(key, memo.worlds.number, self._definition.digest)
        item.hits += 1
        if self._share and memo.audit.due(self._share):
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
        except Unfit as error:
            raise InvalidMemoError(
                f"mem.memo.explain({self._definition.label}, ...): the arguments do not fit: {error}."
            ) from None
        except Refused as reason:
            return Explanation(False, f"executed and not kept: {reason}")
        found = self.memo.find(key)
        if found is not None:
            return hit(found[1])
        return self._calls.miss(key, self._keying.reasons, self.memo.worlds, self._worlds)

    def _key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Key:
        if torch.is_grad_enabled():
            self._check_gradients(args, kwargs)
        return self._key_now(args, kwargs)

    def _key_now(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Key:
        try:
            key = self._keying.key(args, kwargs)
        finally:
            before, now = self._definition, self._keying.definition
            if now is not before:
                self._definition = now
                self.memo.worlds.note_code(before, now, self._keying.reasons.get("code"))
        if self._worlds:
            values = self.memo.worlds.values(self._worlds)
            for name, value in zip(self._worlds, values, strict=True):
                key = key.with_part(f"world {name!r}", value.encode())
        return key

    def _check_gradients(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        values = [*args, *kwargs.values(), self.function]
        for value in values:
            if requires_grad(value):
                raise Refused("gradients are on, and an input requires them")

    def _run(self, key: Key, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        memo = self.memo
        world = memo.worlds.number
        before = randomness.state()
        begun = time.perf_counter()
        value = self.function(*args, **kwargs)
        seconds = time.perf_counter() - begun
        memo.counts["misses"] += 1
        self._calls.note(key, world, self._definition.digest)
        try:
            after = self._check_purity(key, before, args, kwargs)
            result = take_apart(value, tensors_in(args, kwargs))
        except (Unkeepable, Refused) as reason:
            self._calls.refuse(key, str(reason))
            return value
        label = self._keying.definition.label
        if (after.cpu, after.cuda) != (before.cpu, before.cuda):
            memo.keep(key, None, seconds, label, world)
            key = key.with_part(_GENERATORS, b"".join((before.cpu, *before.cuda)))
            result.tensors.update(randomness.save())
        memo.keep(key, result, seconds, label, world)
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
        now = self._key_now(args, kwargs)
        if now.digest != key.digest:
            raise Refused(f"{difference(key, now)[0]} changed while it ran")
        return after

    def _verified(
        self, key: Key, item: Item, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run a hit again; the value of the run.

        Raises:
            WrongHitError: an argument is not what it was taken for, or the run gave something else.
        """
        audit, label = self.memo.audit, self._definition.label
        for tensor in tensors_in(args, kwargs, self.function):
            if not LEDGER.check(tensor):
                raise audit.wrong("memo", label, f"a hit, although {_unseen(tensor)}")
        value = self.function(*args, **kwargs)
        self.memo.counts["verified"] += 1
        assert item.result is not None
        if _is_same(item.result, value, tensors_in(args, kwargs)):
            audit.compared("memo")
            return value
        self.memo.forget(key.digest)
        raise audit.wrong(
            "memo",
            label,
            "a hit, run again, gave something else. It depends on something that is not in its key, "
            "or does not compute the same twice. Pass that as an argument, or do not memoise it; "
            "mem.memo.clear() forgets what was kept.",
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


def _is_same(kept: Result, value: object, arguments: Sequence[Tensor]) -> bool:
    """Whether a run gave what is kept, bit for bit."""
    try:
        again = take_apart(value, arguments)
    except Unkeepable:
        return False
    before = {n: t for n, t in kept.tensors.items() if not n.startswith("rng ")}
    return (
        again.texts.get("mmsb.result") == kept.texts["mmsb.result"]
        and before.keys() == again.tensors.keys()
        and all(same_bits(before[name], again.tensors[name]) for name in before)
    )


def _unseen(tensor: Tensor) -> str:
    """What is said of a tensor that is not what the ledger takes it for."""
    return (
        f"a tensor {list(tensor.shape)} of {tensor.dtype} that it takes was written where nobody "
        "sees it, such as through an address taken before. It is read again from now on; write "
        "through torch or numpy."
    )
