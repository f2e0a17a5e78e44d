"""From a recording to recipes: which pages a block becomes, and what each of them replays.

Where nothing is written in place and nothing is told to Python, calls are cut into regions: all
calls of a region depend on the same inputs, and only what its last call makes is used outside. So a
change of one input runs exactly the calls that depend on it. Views are cheap, and so is what depends
on no input: these are repeated where they are used. Otherwise each output replays all that it
depends on, in order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from mmsb_torch.errors import RecordingError
from mmsb_torch.graph.calls import short
from mmsb_torch.graph.replay import Block, Slot, Step, replay
from mmsb_torch.instrumentation.capture.tape import Call
from mmsb_torch.instrumentation.capture.values import OUTSIDE, Value

Source = tuple[int, str, int]


class Lifted(NamedTuple):
    """One page to be: its name, what it replays, and the names of the pages that it takes."""

    name: str
    replay: Callable[..., Tensor]
    inputs: tuple[str, ...]
    source: Source
    """The tensor of the recording that it is."""


class Lift:
    """Plans the pages of a block.

    Args:
        calls: of the whole recording.
        inputs: names of the pages that stand for values from outside.
        constants: tensors for the other values from outside.
        outputs: names, and the values that become pages of these names.

    Raises:
        RecordingError: something on the way to an output cannot be replayed.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        inputs: Mapping[Source, str],
        constants: Mapping[Source, Tensor],
        outputs: Mapping[str, Value],
    ) -> None:
        self._calls, self._inputs = calls, inputs
        self._constants, self._outputs = constants, outputs
        needed = _above(calls, (i for v in outputs.values() for i in (v.call, v.writer)))
        last = max(needed, default=-1)
        told = [call.index for call in calls[: last + 1] if call.kind.reads]
        needed |= _above(calls, told)
        self._slice = [calls[index] for index in sorted(needed)]
        for call in self._slice:
            _check(call)
        self._whole = bool(told) or any(call.wrote for call in self._slice)

    def outside(self) -> list[Value]:
        """The values from outside that the pages will need."""
        read = [value for call in self._slice for value in call.read]
        read += self._outputs.values()
        return list({value.source: value for value in read if value.call == OUTSIDE}.values())

    def whole(self, name: str) -> Lifted:
        """All that an output depends on, as one page."""
        return self._lifted(name, self._slice, self._outputs[name].source, self._inputs)

    def pages(self) -> list[Lifted]:
        """The pages to make, inputs before what is computed from them."""
        if self._whole:
            return [self.whole(name) for name in self._outputs]
        regions = self._regions()
        given = {value.source: name for name, value in reversed([*self._outputs.items()])}
        read = {value.source for call in self._slice for value in call.read}
        names, found = dict(self._inputs), []
        for call in self._slice:
            if call.index not in regions[call.index]:
                continue
            steps = self._members(call, regions)
            for place, value in enumerate(call.made):
                if value.source in given or value.source in read:
                    name = given.get(value.source) or self._name(call, place)
                    found.append(self._lifted(name, steps, value.source, names))
            names.update((page.source, page.name) for page in found if page.source[0] == call.index)
        for name, value in self._outputs.items():  # an input, or a second name for one tensor
            if name != names.get(value.source) or value.call == OUTSIDE:
                found.append(self._lifted(name, [], value.source, names))
        return found

    def _name(self, call: Call, place: int) -> str:
        suffix = f"_{place}" if len(call.made) > 1 else ""
        return f"{next(iter(self._outputs))}.{short(call.op)}_{call.index}{suffix}"

    def _regions(self) -> dict[int, set[int]]:
        """For each call the regions that it is executed in, each named by its last call."""
        needs = self._needs()
        outputs = {value.call for value in self._outputs.values()}
        users: dict[int, set[int]] = {call.index: set() for call in self._slice}
        regions = {}
        for call in reversed(self._slice):
            index = call.index
            mine = users[index]
            alone = len(mine) == 1 and needs[index] == needs[next(iter(mine))]
            cheap = call.kind.view or not needs[index]
            if index in outputs or not (alone or cheap):
                mine = {index}
            regions[index] = mine
            for parent in call.parents:
                users[parent] |= mine
        return regions

    def _needs(self) -> dict[int, frozenset[Source]]:
        """The inputs that each call depends on."""
        needs: dict[int, frozenset[Source]] = {}
        for call in self._slice:
            own = {value.source for value in call.read if value.source in self._inputs}
            needs[call.index] = frozenset(own).union(*(needs[parent] for parent in call.parents))
        return needs

    def _members(self, last: Call, regions: Mapping[int, set[int]]) -> list[Call]:
        """The calls of a region."""
        seen, waiting = {last.index}, list(last.parents)
        while waiting:
            index = waiting.pop()
            if index not in seen and index not in regions[index]:
                seen.add(index)
                waiting.extend(self._calls[index].parents)
        return [self._calls[index] for index in sorted(seen)]

    def _lifted(
        self, name: str, calls: Sequence[Call], result: Source, pages: Mapping[Source, str]
    ) -> Lifted:
        """A page that replays `calls` on what it reads of `pages`."""
        places: dict[Source, int] = {}

        def place(source: Source) -> int:
            return places.setdefault(source, len(places))

        steps = [_step(call, place) for call in calls]
        inner = {value.source for call in calls for value in (*call.made, *call.wrote)}
        place(result)
        taken = [source for source in places if source in pages and source not in inner]
        held = {
            source: self._constants[source]
            for source in places
            if source in self._constants and source not in pages
        }
        block = Block(
            steps=tuple(steps),
            inputs=tuple(places[source] for source in taken),
            places=tuple(places[source] for source in held),
            constants=tuple(held.values()),
            result=places[result],
        )
        names = tuple(pages[source] for source in taken)
        return Lifted(name, functools.partial(replay, block), names, result)


