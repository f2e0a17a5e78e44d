"""Random kinds that choose what they read equal plain recomputation, in many threads too."""

import contextlib
import functools
import random
import threading
import time

import pytest
import torch

import mmsb_torch as mmsb


class Puzzle:
    """Pages that read what other pages' values tell them to; some fail for some values."""

    def __init__(self, seed):
        self.chance = chance = random.Random(seed)
        self.state = {f"r{i}": chance.randrange(6) for i in range(4)}
        names, self.plans = list(self.state), {}
        for i in range(14):
            self.plans[f"k{i}"] = (
                chance.sample(names, 3),
                chance.randrange(2, 5),
                chance.random() < 0.2,
            )
            names.append(f"k{i}")

    def value(self, read, name):
        """What page `name` should be; `read` gives other pages."""
        (switch, left, right), modulus, picky = self.plans[name]
        chosen = read(switch)
        if picky and chosen % modulus == 1:
            raise ArithmeticError(name)
        found = read(left if chosen % modulus else right)
        return (found + read(right)) % 6 if chosen % 2 else found

    def full(self, name):
        """The value of a page by plain calls; None if it has none."""
        try:
            return self._full(name)
        except ArithmeticError:
            return None

    def _full(self, name):
        return self.state[name] if name in self.state else self.value(self._full, name)

    def declare(self, mem, kind):
        """Its pages in a memory."""
        value = functools.partial(Puzzle.value, Plans(self.plans))

        def function(memory, page):
            return torch.tensor(value(lambda n: int(memory[n].tensor), page.metadata["name"]))

        mmsb.register_recomputation(kind, function)
        for name, number in self.state.items():
            mem.page(name, torch.tensor(number))
        for name in self.plans:
            mem.page(name, kind=kind, metadata={"name": name})

    def work(self, mem, seed, end):
        """What one of several threads does until `end`."""
        chance = random.Random(seed)
        while time.monotonic() < end:
            name = chance.choice(list(self.plans))
            with contextlib.suppress(mmsb.RecipeError):
                if seed < 2:
                    mem.update(chance.choice(list(self.state)), chance.randrange(6))
                if seed == 5:
                    mem.propagate()
                elif seed == 6:
                    assert 0 <= int(mem.at(mem.tx)[name]) < 6
                else:
                    assert 0 <= int(mem[name].tensor) < 6


@pytest.mark.parametrize("seed", range(8))
def test_random_kinds_equal_full_recomputation(mem, kind, seed):
    puzzle = Puzzle(seed)
    puzzle.declare(mem, kind)
    for _ in range(40):
        root = puzzle.chance.choice(list(puzzle.state))
        puzzle.state[root] = puzzle.chance.randrange(6)
        mem.update(root, puzzle.state[root])
        for name in puzzle.chance.sample(list(puzzle.plans), 3):
            wanted = puzzle.full(name)
            if wanted is None:
                with pytest.raises(mmsb.RecipeError, match="ArithmeticError"):
                    _ = mem[name].tensor
            else:
                assert int(mem[name].tensor) == wanted, name


class Plans:
    """The part of a puzzle that does not change."""

    def __init__(self, plans):
        self.plans = plans


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(2))
def test_random_kinds_in_many_threads(mem, kind, seed):
    """Nobody waits for ever, nothing unexpected is raised, and in the end everything is right."""
    puzzle, errors = Puzzle(seed), []
    puzzle.declare(mem, kind)

    def work(number, end):
        try:
            puzzle.work(mem, number, end)
        except BaseException as error:
            errors.append(error)

    end = time.monotonic() + 2.0
    threads = [threading.Thread(target=work, args=(i, end), daemon=True) for i in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []
    puzzle.state = {name: int(mem[name].tensor) for name in puzzle.state}
    for name in puzzle.plans:
        wanted = puzzle.full(name)
        if wanted is None:
            with pytest.raises(mmsb.RecipeError, match="ArithmeticError"):
                _ = mem[name].tensor
        else:
            assert int(mem[name].tensor) == wanted
