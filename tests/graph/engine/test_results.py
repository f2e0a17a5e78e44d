"""What a recipe may give, in whatever mode the reader is."""

import types

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits


def test_shape_and_dtype_may_change_with_the_inputs(mem):
    page = mem.derive(lambda x: x[x > 0], "x", name="positive")
    below = mem.derive(lambda p: p.numel() * torch.ones((), dtype=torch.int64), page, name="count")
    for values in (torch.zeros(3, 2), torch.ones(3, 2), -torch.ones(3, 2), torch.eye(3, 2)):
        mem.update("x", values)
        assert page.tensor.shape == page.shape == values[values > 0].shape
        assert below.tensor == (values > 0).sum()
        assert page.mask.shape == page.shape
    kinds = [torch.float64, torch.int8, torch.bool, torch.complex64, torch.bfloat16]
    mem.page("kind", torch.tensor(0))
    cast = mem.derive(lambda x, kind: x.to(kinds[int(kind)]), "x", "kind", name="cast")
    for number, kind in enumerate(kinds):
        mem.update("kind", number)
        assert cast.tensor.dtype is cast.dtype is kind


def test_shape_of_a_stale_page_is_that_of_its_value(mem):
    page = mem.derive(lambda x: x[x > 0], "x", name="positive")
    assert page.tensor.shape == (5,)
    mem.update("x", 1.0)
    assert page.shape == page.tensor.shape == (6,)


def test_same_bytes_in_another_shape_or_dtype_are_another_value(mem):
    mem.page("how", torch.tensor(0))
    forms = [lambda x: x, lambda x: x.view(2, 3), lambda x: x.view(torch.int32), torch.flatten]
    page = mem.derive(lambda x, how: forms[int(how)](x.contiguous()), "x", "how", name="p")
    spec = mem.derive(
        lambda p: torch.tensor([*p.shape, p.dtype.itemsize, p.is_floating_point()]),
        page,
        name="spec",
    )
    for number, form in enumerate(forms):
        mem.update("how", number)
        wanted = form(mem["x"].tensor)
        assert (page.tensor.shape, page.tensor.dtype) == (wanted.shape, wanted.dtype)
        assert spec.tensor.tolist() == [*wanted.shape, 4, wanted.is_floating_point()]


DENSE = {
    "0-dim": lambda: torch.tensor(3.5),
    "empty": lambda: torch.empty(0),
    "empty in the middle": lambda: torch.empty(3, 0, 2),
    "expanded": lambda: torch.zeros(2, 3).expand(4, 2, 3),
    "transposed": lambda: torch.arange(12).view(3, 4).t(),
    "strided": lambda: torch.arange(10)[::3],
    "conjugate": lambda: torch.tensor([1 + 2j]).conj(),
    "negative bit": lambda: torch.tensor([1 + 2j]).conj().imag,
    "bool": lambda: torch.tensor(True),
    "nan": lambda: torch.tensor([float("nan"), -0.0]),
    "parameter": lambda: torch.nn.Parameter(torch.ones(2)),
    "buffer": lambda: torch.nn.Buffer(torch.ones(2)),
    "requires grad": lambda: torch.ones(2, requires_grad=True).exp(),
    "float8": lambda: torch.arange(3, dtype=torch.uint8).view(torch.float8_e5m2),
}


@pytest.mark.parametrize("make", DENSE.values(), ids=DENSE.keys())
def test_any_dense_result_becomes_a_plain_value(mem, make):
    value = make()
    page = mem.derive(lambda _: value, "x", name="p")
    found = page.tensor
    assert same_bits(found, value.detach().resolve_conj().resolve_neg().contiguous())
    assert type(found) is torch.Tensor
    assert found.is_contiguous()
    assert [found.requires_grad, found.is_conj(), found.is_neg()] == [False] * 3
    mem.update("x", 1.0)
    assert mem.propagate() == []


def test_inference_tensors_become_ordinary_values(mem):
    def inferred(x):
        with torch.inference_mode():
            return x * 2

    page = mem.derive(inferred, "x", name="p")
    with torch.inference_mode():
        assert not page.tensor.is_inference()
        mem.update("x", 1.0)
        assert not page.tensor.is_inference()
    assert torch.equal(page.tensor, torch.full((3, 2), 2.0))


class Special(torch.Tensor):
    """A tensor of a class of the user's."""


NOT_DENSE = {
    "None": lambda: None,
    "subclass": lambda: torch.ones(2).as_subclass(Special),
    "float": lambda: 3.0,
    "list": lambda: [1.0],
    "tuple": lambda: (torch.ones(1), torch.ones(1)),
    "sparse": lambda: torch.eye(2).to_sparse(),
    "meta": lambda: torch.empty(2, device="meta"),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
}


@pytest.mark.parametrize("make", NOT_DENSE.values(), ids=NOT_DENSE.keys())
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, on making such tensors
def test_what_is_no_dense_tensor_is_refused_by_name(mem, make):
    kept = types.SimpleNamespace(result=make())
    page = mem.derive(lambda _: kept.result, "x", name="odd one")
    for _ in range(2):
        with pytest.raises(mmsb.RecipeError, match=r"'odd one'.* one dense torch\.Tensor"):
            _ = page.tensor
    kept.result = torch.ones(2)
    assert torch.equal(page.tensor, torch.ones(2))


def test_recipes_run_plainly_whatever_the_reader_is_doing(mem):
    page = mem.derive(lambda x: (x @ x.T) * torch.ones(3), "x", name="p")
    wanted = mem["x"].clone() @ mem["x"].clone().T
    readers = [
        torch.enable_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.device("meta"),
    ]
    for reader in readers:
        mem.update("x", 0.0)
        assert not page.tensor.any()
        mem.update("x", torch.arange(6.0).view(3, 2))
        with reader:
            found = page.tensor
        assert same_bits(found, wanted), reader
        assert not found.requires_grad
