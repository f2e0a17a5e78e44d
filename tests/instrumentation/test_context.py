"""Torch's settings and modes around recipes."""

import json

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import mmsb_torch as mmsb
from mmsb_torch.instrumentation import context


@pytest.fixture
def mem():
    with mmsb.open() as memory:
        memory.page("x", torch.arange(6.0).view(3, 2))
        yield memory


def precision(value):
    return lambda: torch.set_float32_matmul_precision(value)


CHANGES = {
    "default dtype": (lambda: torch.set_default_dtype(torch.float64), torch.float32),
    "number of threads": (lambda: torch.set_num_threads(2), 1),
    "deterministic algorithms": (lambda: torch.use_deterministic_algorithms(True), False),
    "float32 matmul precision": (precision("medium"), "highest"),
    "oneDNN": (lambda: torch.backends.mkldnn.set_flags(False), True),
    "flash attention": (lambda: torch.backends.cuda.enable_flash_sdp(False), True),
    "math attention": (lambda: torch.backends.cuda.enable_math_sdp(False), True),
    "memory-efficient attention": (
        lambda: torch.backends.cuda.enable_mem_efficient_sdp(False),
        True,
    ),
    "deterministic oneDNN": (lambda: torch._C._set_mkldnn_deterministic(True), False),
    "the encoder's fast path": (lambda: torch.backends.mha.set_fastpath_enabled(False), True),
    "denormal numbers": (lambda: torch.set_flush_denormal(True), True),
}


@pytest.fixture
def put_back():
    threads = torch.get_num_threads()
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.mkldnn.set_flags(True)
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.cuda.enable_math_sdp(True)
    torch.backends.cuda.enable_mem_efficient_sdp(True)
    torch._C._set_mkldnn_deterministic(False)
    torch.backends.mha.set_fastpath_enabled(True)
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_that_changes_numbers_makes_a_value_stale(mem, put_back, name):
    page = mem.derive(lambda x: x.sum(), "x", name="p")
    _ = page.tensor
    before = context.settings()
    change, was = CHANGES[name]
    change()
    after = context.settings()
    assert before[context.NAMES.index(name)] == was
    assert [n for n, a, b in zip(context.NAMES, before, after, strict=True) if a != b] == [name]
    assert "stale" in repr(page)
    assert name in str(mem.why(page))
    runs = mem.stats()["recomputed"]
    _ = page.tensor
    _ = page.tensor
    assert mem.stats()["recomputed"] == runs + 1
    assert name in mem.why(page).reason


@pytest.mark.parametrize("operation", ["matmul", "conv", "rnn"])
def test_a_precision_set_for_one_back_end_counts_and_can_be_read(mem, operation):
    where = getattr(torch.backends.mkldnn, operation)
    page = mem.derive(lambda x: x.sum(), "x", name="p")
    _ = page.tensor
    where.fp32_precision = "bf16"
    try:
        assert "float32 matmul precision" in str(mem.why(page))
        assert page.tensor == 15
    finally:
        where.fp32_precision = "none"


def test_settings_go_through_plain_data(put_back):
    for change, _ in [(lambda: None, None), *CHANGES.values()]:
        change()
        now = context.settings()
        assert context.from_plain(json.loads(json.dumps(context.as_plain(now)))) == now
    assert context.from_plain({"another": 1}) == ()
    assert context.from_plain(context.as_plain(())) == ()
    assert context.settings_change((), now) is not None


def total(x):
    return x.sum() * torch.ones(1)


def test_a_reopened_value_of_other_settings_is_stale(tmp_path, put_back):
    with mmsb.open(tmp_path / "m.mmsb") as mem:
        mem.page("x", torch.ones(3))
        assert mem.derive(total, "x", name="p").tensor.dtype is torch.float32
    with mmsb.open(tmp_path / "m.mmsb") as mem:
        mem.derive(total, "x", name="p")
        assert mem["p"].tensor.dtype is torch.float32
        assert mem.stats()["recomputed"] == 0
    torch.set_default_dtype(torch.float64)
    with mmsb.open(tmp_path / "m.mmsb") as mem:
        mem.derive(total, "x", name="p")
        assert mem["p"].tensor.dtype is torch.float64


class Functions(TorchFunctionMode):
    seen = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        Functions.seen += func is torch.neg
        return func(*args, **(kwargs or {}))


class Dispatches(TorchDispatchMode):
    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        Dispatches.seen += func is torch.ops.aten.neg.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Functions, Dispatches])
def test_the_readers_modes_stay_outside_and_are_put_back(mem, mode):
    page = mem.derive(torch.neg, "x", name="p")
    with mode():
        assert torch.equal(page.tensor, mem["x"].tensor.clone() * -1)
        before = mode.seen
        assert before == 0
        torch.neg(torch.ones(1))
        assert mode.seen == 1
    mode.seen = 0


def test_modes_of_a_recipe_stay_outside_of_what_it_reads(mem):
    def low(memory, _):
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
            return memory["product"].tensor + 0

    mem.derive(lambda x: (x @ x.T) + torch.zeros(3), "x", name="product")
    mmsb.register_recomputation("test_context/low", low)
    page = mem.page("low", kind="test_context/low")
    assert page.tensor.dtype is torch.float32
    assert torch.equal(page.tensor, mem["x"].tensor @ mem["x"].tensor.T)


def test_new_tensors_of_recipes_live_where_the_memory_does():
    with torch.device("cpu"), mmsb.open() as mem:
        mem.page("x", torch.ones(2))
        page = mem.derive(lambda x: x + torch.ones(2), "x", name="p")
        with torch.device("meta"):
            assert page.tensor.tolist() == [2.0, 2.0]
        assert torch.get_default_device().type == "cpu"


def test_plain_settings_are_what_json_gives_back_on_a_cuda_build_too():
    values = (*context.settings()[:-1], (True, False, False, True))
    plain = context.as_plain(values)
    assert json.loads(json.dumps(plain)) == plain
    assert context.from_plain(plain) == values