def _above(calls: Sequence[Call], indices: Iterable[int]) -> set[int]:
    """Calls, and all that they depend on."""
    waiting, seen = [index for index in indices if index != OUTSIDE], set()
    while waiting:
        index = waiting.pop()
        if index not in seen:
            seen.add(index)
            waiting.extend(calls[index].parents)
    return seen


def _step(call: Call, place: Any) -> Step:
    def plain(item: Any) -> Any:
        if isinstance(item, Value):
            return Slot(place(item.source))
        return tuple(plain(part) for part in item) if isinstance(item, list) else item

    assert call.args is not None
    assert call.kwargs is not None
    return Step(
        op=call.kind.func,
        args=tuple(plain(item) for item in call.args),
        kwargs={name: plain(item) for name, item in call.kwargs.items()},
        made=tuple(place(value.source) for value in call.made),
        wrote=tuple(
            (*where, place(value.source))
            for where, value in zip(_written(call), call.wrote, strict=False)
        ),
        told=call.told,
        shapes=tuple(value.shape for value in call.made) if call.kind.dynamic else (),
        site=str(call.site) if call.kind.reads or call.kind.dynamic else "",
    )


def _written(call: Call) -> Iterator[tuple[int | str, int]]:
    """Where the tensors that a call writes stand among its arguments: (argument, element or -1)."""
    assert call.args is not None
    assert call.kwargs is not None
    for position, name in call.kind.writes:
        by_position = position < len(call.args)
        item = call.args[position] if by_position else call.kwargs.get(name)
        key: int | str = position if by_position else name
        if isinstance(item, Value):
            yield key, -1
        elif isinstance(item, list):
            yield from ((key, i) for i, part in enumerate(item) if isinstance(part, Value))


def _check(call: Call) -> None:
    """Refuse a call that a replay would not do again as it was.

    Raises:
        RecordingError: says which, where and why.
    """
    problem = ""
    if call.error:
        problem = f"raised {call.error}"
    elif call.kind.opaque or call.args is None or call.kwargs is None:
        problem = "calls Python functions: replaying it is not possible"
    elif call.kind.draws(call.args, call.kwargs):
        problem = "draws random numbers: another run would draw others"
    elif any(value.storage.maker == OUTSIDE for value in call.wrote):
        problem = "writes into a tensor from outside of the block, which a page must not do"
    elif any(value.unseen for value in call.read):
        problem = "reads memory that something wrote or made without being seen"
    elif any(value.storage.wrapper for value in (*call.read, *call.made)):
        problem = "uses tensors that are not plain dense ones"
    if problem:
        raise RecordingError(
            f"cannot lift {call.op} in {call.site or 'the block'}: it {problem}. Lift a part of "
            "the block without it, or declare the page with mem.derive(function, ...)."
        )
