"""What the merges refuse: where, expected, found, what to do, and `base` as it was."""

import pytest
import torch

import mmsb_kernels
from mmsb_kernels import reference
from mmsb_kernels.dual import check_device

F = torch.zeros
ROWS = torch.tensor([0, 2])
BITS = torch.zeros(2, dtype=torch.uint8)
MASK = torch.zeros(4, 3, dtype=torch.bool)

# Name of the merge, base, values, third argument, error, what the message says.
UNFIT = [
    ("delta_merge", F(4, 3), F(3, 4), MASK, ValueError, r"values: expected shape \(4, 3\), found"),
    ("delta_merge", F(4, 3), F(4, 3), MASK[:1], ValueError, r"mask: expected shape \(4, 3\)"),
    ("delta_merge", F(4, 3), F(4, 3).half(), MASK, TypeError, r"values: expected torch.float32"),
    ("delta_merge", F(4, 3), F(4, 3), F(4, 3), TypeError, r"mask: expected torch.bool"),
    ("delta_merge", F(4, 3), F(4, 3, device="meta"), MASK, ValueError, "values: .* on cpu like"),
    ("delta_merge_rows", F(()), F(2), ROWS, ValueError, "base: expected at least one dimension"),
    ("delta_merge_rows", F(4, 3), F(3, 3), ROWS, ValueError, r"values: expected shape \(2, 3\)"),
    ("delta_merge_rows", F(4, 3), F(2, 3), ROWS.int(), TypeError, r"rows: expected torch.int64"),
    ("delta_merge_rows", F(4, 3), F(2, 3), ROWS[None], ValueError, "rows: expected one dimension"),
    ("delta_merge_rows", F(4, 3), F(2, 3).long(), ROWS, TypeError, r"values: .*torch.float32"),
    ("delta_merge_elements", F(4, 3), F(3), ROWS, ValueError, r"values: expected shape \(2,\)"),
    ("delta_merge_elements", F(4, 3), F(2).bool(), ROWS, TypeError, r"values: .*torch.float32"),
    ("delta_merge_elements", F(4, 3), F(2), F(2), TypeError, r"indices: expected torch.int64"),
    ("delta_merge_bits", F(4, 3), F(0), BITS[:1], ValueError, r"bits: expected shape \(2,\)"),
    ("delta_merge_bits", F(4, 3), F(0, 2), BITS, ValueError, "values: expected one dimension"),
    ("delta_merge_bits", F(4, 3), F(0).half(), BITS, TypeError, r"values: .*torch.float32"),
    ("delta_merge_bits", F(4, 3), F(0), BITS.char(), TypeError, r"bits: expected torch.uint8"),
]


@pytest.mark.parametrize("home", [reference, mmsb_kernels], ids=["reference", "launcher"])
@pytest.mark.parametrize("case", UNFIT, ids=lambda case: f"{case[0]}-{case[5][:14]}")
def test_a_delta_that_does_not_fit(home, case):
    name, base, values, third, error, message = case
    with mmsb_kernels.interpreted(), pytest.raises(error, match=f"^{name}: {message}"):
        getattr(home, name)(base, values, third)


def dense(base=None, values=None, mask=None):
    fill = F(4, 4, dtype=torch.complex64)
    mask = torch.ones(4, 4, dtype=torch.bool) if mask is None else mask
    mmsb_kernels.delta_merge(
        fill if base is None else base, fill.clone() if values is None else values, mask
    )


@pytest.mark.parametrize("name", ["base", "values", "mask"])
def test_non_contiguous(name):
    dtype = torch.bool if name == "mask" else torch.complex64
    strided = F(4, 4, dtype=dtype).t()
    with mmsb_kernels.interpreted(), pytest.raises(ValueError) as caught:
        dense(**{name: strided})
    message = str(caught.value)
    assert f"delta_merge: {name}: expected a contiguous tensor, found strides (1, 4)" in message
    assert "for shape (4, 4)" in message
    assert "mmsb_kernels.reference.delta_merge" in message


@pytest.mark.parametrize(
    ("name", "base", "values", "third"),
    [
        ("delta_merge_rows", F(4, 3), F(2, 6)[:, ::2], ROWS),
        ("delta_merge_rows", F(4, 3), F(2, 3), torch.tensor([0, 0, 2])[::2]),
        ("delta_merge_elements", F(4, 3).t(), F(2), ROWS),
        ("delta_merge_bits", F(4, 3), F(0), F(4, dtype=torch.uint8)[::2]),
    ],
)
def test_non_contiguous_elsewhere(name, base, values, third):
    with (
        mmsb_kernels.interpreted(),
        pytest.raises(ValueError, match=f"^{name}: .*expected a contiguous tensor"),
    ):
        getattr(mmsb_kernels, name)(base, values, third)


def test_lazy_views():
    with mmsb_kernels.interpreted(), pytest.raises(ValueError, match="lazy conjugate or negative"):
        dense(values=F(4, 4, dtype=torch.complex64).conj())


def test_sparse():
    with mmsb_kernels.interpreted(), pytest.raises(ValueError, match="expected a strided tensor"):
        dense(base=F(4, 4, dtype=torch.complex64).to_sparse())


def test_cpu_tensors_only_where_the_interpreter_was_asked_for():
    with pytest.raises(ValueError, match="expected tensors on a GPU, found them on cpu") as caught:
        dense()
    assert "mmsb_kernels.reference.delta_merge" in str(caught.value)
    with mmsb_kernels.interpreted():
        dense()
        with mmsb_kernels.interpreted():
            dense()
        dense()
    with pytest.raises(ValueError, match="expected tensors on a GPU"):
        dense()


def test_other_devices():
    with mmsb_kernels.interpreted(), pytest.raises(ValueError, match="found them on meta"):
        check_device("delta_merge", torch.device("meta"))
