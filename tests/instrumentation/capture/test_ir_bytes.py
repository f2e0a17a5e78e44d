"""Bytes of graphs that were damaged, or written on purpose: refused, or just another graph."""

import json
import random

import pytest
import torch

from mmsb_torch.errors import CorruptStoreError, MMSBError, SerializationError, UnsupportedError
from mmsb_torch.instrumentation.capture import ir_bytes
from mmsb_torch.instrumentation.capture.export import capture
from mmsb_torch.instrumentation.capture.ir import IR


def graph(function, *args, way="export"):
    return capture(function, *args, ways=[way]).ir


def small():
    return graph(lambda a: (a + torch.tensor([1.0, 2.0])).sum(), torch.ones(2))


def test_every_flipped_byte_is_noticed():
    raw = small().to_bytes()
    for at in range(len(raw)):
        damaged = bytearray(raw)
        damaged[at] ^= 1 << (at % 8)
        with pytest.raises((SerializationError, UnsupportedError)):
            IR.from_bytes(damaged)


def test_every_cut_is_noticed():
    raw = small().to_bytes()
    for end in range(len(raw)):
        with pytest.raises(SerializationError):
            IR.from_bytes(raw[:end])
    with pytest.raises(SerializationError):
        IR.from_bytes(raw + b"\0")


def resealed(ir, change, constants=None):
    """The bytes of a graph whose document somebody changed, with a checksum that fits."""
    document = json.loads(ir._raw)
    document = change(document) or document
    given = ir.constants if constants is None else constants
    return ir_bytes.pack(ir_bytes.dumps(document), given, inside=True)


def named(name):
    def change(document):
        node = document["graphs"][0]["nodes"][-1]
        document["ops"] = {**document["ops"], name: ""}
        node["op"] = name

    return change


@pytest.mark.parametrize(
    "name",
    [
        "os.system.default",
        "builtins.eval.default",
        "aten.from_file.default",
        "aten.save.default",
        "aten.set_.source_Storage",
        "aten.__class__.mro",
        "aten.no_such_operator.default",
        "higher_order.map",
        "operator.methodcaller",
        "math.prod",
        "c10d.send.default",
        "load_library.__call__.default",
        "aten.sum.overloads",
        "",
    ],
)
def test_no_other_code_can_be_named(name):
    with pytest.raises((UnsupportedError, CorruptStoreError)):
        IR.from_bytes(resealed(small(), named(name)))


def at(*path, value):
    def change(document):
        inner = document
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value

    return change


NODE = ("graphs", 0, "nodes", 0)


