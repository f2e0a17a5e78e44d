"""R10: any moment is rebuilt bit for bit, before and after checkpoints, restores and reopening."""

import math
import random
import shutil

import torch

import mmsb_torch as mmsb
from mmsb_torch.device import copy_of, same_bits
from mmsb_torch.testing import DTYPES, Append, ModelMemory, Update, abandon, random_bits
from mmsb_torch.types import Spec

SHAPES = [(), (0,), (3,), (2, 0, 3), (5, 7), (4, 3, 2), (1, 9), (40, 3)]
ROUNDS, CHANGES, LOOKS = 30, 15, 10  # of one store


def any_values(shape, dtype, numbers):
    """Random bits of a shape (NaN payloads and -0.0 among them), in any layout."""
    seed, layout = numbers.randrange(2**31), numbers.randrange(5)
    if layout == 1 and len(shape) > 1:
        return random_bits(shape[::-1], dtype, seed).permute(*range(len(shape))[::-1])
    if layout == 2 and shape:
        return random_bits((2 * shape[0], *shape[1:]), dtype, seed)[::2]
    if layout == 3 and shape:
        return random_bits((1, *shape[1:]), dtype, seed).expand(shape)
    if layout == 4 and shape:
        return random_bits((shape[0] + 2, *shape[1:]), dtype, seed)[1:-1]
    return random_bits(shape, dtype, seed)


class Walk:
    """A memory and the obvious model of it, changed side by side."""

    def __init__(self, path, numbers):
        self.path, self.numbers = path, numbers
        self.memory, self.model = mmsb.open(path), ModelMemory()
        self.epochs = [{}]
        for number, dtype in enumerate(DTYPES):
            name, value = f"page {number}", any_values(numbers.choice(SHAPES), dtype, numbers)
            self.memory.page(name, value)
            self.model.page(name, copy_of(value))
            self._note()

    def _note(self):
        assert self.memory.tx == self.model.tx
        self.epochs.append(dict(self.model.epochs))

    def change(self):
        act = self.numbers.randrange(20)
        if act == 0:
            tx = self.numbers.randrange(1, self.model.tx + 1)
            self.memory.restore(tx)
            self.model.restore(tx)
            self._note()
        elif act == 1:
            self.memory.checkpoint(keep=self.numbers.choice((None, 1, 3)))
        elif act == 2:
            self.memory.close()
            self.memory = mmsb.open(self.path)
        elif act == 3:
            abandon(self.memory)
            self.memory = mmsb.open(self.path)
        elif act < 8:
            self._commit([self._update() for _ in range(self.numbers.randrange(1, 5))])
        elif act < 11:
            self._append()
        else:
            self._commit([self._update()])

    def _commit(self, changes):
        wait = self.numbers.random() < 0.8
        with self.memory.commit(wait=wait) as tx:
            for name, values, options in changes:
                tx.update(name, values, **options)
        if not wait:
            tx.wait()
        plain = [(n, Update(copy_of(values), **options)) for n, values, options in changes]
        self.model.commit(plain)
        self._note()

    def _append(self):
        """Rows for a few pages, and an update of one of them after it got its rows, if it has rows."""
        numbers, changes = self.numbers, []
        with self.memory.commit() as tx:
            for name in numbers.sample(list(self.model.state), 3):
                value = self.model.state[name]
                if value.dim():
                    shape = (numbers.randrange(4), *value.shape[1:])
                    rows = any_values(shape, value.dtype, numbers)
                    tx.append(name, rows)
                    changes.append((name, Append(copy_of(rows))))
                    last = value.shape[0] + shape[0] - 1
                    if last >= 0:
                        row = any_values((1, *shape[1:]), value.dtype, numbers)
                        tx.update(name, row, rows=[last])
                        changes.append((name, Update(copy_of(row), rows=[last])))
        if changes:
            self.model.commit(changes)
            self._note()

    def _update(self):
        """A page's name, new values for some of it, and where they go."""
        numbers = self.numbers
        name = numbers.choice(list(self.model.state))
        value = self.model.state[name]
        shape, dtype, total = tuple(value.shape), value.dtype, value.numel()
        form = numbers.choice(("all", "alias", "rows", "indices", "mask"))
        if form == "alias":  # the page's own tensor, or a part of it
            page = self.memory[name].tensor
            if not shape or numbers.random() < 0.5:
                return name, page, {}
            rows = list(range(shape[0]))[::2]
            return name, page[: len(rows)], {"rows": rows}
        if form == "rows" and shape:
            rows = numbers.sample(range(shape[0]), numbers.randrange(shape[0] + 1))
            return name, any_values((len(rows), *shape[1:]), dtype, numbers), {"rows": rows}
        if form == "indices":
            indices = numbers.sample(range(total), numbers.randrange(min(total, 6) + 1))
            return name, any_values((len(indices),), dtype, numbers), {"indices": indices}
        if form == "mask":
            mask = random_bits(shape, torch.bool, numbers.randrange(2**31))
            return name, any_values(shape, dtype, numbers), {"mask": mask}
        return name, any_values(shape, dtype, numbers), {}

    def look(self):
        """Whether a random moment is what it was."""
        tx = self.numbers.randrange(1, self.model.tx + 1)
        moment, wanted = self.memory.at(tx), self.model.states[tx]
        assert set(moment) == set(wanted)
        return all(
            same_bits(moment[name], value)
            and Spec.of(moment[name]) == Spec.of(value)
            and moment.epoch(name) == self.epochs[tx][name]
            for name, value in wanted.items()
        )


def test_any_moment_is_rebuilt_bit_for_bit(tmp_path, gate):
    looks = gate.trials("R10", test=60, gate=300, soak=10_000)
    per_store = ROUNDS * LOOKS
    numbers, silent, acknowledged = random.Random(10), 0, 0
    for number in range(math.ceil(looks / per_store)):
        walk = Walk(tmp_path / f"{number}.mmsb", numbers)
        left = min(looks - number * per_store, per_store)
        for turn in range(left):
            if turn % LOOKS == 0:
                for _ in range(CHANGES):
                    walk.change()
            silent += not walk.look()
        assert walk.memory.verify() == []
        acknowledged += walk.memory.tx
        walk.memory.close()
        shutil.rmtree(walk.path)
    gate.report("R10", looks, silent=silent, lost=0, acknowledged=acknowledged)
