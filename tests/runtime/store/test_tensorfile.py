import json
import os
import stat

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from mmsb_torch.errors import (
    CorruptStoreError,
    SerializationError,
    StoreError,
    UnsupportedError,
)
from mmsb_torch.runtime.store import FileRecord, read_tensors, write_tensors
from mmsb_torch.runtime.store.dtypes import NATIVE, encoding

QUANTISED = {torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4}
DTYPES = sorted(
    {value for value in vars(torch).values() if isinstance(value, torch.dtype)} - QUANTISED, key=str
)
SHAPES = [(), (0,), (3,), (2, 0, 3), (5, 7)]


def test_every_dense_dtype_of_this_torch_is_known():
    assert len(DTYPES) >= 40
    for dtype in DTYPES:
        assert encoding(dtype).tag


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_round_trip_is_bit_for_bit(tmp_path, kit, dtype):
    tensors = {str(shape): kit.random_tensor(dtype, shape, len(shape)) for shape in SHAPES}
    record = write_tensors(tmp_path / "a", tensors, {"k": "v"})
    assert record == FileRecord("a", (tmp_path / "a").stat().st_size, record.digest)
    found, metadata = read_tensors(tmp_path / "a", record)
    kit.assert_same(found, tensors)
    assert metadata == {"k": "v"}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_plain_safetensors_opens_it(tmp_path, kit, dtype):
    tensors = {str(shape): kit.random_tensor(dtype, shape, 1) for shape in SHAPES}
    write_tensors(tmp_path / "a", tensors, {})
    if dtype in NATIVE:
        kit.assert_same({name: load_file(tmp_path / "a")[name] for name in tensors}, tensors)
        return
    with safe_open(tmp_path / "a", framework="pt") as file:
        names = json.loads(file.metadata()["mmsb.dtypes"])
        for name, tensor in tensors.items():
            assert f"torch.{names[name]}" == str(dtype)
            carrier = file.get_tensor(name)
            pair = (2,) if dtype.is_complex else ()
            assert carrier.shape == (*tensor.shape, *pair)
            assert kit.plain_bytes(carrier) == kit.plain_bytes(tensor)


def test_special_values(tmp_path, kit):
    patterns = torch.tensor([0x7FA00001, -0x80000000, 0x7FC00000, 1, -1], dtype=torch.int32)
    tensors = {
        "nan": patterns.view(torch.float32),
        "half": torch.tensor([0x7D01, -0x8000], dtype=torch.int16).view(torch.float16),
        "brain": torch.tensor([0x7F81, -0x8000], dtype=torch.int16).view(torch.bfloat16),
        "pair": torch.tensor([0x7FF0000000000001, -(2**63)]).view(torch.float64).view(2),
        "signalling": patterns[:4].view(torch.complex64),
    }
    write_tensors(tmp_path / "a", tensors, {})
    kit.assert_same(read_tensors(tmp_path / "a")[0], tensors)


def test_layouts_that_are_not_plain(tmp_path, kit):
    base = torch.arange(24, dtype=torch.float32).view(4, 6)
    z = torch.randn(3, 2, dtype=torch.complex64)
    wide = torch.randn(4, dtype=torch.complex128)
    tensors = {
        "transposed": base.t(),
        "strided": base[::2, 1::2],
        "expanded": base[0].expand(5, 6),
        "alias": base,
        "conjugate": z.conj(),
        "negative": z.conj().imag,
        "wide": wide.conj()[::2],
        "odd": kit.random_tensor(torch.float4_e2m1fn_x2, (4, 6)).t(),
        "bits16": kit.random_tensor(torch.bits16, (4, 6)).t(),
        "parameter": torch.nn.Parameter(base.clone()),
    }
    expected = {
        name: tensor.detach().resolve_conj().resolve_neg().clone()
        for name, tensor in tensors.items()
        if name not in ("odd", "bits16")
    }
    write_tensors(tmp_path / "a", tensors, {})
    found, _ = read_tensors(tmp_path / "a")
    kit.assert_same({name: found[name] for name in expected}, expected)
    for name, word in (("odd", torch.uint8), ("bits16", torch.int16)):
        assert found[name].dtype == tensors[name].dtype
        assert torch.equal(found[name].view(word), tensors[name].view(word))


def test_what_is_read_owns_its_memory(tmp_path, kit):
    tensors = {f"t{n}": kit.random_tensor(dtype, (4,), n) for n, dtype in enumerate(DTYPES)}
    write_tensors(tmp_path / "a", tensors, {})
    found, _ = read_tensors(tmp_path / "a")
    pointers = {tensor.untyped_storage().data_ptr() for tensor in found.values()}
    assert len(pointers) == len(found)
    for tensor in found.values():
        assert tensor.device.type == "cpu"
        assert tensor._base is None
        assert not tensor.requires_grad
        assert tensor.untyped_storage().nbytes() == 4 * tensor.dtype.itemsize
        tensor.view(torch.uint8).fill_(1)
    kit.assert_same(read_tensors(tmp_path / "a")[0], tensors)


