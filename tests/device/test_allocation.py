"""Large buffers: advised if that is asked for, plain where it is not, the same bits."""

import mmap
from pathlib import Path

import pytest
import torch

from mmsb_torch.device import allocation, changed_elements, copy_of, fill, take_rows, words, zeros

LARGE = allocation.LARGE
CPU = torch.device("cpu")


def _flags(tensor):
    """What the system notes about the memory in the middle of a tensor."""
    middle, inside = tensor.data_ptr() + tensor.nbytes // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            start, stop = (int(part, 16) for part in first.split("-"))
            inside = start <= middle < stop
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    return []


@pytest.mark.skipif(allocation._find() is None, reason="this system has no huge pages to ask for")
def test_large_buffers_are_advised_if_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(allocation, "_madvise", allocation._find())
    large = 32 * LARGE
    assert "hg" in _flags(allocation.empty((large,), torch.uint8, CPU))
    assert "hg" in _flags(copy_of(torch.empty(large, dtype=torch.uint8)))
    assert "hg" in _flags(zeros((large,), torch.uint8, CPU))
    # A mapping of its own: malloc may hand out memory that was advised for another tensor before.
    plain = torch.frombuffer(mmap.mmap(-1, large), dtype=torch.uint8)
    assert "hg" not in _flags(plain)
    assert "hg" in _flags(allocation.advised(plain))


@pytest.mark.parametrize("answer", [None, lambda *_: -1, allocation._find()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128, torch.bool, torch.uint8])
def test_the_bits_are_the_same_whatever_the_system_answers(monkeypatch, answer, dtype):
    monkeypatch.setattr(allocation, "_madvise", answer)
    bits = torch.randint(0, 2 if dtype is torch.bool else 256, (3 * LARGE,), dtype=torch.uint8)
    value = bits.view(dtype).view(-1, 64)
    rows = torch.randperm(value.shape[0])[::2]
    assert torch.equal(words(copy_of(value)), words(value))
    assert torch.equal(words(copy_of(value.t())), words(value).transpose(0, 1).contiguous())
    assert torch.equal(words(take_rows(value, rows)), words(value)[rows])
    assert not words(zeros(tuple(value.shape), dtype, CPU)).any()
    other = copy_of(value)
    words(other)[5] = words(value)[6]
    expected = (words(other) != words(value)).view(*value.shape, -1).any(-1)
    assert torch.equal(changed_elements(other, value), expected)
    one = copy_of(value[0, 0])
    spread = fill(one, tuple(value.shape))
    assert torch.equal(words(spread), words(one).expand_as(words(spread)))


def test_a_copy_of_what_autograd_watches_is_detached():
    value = torch.randn(LARGE // 4 + 1, requires_grad=True)
    for source in (value, value * 2, torch.randn(LARGE, dtype=torch.complex64).conj()):
        copied = copy_of(source)
        assert not copied.requires_grad
        assert copied.is_contiguous()
        assert torch.equal(copied, source.detach().resolve_conj())
    with torch.inference_mode():
        assert copy_of(torch.ones(LARGE)).sum() == LARGE
        assert not copy_of(torch.ones(LARGE)).is_inference()
