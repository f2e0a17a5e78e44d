"""Packing against numpy, who holds a tensor's memory, and where pages can live."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmsb_kernels import reference
from mmsb_torch.device import (
    PageLocation,
    copy_of,
    held_elsewhere,
    is_own_memory,
    pack_mask,
    require_dense,
    resolve_device,
    unpack_mask,
)
from mmsb_torch.errors import UnsupportedLocationError

# packing


@given(st.lists(st.booleans(), max_size=70))
def test_packing_is_numpys_with_the_lowest_bit_first(flags):
    mask = torch.tensor(flags, dtype=torch.bool)
    packed = pack_mask(mask)
    assert packed.dtype is torch.uint8
    assert packed.tolist() == np.packbits(np.array(flags, dtype=bool), bitorder="little").tolist()
    assert torch.equal(packed, reference.pack_mask(mask))
    assert unpack_mask(packed, (len(flags),)).tolist() == flags


@pytest.mark.parametrize("shape", [(), (1,), (8,), (9,), (3, 5), (0,), (2, 0, 3), (2, 3, 4)])
def test_packing_any_shape(shape):
    count = torch.Size(shape).numel()
    mask = (torch.arange(count) % 3 == 0).view(shape)
    packed = pack_mask(mask)
    assert packed.shape == ((count + 7) // 8,)
    back = unpack_mask(packed, shape)
    assert back.dtype is torch.bool
    assert torch.equal(back, mask)


def test_packing_reads_in_c_order_whatever_the_strides():
    mask = torch.arange(24).view(4, 6) % 5 == 0
    for view in (mask.t(), mask[:, ::2], mask.flip(0), mask[:1].expand(3, 6)):
        assert torch.equal(
            pack_mask(view), pack_mask(view.clone(memory_format=torch.contiguous_format))
        )


def test_packing_copies():
    mask = torch.ones(8, dtype=torch.bool)
    packed = pack_mask(mask)
    mask.fill_(False)
    assert packed.tolist() == [255]
    back = unpack_mask(packed, (8,))
    packed.zero_()
    assert bool(back.all())


# who holds memory


HOLDS = {
    "alias": lambda t: t,
    "view": lambda t: t[1:],
    "transposed": lambda t: t.view(2, 3).t(),
    "numpy": lambda t: t.numpy(),
    "numpy view": lambda t: t.numpy()[2:],
    "memoryview": lambda t: memoryview(t.numpy()),
    "storage": lambda t: t.untyped_storage(),
    "typed storage": lambda t: t.storage(),
    "capsule": lambda t: t.__dlpack__(),
    "numpy from dlpack": lambda t: np.from_dlpack(t),
    "parameter": lambda t: torch.nn.Parameter(t),
    "data": lambda t: t.data,
    "reinterpreted": lambda t: t.view(torch.int32),
    "set": lambda t: torch.empty(0).set_(t),
}


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS.keys())
def test_a_hold_is_seen_while_it_lasts(hold):
    tensor = torch.arange(6.0)
    assert not held_elsewhere(tensor)
    assert is_own_memory(tensor)
    held = hold(tensor.detach())
    assert held_elsewhere(tensor)
    assert not is_own_memory(tensor)
    del held
    assert not held_elsewhere(tensor)


def test_another_name_for_the_same_object_is_no_hold_on_its_memory():
    tensor = torch.arange(6.0)
    other = tensor
    assert not held_elsewhere(other)


BORROWED = {
    "numpy": lambda: torch.from_numpy(np.arange(6.0)),
    "view of larger": lambda: torch.arange(12.0)[6:],
    "start of larger": lambda: torch.arange(12.0)[:6],
    "expanded": lambda: torch.zeros(1).expand(6),
    "bytes": lambda: torch.frombuffer(bytearray(24), dtype=torch.float32),
}


@pytest.mark.parametrize("make", BORROWED.values(), ids=BORROWED.keys())
def test_borrowed_memory_is_not_own(make):
    assert not is_own_memory(make())


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(6),
        lambda: torch.zeros(6) + 1,
        lambda: torch.zeros(2, 3).clone(),
        lambda: copy_of(torch.zeros(12)[:6]),
        lambda: torch.empty(0),
        lambda: torch.tensor(1.0),
        lambda: torch.tensor([1.0, 2.0]),
    ],
)
def test_fresh_memory_is_own(make):
    assert is_own_memory(make())


UNDER_META = """
import torch
torch.set_default_device("meta")
import mmsb_torch as mmsb
memory = mmsb.open()
page = memory.page("x", torch.zeros(3, device="cpu"))
before = page.tensor
memory.update(page, 1.0, rows=[1])
print(before.tolist(), page.tensor.tolist(), memory.page("z", shape=(1,)).device)
"""


def test_the_package_may_be_loaded_where_torch_makes_no_memory():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", UNDER_META],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0.0, 0.0, 0.0] [0.0, 1.0, 0.0] cpu"


# copies and density


def in_inference_mode():
    with torch.inference_mode():
        return torch.arange(6.0)


VALUES = {
    "strided": lambda: torch.arange(12.0)[::2],
    "expanded": lambda: torch.tensor([2.0]).expand(4),
    "conj": lambda: torch.tensor([1 + 2j, 3 - 4j]).conj(),
    "neg": lambda: torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
    "requires grad": lambda: torch.ones(3, requires_grad=True),
    "parameter": lambda: torch.nn.Parameter(torch.ones(3)),
    "inference": in_inference_mode,
    "bits": lambda: torch.arange(4, dtype=torch.uint8).view(torch.bits8),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES.keys())
def test_a_copy_is_plain_and_ones_own(make, inference):
    value = make()
    with torch.inference_mode(inference):
        copy = copy_of(value)
    assert type(copy) is torch.Tensor
    assert copy.is_contiguous()
    assert not copy.requires_grad
    assert not copy.is_inference()
    assert not copy.is_conj()
    assert not copy.is_neg()
    assert copy._version >= 0
    assert is_own_memory(copy)
    if value.dtype is not torch.bits8:
        assert copy.tolist() == value.detach().resolve_conj().resolve_neg().tolist()


class Sub(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "NoneType"),
        (1.0, "float"),
        ([torch.ones(1)], "list"),
        (np.ones(1), "ndarray"),
        (torch.ones(2).to_sparse(), "sparse_coo"),
        (torch.ones(2, device="meta"), "meta"),
        (torch.ones(2).as_subclass(Sub), "Sub"),
    ],
)
def test_what_is_no_dense_tensor_is_called_by_its_name(value, words):
    assert words in require_dense(value)


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES.keys())
def test_dense_tensors_are_dense(make):
    assert require_dense(make()) is None


# where pages live


@pytest.mark.parametrize("device", [None, "cpu", "cpu:0", torch.device("cpu"), PageLocation.CPU])
def test_the_cpu_is_always_there(device):
    assert resolve_device(device) == torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("meta", "'meta'"),
        (torch.device("meta"), "'meta'"),
        ("mps", "'mps'"),
        ("tape", "'tape'"),
        ("cpu:x", "'cpu:x'"),
        (1.5, "1.5"),
        ([], "[]"),
        ("", "''"),
        (torch.ones(1), "tensor"),
        ("unified", "unified"),
        (PageLocation.UNIFIED, "unified"),
    ],
)
def test_other_devices_are_refused_with_a_hint(device, words):
    with pytest.raises(UnsupportedLocationError) as caught:
        resolve_device(device)
    assert isinstance(caught.value, NotImplementedError)
    assert words in str(caught.value)
    assert "'cpu'" in str(caught.value)


def test_a_number_never_means_the_cpu():
    try:
        found = resolve_device(0)
    except UnsupportedLocationError:
        found = torch.device("cuda", 0)  # torch knows no accelerator here
    assert found.type == "cuda"


@pytest.mark.parametrize("device", ["cuda", "cuda:3", PageLocation.CUDA, torch.device("cuda", 1)])
def test_without_cuda_there_is_no_cuda(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnsupportedLocationError, match=r"'cuda.*no CUDA device.*device='cpu'"):
        resolve_device(device)


def test_a_card_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert resolve_device("cuda") == torch.device("cuda", 1)
    assert resolve_device(PageLocation.CUDA) == torch.device("cuda", 1)
    assert resolve_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(UnsupportedLocationError, match=r"'cuda:2'.*2"):
        resolve_device("cuda:2")


def test_the_location_of_a_device():
    assert PageLocation.of(torch.device("cpu")) is PageLocation.CPU
    assert PageLocation.of(torch.device("cuda", 1)) is PageLocation.CUDA