def test_reading_heeds_no_global_mode(tmp_path, kit):
    tensors = {str(dtype): kit.random_tensor(dtype, (3,)) for dtype in DTYPES}
    write_tensors(tmp_path / "a", tensors, {})
    # torch.use_deterministic_algorithms would first import the compiler, for seconds
    torch._C._set_deterministic_algorithms(True)
    try:
        with torch.device("meta"), torch.no_grad():
            write_tensors(tmp_path / "b", tensors, {})
            found, _ = read_tensors(tmp_path / "a")
    finally:
        torch._C._set_deterministic_algorithms(False)
    kit.assert_same(found, tensors)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_alignment(tmp_path, kit):
    tensors = {
        "byte": kit.random_tensor(torch.uint8, (3,)),
        "line": kit.random_tensor(torch.float16, (32,)),
        "double": kit.random_tensor(torch.float64, (3,)),
        "half": kit.random_tensor(torch.float16, (5,)),
        "block": kit.random_tensor(torch.int8, (4096,)),
        "pair": kit.random_tensor(torch.complex128, (3,)),
    }
    write_tensors(tmp_path / "a", tensors, {})
    raw = (tmp_path / "a").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert (8 + length) % 64 == 0
    header = json.loads(raw[8 : 8 + length])
    assert list(header) == ["__metadata__", *tensors]
    for name, tensor in tensors.items():
        start = 8 + length + header[name]["data_offsets"][0]
        assert start % tensor.dtype.itemsize == 0
        assert start % 64 == 0 or tensor.nbytes % 64


def test_equal_input_gives_equal_files(tmp_path, kit):
    tensors = {"a": kit.random_tensor(torch.int8, (100_000,)), "b": torch.zeros(1)}
    records = [write_tensors(tmp_path / name, tensors, {}) for name in "xy"]
    assert records[0].digest == records[1].digest
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_large_tensors_and_progress(tmp_path, kit):
    tensors = {
        "large": kit.random_tensor(torch.float32, (1500, 3001)),
        "small": torch.ones(3),
        "middle": kit.random_tensor(torch.uint8, (300_001,)),
    }
    steps = []
    record = write_tensors(tmp_path / "a", tensors, {}, advance=steps.append)
    assert sum(steps) == sum(tensor.nbytes for tensor in tensors.values())
    kit.assert_same(read_tensors(tmp_path / "a", record)[0], tensors)


def test_no_tensors(tmp_path):
    write_tensors(tmp_path / "a", {}, {})
    assert read_tensors(tmp_path / "a") == ({}, {})
    assert load_file(tmp_path / "a") == {}


@given(data=st.data())
def test_round_trip_of_anything(tmp_path_factory, kit, data):
    names = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
    shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
    specs = data.draw(
        st.dictionaries(
            names.filter(lambda name: name != "__metadata__"),
            st.tuples(st.sampled_from(DTYPES), shapes, st.integers(0, 99)),
            max_size=6,
        )
    )
    metadata = data.draw(st.dictionaries(names, names, max_size=3))
    tensors = {name: kit.random_tensor(*spec) for name, spec in specs.items()}
    path = tmp_path_factory.mktemp("any") / "a"
    record = write_tensors(path, tensors, metadata, kit.FastFiles())
    found, texts = read_tensors(path, record)
    kit.assert_same(found, tensors)
    assert texts == metadata
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(tensors)


@pytest.mark.parametrize(
    ("tensors", "error"),
    [
        ({"__metadata__": torch.ones(1)}, SerializationError),
        ({3: torch.ones(1)}, SerializationError),
        ({"a": [1.0]}, SerializationError),
        ({"\ud800": torch.ones(1)}, SerializationError),
        ({"a": torch.ones(2, 2).to_sparse()}, UnsupportedError),
        ({"a": torch.ones(1, device="meta")}, UnsupportedError),
        ({"a": torch.ones(2).as_subclass(type("T", (torch.Tensor,), {}))}, UnsupportedError),
        (dict.fromkeys(map(str, range(100_001)), torch.empty(0)), UnsupportedError),
        ({"n" * (33 << 20): torch.empty(0)}, UnsupportedError),
    ],
    ids=["key", "int", "list", "surrogate", "sparse", "meta", "subclass", "many", "long"],
)
def test_what_cannot_be_written_is_refused_before_the_file_is_made(tmp_path, tensors, error):
    with pytest.raises(error):
        write_tensors(tmp_path / "a", tensors, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
def test_quantised_is_refused(tmp_path):
    tensor = torch.empty(2, dtype=torch.qint8)
    with pytest.raises(UnsupportedError, match=r"torch\.qint8 cannot be stored"):
        write_tensors(tmp_path / "a", {"a": tensor}, {})


@pytest.mark.parametrize("metadata", [{"mmsb.dtypes": "{}"}, {"a": 1}, {1: "a"}])
def test_bad_metadata_is_refused(tmp_path, metadata):
    with pytest.raises(SerializationError, match="metadata"):
        write_tensors(tmp_path / "a", {}, metadata)


def test_an_existing_file_is_never_overwritten(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(StoreError, match="cannot create"):
        write_tensors(tmp_path / "a", {}, {})
    assert (tmp_path / "a").read_text() == "mine"


def test_missing_is_damage_only_where_it_was_expected(tmp_path):
    with pytest.raises(StoreError, match="missing"):
        read_tensors(tmp_path / "a")
    with pytest.raises(CorruptStoreError, match="missing"):
        read_tensors(tmp_path / "a", FileRecord("a", 1, "0" * 32))


def test_an_exception_while_writing_leaves_no_file(tmp_path):
    def advance(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_tensors(tmp_path / "a", {"a": torch.ones(3)}, {}, advance=advance)
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_cuda_tensors_are_copied(tmp_path, kit):
    tensors = {str(dtype): kit.random_tensor(dtype, (5, 7)) for dtype in DTYPES}
    write_tensors(tmp_path / "a", {name: t.cuda() for name, t in tensors.items()}, {})
    kit.assert_same(read_tensors(tmp_path / "a")[0], tensors)
