"""What the memory's tests share: memories to try things on, photographs of them, patience."""

import ctypes
import math
import threading

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.device import copy_of, flat_words


def octets(tensor):
    """A tensor's dtype, shape and bits, to compare with `==`."""
    bits = (
        flat_words(copy_of(tensor)).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    )
    return tensor.dtype, tuple(tensor.shape), bits


def random_octets(shape, dtype, seed=0):
    """A tensor of random bits: NaN payloads and -0.0 among them; bools are 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    top = 2 if dtype is torch.bool else 256
    count = math.prod(shape) * dtype.itemsize
    raw = torch.randint(0, top, (count,), dtype=torch.uint8, generator=generator)
    if dtype is torch.complex128:  # the only one that torch does not reinterpret from bytes
        return torch.view_as_complex(raw.view(torch.float64).view(-1, 2)).view(shape)
    return raw.view(dtype).view(shape)


def photograph(memory):
    """Everything a refused call must leave as it was, as plain data; reads every derived page."""
    pages = {
        page.name: (
            page.id,
            octets(page.tensor),
            page.epoch,
            octets(page.mask),
            dict(page.metadata),
            len(page.history()),
        )
        for page in memory.pages()
    }
    numbers = memory.stats()
    kept = {key: numbers[key] for key in ("pages", "derived", "edges", "transaction", "deltas")}
    return pages, list(memory), memory.tx, kept


def run_bounded(function, seconds=20.0):
    """Call `function` on another thread and return its result; fail if it does not come back."""
    outcome = []

    def target():
        try:
            outcome.append((True, function()))
        except BaseException as error:  # handed to the caller below
            outcome.append((False, error))

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        # ends a thread that turns in circles, so that it does not slow the tests after this one
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
        )
        pytest.fail(f"{function.__name__} did not come back within {seconds} s")
    fine, result = outcome[0]
    if not fine:
        raise result
    return result


@pytest.fixture
def bounded():
    return run_bounded


@pytest.fixture
def picture_of():
    return photograph


@pytest.fixture
def bits_of():
    return octets


@pytest.fixture
def random_bits():
    return random_octets


@pytest.fixture
def mem():
    """An empty memory in RAM."""
    memory = mmsb.open()
    yield memory
    memory.close()


@pytest.fixture
def path(tmp_path):
    """Where a store can be made."""
    return tmp_path / "run.mmsb"


# made once: the changes below also run where torch makes new tensors elsewhere or otherwise
SEVENS = torch.full((5, 3), 7.0)
NINE = torch.arange(9.0).view(3, 3)
PAIR = torch.tensor([7.0, 8.0])
ZEROS = torch.zeros(4, dtype=torch.int64)
FEW = torch.zeros(5, 3, dtype=torch.bool)
FEW[1, 2] = True
MOST = torch.arange(15).view(5, 3) != 4


def by_value(memory):
    memory.update("a", SEVENS)


def by_number(memory):
    memory.update("a", 7.0)


def by_scalar_tensor(memory):
    memory.update("a", PAIR[0], rows=[3])


def by_row(memory):
    memory.update("a", SEVENS[:1], rows=[2])


def by_rows(memory):
    memory.update("a", NINE, rows=[4, 0, -3])


def by_all_rows(memory):
    memory.update("a", SEVENS, rows=range(5))


def by_indices(memory):
    memory.update("a", PAIR, indices=[14, 3])


def by_coordinates(memory):
    memory.update("a", PAIR, indices=[[4, 2], [1, 0]])


def by_sparse_mask(memory):
    memory.update("a", SEVENS, mask=FEW)


def by_dense_mask(memory):
    memory.update("a", SEVENS, mask=MOST)


def by_transaction(memory):
    with memory.commit() as tx:
        tx.update("a", SEVENS[:2], rows=[0, 1])
        tx.update("a", NINE[:2], rows=[1, 2])
        tx.update("b", 3)


def by_mixed_transaction(memory):
    with memory.commit() as tx:
        tx.update("a", NINE, rows=[0, 1, 2])
        tx.update("a", PAIR, indices=[9, 13])
        tx.update("a", SEVENS, mask=MOST)
        tx.update("b", ZEROS[:2], rows=[0, 1])
        tx.update("b", ZEROS[:2], rows=[2, 3])


def by_parts_of_everything(memory):
    with memory.commit() as tx:
        tx.update("a", NINE, rows=[0, 1, 2])
        tx.update("a", SEVENS.view(-1)[:6], indices=range(9, 15))


def by_many(memory):
    memory.update_many([("a", [1], SEVENS[:1]), ("b", None, ZEROS)])


def by_restore(memory):
    memory.update("a", -1.0)
    memory.restore(1)


UPDATES = (
    by_value,
    by_number,
    by_scalar_tensor,
    by_row,
    by_rows,
    by_all_rows,
    by_indices,
    by_coordinates,
    by_sparse_mask,
    by_dense_mask,
    by_transaction,
    by_mixed_transaction,
    by_parts_of_everything,
    by_many,
    by_restore,
)


@pytest.fixture(params=UPDATES, ids=lambda function: function.__name__)
def change(request):
    """One way to change page `a` (float32 [5, 3]) of a memory that also has `b` (int64 [4])."""
    return request.param


@pytest.fixture
def ab(mem):
    """A memory of `a` (float32 [5, 3], 0 to 14) and `b` (int64 [4], 0 to 3)."""
    mem.page("a", torch.arange(15.0).view(5, 3))
    mem.page("b", torch.arange(4))
    return mem


@pytest.fixture
def twin(ab):
    """A second memory with the pages of `ab`."""
    with mmsb.open() as memory:
        memory.page("a", ab["a"].clone())
        memory.page("b", ab["b"].clone())
        yield memory


def doubled(a):
    return a * 2


@pytest.fixture
def history(ab):
    """1 and 2 make `a` and `b`; 3 "rows" step 10; 4; 5 "late" makes `c`; 6 step 20."""
    ab.derive(doubled, "a", name="d")
    with ab.commit("rows", step=10) as tx:
        tx.update("a", 100.0, rows=[1])
    ab.update("b", 7, indices=[2])
    ab.page("c", torch.zeros(2))
    with ab.commit("late", step=20) as tx:
        tx.update("a", 0.0)
        tx.update("c", 1.0)
    return ab


CONTEXTS = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "grad": torch.enable_grad,
    "meta by default": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.fixture(params=CONTEXTS.values(), ids=CONTEXTS.keys())
def context(request):
    """Makes a context that users may be in when they call."""
    return request.param