@pytest.mark.parametrize(
    "change",
    [
        at("graphs", value=[]),
        at("graphs", value={}),
        at("graphs", 0, value=None),
        at("extra", value=1),
        at("ops", value={}),
        at("ops", "aten.sum.default", value="aten::sum(Tensor self) -> Tensor"),
        at("constants", value=[]),
        at("constants", 0, 1, value="float64"),
        at("constants", 0, 2, value=[1 << 60]),
        at("constants", 0, 2, value=[-1]),
        at("constants", 0, 3, value=[0]),
        at("constants", 0, 4, value="meta"),
        at("constants", 0, 4, value="nowhere"),
        at("default_dtype", value="float3"),
        at("in", value={"tuple": [{"tuple": [{"in": 1}]}, {"dict": []}]}),
        at("in", value=7),
        at("symbols", value=[["s0", 0]]),
        at(*NODE, "args", value=[]),
        at(*NODE, "args", value=[["self", {"in": 3}]]),
        at(*NODE, "args", value=[["self", {"%": 0}]]),
        at(*NODE, "args", value=[["self", {"const": -1}]]),
        at(*NODE, "args", value=[["self", {"graph": 0}]]),
        at(*NODE, "args", value=[["self", {"in": True}]]),
        at(*NODE, "args", value=[["nonsense", {"in": 0}]]),
        at(*NODE, "args", value=[["self", {"object": "os.system"}]]),
        at(*NODE, "args", value=[["self", {"float": "1e5; import os"}]]),
        at(*NODE, "args", value=[["self", {"dtype": "__doc__"}]]),
        at(*NODE, "args", value=[["self", {"device": "cpu; import os"}]]),
        at(*NODE, "spec", value={"tensor": ["float32", [2], [1]]}),
        at(*NODE, "spec", value={"tensor": ["float32", ["s0\n"], [1], "cpu"]}),
        at("graphs", 0, "out", value={"%": 99}),
        at("graphs", 0, "inputs", value=[]),
        lambda document: document["graphs"][0]["nodes"].append(document["graphs"][0]["nodes"][0]),
        lambda document: document["graphs"][0]["nodes"].reverse(),
        lambda document: [document],
    ],
)
def test_documents_that_nothing_writes_are_refused(change):
    with pytest.raises((CorruptStoreError, UnsupportedError)):
        IR.from_bytes(resealed(small(), change))


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[1", b"NaN", b'{"a":1,"a":1}', b'{"b":1,"a":1}', b"{ }", b"1.50", b"[" * 99999],
)
def test_json_that_nothing_writes_is_refused(body):
    with pytest.raises(CorruptStoreError):
        IR.from_bytes(ir_bytes.pack(body, [], inside=True))


ODDITIES = [
    *(None, True, 0, 1, -1, 2**70, "", "x", [], {}, [[[]]], "float32", "aten.view.default"),
    *({"in": 0}, {"in": -1}, {"%": 0}, {"%": 1}, {"const": 0}, {"graph": 1}, {"float": "inf"}),
    *({"tuple": []}, {"dict": [["a", 1]]}, {"slice": [0, 1, 2]}, {"device": "cuda"}),
    *({"dtype": "int8"}, {"layout": "sparse_coo"}, {"tensor": ["float32", [1], [1], "cpu"]}),
]


def places(data, path=()):
    if path:
        yield path
    if isinstance(data, dict | list):
        inner = data.items() if isinstance(data, dict) else enumerate(data)
    else:
        inner = ()
    for key, value in inner:
        yield from places(value, (*path, key))


@pytest.mark.parametrize("name", ["mlp", "several", "branch", "cond"])
def test_no_change_of_a_document_does_more_than_make_another_graph(case, name):
    function, args = case(name)
    ir, generator = capture(function, *args).ir, random.Random(name)

    def change(document):
        *path, last = generator.choice(list(places(document)))
        inner = document
        for step in path:
            inner = inner[step]
        if generator.random() < 0.8:
            inner[last] = generator.choice(ODDITIES)
        else:
            del inner[last]

    for _ in range(150):
        raw = resealed(ir, change)
        try:
            other = IR.from_bytes(raw)
        except (SerializationError, UnsupportedError):
            continue
        assert other.to_bytes() == raw
        assert (other.digest == ir.digest) == (raw == ir.to_bytes())


def test_strings_cannot_become_code(tmp_path):
    marker = tmp_path / "ran"
    nasty = f"'+__import__('pathlib').Path({str(marker)!r}).touch()+'\n"
    ir = graph(lambda a: torch.einsum("i,i->", a, a), torch.ones(2))
    change = at(*NODE, "args", 0, 1, value={"str": nasty})
    with pytest.raises((MMSBError, RuntimeError)):
        IR.from_bytes(resealed(ir, change))(torch.ones(2))
    assert not marker.exists()


def test_names_of_custom_operators_have_to_be_allowed(equal):
    @torch.library.custom_op("captured_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @twice.register_fake
    def _(x):
        return torch.empty_like(x)

    ir = graph(lambda a: twice(a) + 1, torch.ones(3))
    with pytest.raises(UnsupportedError, match="captured_test"):
        IR.from_bytes(ir.to_bytes())
    read = IR.from_bytes(ir.to_bytes(), namespaces=["captured_test"])
    assert equal(read(torch.ones(3)), torch.full((3,), 3.0))


def test_newer_versions_are_refused():
    raw = bytearray(small().to_bytes())
    raw[8] = 2
    with pytest.raises(UnsupportedError, match="version 2"):
        IR.from_bytes(raw)


@pytest.mark.parametrize("raw", [b"", b"MMSBGRPH", b"{}", b"\0" * 64])
def test_other_bytes_are_refused(raw):
    with pytest.raises(SerializationError, match="bytes of a graph"):
        IR.from_bytes(raw)
