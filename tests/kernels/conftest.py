"""Where the launchers run in these tests, and the bits they move."""

import contextlib

import pytest
import torch

import mmsb_kernels

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.float8_e4m3fn,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.int32,
    torch.complex64,
    torch.float64,
    torch.int64,
    torch.complex128,
]


class Place:
    """A device, how the launchers are let onto it, and tensors of random bits there."""

    def __init__(self, device):
        self.device = torch.device(device)
        self.generator = torch.Generator().manual_seed(20)

    def entered(self):
        """Return a context in which the launchers take tensors of this place."""
        return mmsb_kernels.interpreted() if self.device.type == "cpu" else contextlib.nullcontext()

    def bits(self, shape, dtype, skip=0):
        """Return a contiguous tensor of random bits, NaNs of every payload among them.

        It begins `skip` elements after a 16-byte boundary, and as many elements lie behind it in
        the same storage, so that a write out of bounds shows in `surroundings`.
        """
        numel = torch.Size(shape).numel()
        raw = torch.randint(
            0,
            2 if dtype == torch.bool else 256,
            ((numel + 2 * skip) * dtype.itemsize,),
            dtype=torch.uint8,
            generator=self.generator,
        ).to(self.device)
        return raw.view(dtype)[skip : skip + numel].view(shape)

    def surroundings(self, tensor):
        """Return all the bytes of the tensor's storage, as a copy."""
        raw = torch.tensor([], dtype=torch.uint8, device=tensor.device)
        return raw.set_(tensor.untyped_storage()).clone()

    def mask(self, shape, density):
        """Return a mask with that share of its elements true."""
        return (torch.rand(shape, generator=self.generator) < density).to(self.device)

    def choice(self, size, count):
        """Return `count` different numbers below `size`, in no order."""
        return torch.randperm(size, generator=self.generator)[:count].to(self.device)


def both(place, base, launcher, reference, *delta):
    """Run launcher and reference on copies of one storage; the whole storages must agree."""
    whole = place.surroundings(base)
    want = torch.empty(0, dtype=base.dtype, device=base.device).set_(
        whole.untyped_storage(), base.storage_offset(), base.shape, base.stride()
    )
    assert reference(want, *delta) is None
    with place.entered():
        assert launcher(base, *delta) is None
    assert torch.equal(place.surroundings(base), place.surroundings(want))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request):
    """The interpreter on CPU tensors; where there is one, a GPU as well."""
    return Place(request.param)


@pytest.fixture
def random_cpu():
    """Tensors of random bits on the CPU."""
    return Place("cpu")


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request):
    """One dtype of every kind and width."""
    return request.param


@pytest.fixture
def agree(place):
    """Check one launcher against the reference: `agree(name, base, *delta)`."""
    from mmsb_kernels import reference

    def check(name, base, *delta):
        both(place, base, getattr(mmsb_kernels, name), getattr(reference, name), *delta)

    return check
