"""Reading ahead: makes hits quicker, and no value another."""

import threading

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmsb_torch as mmsb


def plus(x, number=1):
    return x + number


def noisy(number):
    return torch.rand(3) + number


def other(number):
    return -number


@pytest.fixture
def path(tmp_path):
    """A store with results of `plus` for 0 to 9, `noisy` and `other`."""
    with mmsb.open(tmp_path / "run.mmsb") as mem:
        f = mem.memo(plus)
        for number in range(10):
            f(torch.arange(100.0), number)
        torch.manual_seed(0)
        mem.memo(noisy)(1)
        mem.memo(other)(1)
    return tmp_path / "run.mmsb"


def test_all_of_a_function_is_read(path):
    with mmsb.open(path, mode="memo") as mem:
        f = mem.memo(plus)
        reading = mem.memo.prefetch(f)
        assert reading.wait(20)
        assert reading.read == 10
        assert "10 results" in repr(reading)
        assert len(mem.memo.shelf) == 10
        for number in range(10):
            assert torch.equal(f(torch.arange(100.0), number), torch.arange(100.0) + number)
        row = mem.memo.report()["plus"]
        assert (row.hits, row.ahead, row.from_disk, row.misses) == (10, 10, 0, 0)
        assert row.read_ahead == 10
        assert "10 read ahead (of 10)" in str(mem.memo.report())
        assert mem.memo.stats()["hits_ahead"] == 10


def test_calls_that_are_named_are_read_and_no_others(path):
    with mmsb.open(path, mode="r") as mem:
        f, x = mem.memo(plus), torch.arange(100.0)
        reading = mem.memo.prefetch(f, [(x, 3), (x, 77), (x.clone(), 4)])
        assert reading.wait(20)
        assert reading.read == 2
        f(x, 3)
        f(x, 5)
        row = mem.memo.report()["plus"]
        assert (row.ahead, row.from_disk) == (1, 1)


def test_random_results_are_read_with_all(path):
    with mmsb.open(path, mode="r") as mem:
        f = mem.memo(noisy)
        assert mem.memo.prefetch(f).wait(20)
        torch.manual_seed(0)
        first, after = f(1), torch.rand(2)
        assert mem.memo.stats()["misses"] == 0
    torch.manual_seed(0)
    assert torch.equal(first, noisy(1))
    assert torch.equal(after, torch.rand(2))


def test_it_pushes_nothing_off_and_says_when_there_is_no_room(path):
    with mmsb.open(path, mode="r") as mem:
        f = mem.memo(plus)
        mem.memo.shelf.budget = 3 * 700
        kept = f(torch.arange(100.0), 0)
        reading = mem.memo.prefetch(f)
        assert reading.wait(20)
        assert reading.full
        assert reading.read == 2
        assert "no room for more" in repr(reading)
        assert torch.equal(f(torch.arange(100.0), 0), kept)
        assert mem.memo.report()["plus"].from_disk == 1


def test_without_a_path_there_is_nothing_to_read():
    with mmsb.open() as mem:
        reading = mem.memo.prefetch(mem.memo(plus))
        assert reading.wait(0)
        assert reading.read == 0


def test_what_is_no_memoised_function_or_no_call_is_refused(path):
    with mmsb.open(path) as mem, mmsb.open() as another:
        f = mem.memo(plus)
        for wrong in (plus, another.memo(plus), None, "plus"):
            with pytest.raises(mmsb.InvalidMemoError, match="was not memoised by this memory"):
                mem.memo.prefetch(wrong)
        with pytest.raises(mmsb.InvalidMemoError, match="tuples of arguments"):
            mem.memo.prefetch(f, [torch.ones(3)])
        with pytest.raises(mmsb.InvalidMemoError, match="too many"):
            mem.memo.prefetch(f, [(1, 2, 3)])
    with pytest.raises(mmsb.ClosedError):
        mem.memo.prefetch(f)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_results_are_not_read_and_computed(path, damage):
    with mmsb.open(path, mode="r") as mem:
        for stored in mem.memo.objects.stored():
            raw = bytearray(stored.path.read_bytes())
            raw[-1] ^= 1
            stored.path.write_bytes(raw if damage == "flip" else raw[:-8])
        f = mem.memo(plus)
        reading = mem.memo.prefetch(f)
        assert reading.wait(20)
        assert reading.read == 0
        assert torch.equal(f(torch.arange(100.0), 3), torch.arange(100.0) + 3)


def test_what_is_forgotten_while_it_is_read_does_not_come_back(path):
    with mmsb.open(path) as mem:
        f, x = mem.memo(plus), torch.arange(100.0)
        read, goes_on = threading.Event(), threading.Event()
        real = mem.memo.objects.get

        def get(key, **options):
            found = real(key, **options)
            read.set()
            assert goes_on.wait(20)
            return found

        mem.memo.objects.get = get
        reading = mem.memo.prefetch(f, [(x, 3)])
        assert read.wait(20)
        mem.memo.clear()
        goes_on.set()
        assert reading.wait(20)
        assert reading.read == 0
        assert len(mem.memo.shelf) == 0


def test_closing_ends_it(path):
    with mmsb.open(path) as mem:
        f = mem.memo(plus)
        readings = [mem.memo.prefetch(f) for _ in range(50)]
    assert all(reading.wait(0) for reading in readings)
    assert not [t for t in threading.enumerate() if t.name == "mmsb ahead"]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(0, 5)),
        st.tuples(st.just("prefetch"), st.lists(st.integers(0, 5), max_size=3)),
        st.tuples(st.just("all"), st.none()),
        st.tuples(st.just("edit"), st.integers(0, 5)),
        st.tuples(st.just("clear"), st.none()),
        st.tuples(st.just("reopen"), st.none()),
        st.tuples(st.just("wait"), st.none()),
    ),
    max_size=20,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_whatever_is_read_ahead_every_call_gives_what_the_function_gives(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("ahead") / "run.mmsb"
    inputs = [torch.full((200,), float(n)) for n in range(6)]
    mem, last = mmsb.open(path, budget=4000), None
    f = mem.memo(plus)
    for act, what in steps:
        if act == "call":
            assert torch.equal(f(inputs[what]), inputs[what] + 1)
        elif act == "prefetch":
            last = mem.memo.prefetch(f, [(inputs[n],) for n in what])
        elif act == "all":
            last = mem.memo.prefetch(f)
        elif act == "edit":
            inputs[what] += 10
        elif act == "clear":
            mem.memo.clear()
        elif act == "reopen":
            mem.close()
            mem, last = mmsb.open(path, budget=4000), None
            f = mem.memo(plus)
        elif last is not None:
            assert last.wait(20)
    for value in inputs:
        assert torch.equal(f(value), value + 1)
    mem.close()
