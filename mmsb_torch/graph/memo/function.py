"""A memoised function: a call whose key is known is answered from what it returned before."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmsb_torch.device import same_bits
from mmsb_torch.errors import CorruptStoreError, InvalidMemoError
from mmsb_torch.graph.memo import randomness
from mmsb_torch.graph.memo.checks import (
    check_function,
    check_options,
    requires_grad,
    said,
    tensors_in,
)
from mmsb_torch.graph.memo.explain import Explanation, hit
from mmsb_torch.graph.memo.kept import GENERATORS
from mmsb_torch.graph.memo.keys import Key, Keying, Refused, Unfit, difference
from mmsb_torch.graph.memo.results import Result, Unkeepable, put_together, take_apart
from mmsb_torch.graph.memo.shelf import Item
from mmsb_torch.instrumentation.code import Definition
from mmsb_torch.instrumentation.identity import LEDGER

if TYPE_CHECKING:
    from mmsb_torch.graph.memo.memo import Memo


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
        self.label = said_of(self._definition)
        """Its name in reports."""
        self._tally = memo.tallies.of(self.label)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, or give what it returned for the same call before."""
        self.memo.check()
        try:
            return self._answer(args, kwargs, time.perf_counter())
        finally:
            if self.memo.events.wanted:
                self.memo.events.deliver()

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any], begun: float) -> Any:
        memo = self.memo
        try:
            key = self._key(args, kwargs)
        except (Refused, Unfit) as reason:  # arguments that do not fit are the function's to refuse
            memo.counts["refused"] += 1
            self._tally.unkept(str(reason), keyless=True)
            return self.function(*args, **kwargs)
        found = memo.find(key)
        if found is None:
            return self._once(key, args, kwargs, begun)
        return self._hit(found, args, kwargs, begun)

    def _once(
        self, key: Key, args: tuple[Any, ...], kwargs: Mapping[str, Any], begun: float
    ) -> Any:
        """Run the function, or wait for the thread or the process that does."""
        memo, digest, air = self.memo, key.digest, threading.Lock()
        with air:
            alone = memo.flights.take_off(digest, air)
            lease = memo.objects.lease(digest) if alone and memo.objects is not None else None
            with lease or contextlib.nullcontext():
                try:
                    found = memo.find(key) if alone else None
                    if found is None:
                        return self._run(key, args, kwargs, begun)
                finally:
                    memo.flights.land(digest, air)
                    if lease is not None and memo.objects is not None:
                        memo.objects.end_lease(digest)
        return self._hit(found, args, kwargs, begun)

    def _hit(
        self,
        found: tuple[Key, Item],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        begun: float,
    ) -> Any:
        """What was found, as a run would give it. `begun`: when it was asked for."""
        memo, (key, item) = self.memo, found
        memo.counts["hits"] += 1
        self._calls.note(key, memo.worlds.number, self._definition.digest)
        item.hits += 1
        if self._share and memo.audit.due(self._share):
            return self._verified(key, item, args, kwargs)
        try:
            value = _handed_out(item)
        except CorruptStoreError:  # whole, but nothing that this version wrote
            memo.shelf.remove(key.digest)
            return self.function(*args, **kwargs)
        origin = item.origin if item.hits == 1 else "memory"
        self._tally.hit(origin, item.cost_s, time.perf_counter() - begun)
        return value

    def digests(self, calls: Iterable[tuple[Any, ...]]) -> list[str]:
        """The keys of calls, of those that have one.

        Raises:
            InvalidMemoError: the arguments of one do not fit.
        """
        found = []
        for args in calls:
            if not isinstance(args, tuple):
                raise InvalidMemoError(
                    f"prefetch: expected tuples of arguments, found {said(args)}: pass [(x,)] for f(x)."
                )
            with contextlib.suppress(Refused):
                try:
                    found.append(self._key(args, {}).digest)
                except Unfit as error:
                    raise InvalidMemoError(f"prefetch: {self.label}: {error}.") from None
        return found

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
        return self._why_missed(key)

    def _why_missed(self, key: Key) -> Explanation:
        marker = self.memo.shelf.get(key.digest)
        if marker is not None and marker.result is None:  # else there would be a result
            return Explanation(False, "random generators changed", marker.world)
        if key.digest in self.memo.evicted:
            return Explanation(False, "it was evicted: results are over the budget")
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

    def _run(self, key: Key, args: tuple[Any, ...], kwargs: Mapping[str, Any], asked: float) -> Any:
        """Compute a call that was asked for at that time, and keep what it gives."""
        memo, why = self.memo, self._why_missed(key).reason
        world = memo.worlds.number
        before = randomness.state()
        begun = time.perf_counter()
        value = self.function(*args, **kwargs)
        seconds = time.perf_counter() - begun
        memo.counts["misses"] += 1
        self._calls.note(key, world, self._definition.digest)
        self._keep(key, value, (before, seconds, world), args, kwargs)
        self._tally.miss(why, seconds, time.perf_counter() - asked)
        return value

    def _keep(
        self,
        key: Key,
        value: Any,
        ran: tuple[randomness.State, float, int],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        """Keep what a call gave, if that can be. `ran`: generators before, seconds, world."""
        memo, (before, seconds, world) = self.memo, ran
        try:
            after = self._check_purity(key, before, args, kwargs)
            result = take_apart(value, tensors_in(args, kwargs))
        except (Unkeepable, Refused) as reason:
            self._calls.refuse(key, str(reason))
            self._tally.unkept(str(reason))
            return
        label = self.label
        if (after.cpu, after.cuda) != (before.cpu, before.cuda):
            memo.keep(key, None, seconds, label, world)
            key = key.with_part(GENERATORS, b"".join((before.cpu, *before.cuda)))
            result.tensors.update(randomness.save())
        memo.keep(key, result, seconds, label, world)

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


def said_of(definition: Definition) -> str:
    """A function's name in reports: where it is in its file does not matter."""
    module, name = definition.home
    return definition.label if "<lambda>" in name else f"{module}.{name}".removeprefix("__main__.")


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
