"""What could not be read back is not written."""

import pytest
import torch

from mmsb_torch.errors import SerializationError, UnsupportedError
from mmsb_torch.runtime.store.contents import PageRecord, write
from mmsb_torch.types import Form, Region

NEVER_WRITTEN = {
    "negative id": (lambda kit: kit.DELTA._replace(id=-1), "unsigned 64-bit"),
    "id of numpy's": (lambda kit: kit.DELTA._replace(id=torch.ones(1).numpy()[0]), "serializable"),
    "no source": (lambda kit: kit.DELTA._replace(source=None), "'source'"),
    "source of bytes": (lambda kit: kit.DELTA._replace(source=b"user"), "bytes"),
    "values of another shape": (
        lambda kit: kit.DELTA._replace(values=torch.ones(3)),
        "contradicts itself",
    ),
    "an index too many": (
        lambda kit: kit.DELTA._replace(region=kit.ROWS._replace(form=Form.ALL)),
        "contradicts itself",
    ),
    "no index": (
        lambda kit: kit.DELTA._replace(region=kit.ROWS._replace(index=None)),
        "contradicts itself",
    ),
    "index out of range": (
        lambda kit: kit.DELTA._replace(
            region=Region(Form.ROWS, (2, 2), torch.tensor([1, 5]), 4), values=kit.VALUE[:, :2]
        ),
        "positions should rise",
    ),
    "index not rising": (
        lambda kit: kit.DELTA._replace(
            region=kit.ROWS._replace(index=torch.tensor([3, 1])), values=kit.VALUE[:, :2]
        ),
        "positions should rise",
    ),
    "NaN in metadata": (
        lambda kit: kit.TRANSACTION._replace(metadata={"a": float("nan")}),
        r"\['a'\]",
    ),
    "tuple in metadata": (lambda kit: kit.TRANSACTION._replace(metadata={"a": (1, 2)}), "tuple"),
    "label of bytes": (lambda kit: kit.TRANSACTION._replace(label=b"x"), "bytes"),
    "two deltas of a page": (
        lambda kit: kit.TRANSACTION._replace(deltas=(kit.DELTA, kit.DELTA)),
        "two deltas",
    ),
    "a derived page": (
        lambda kit: kit.TRANSACTION._replace(created=(kit.DERIVED.info,)),
        "derived",
    ),
    "tuple in a page": (
        lambda kit: PageRecord(kit.info_of(kit.VALUE, metadata={"a": ()}), 0, kit.VALUE),
        "tuple",
    ),
    "a lone surrogate in a name": (lambda kit: kit.record_of(kit.VALUE, "\ud800"), "unicode"),
    "a name of bytes": (lambda kit: kit.record_of(kit.VALUE, b"p"), "bytes"),
    "another spec": (lambda kit: PageRecord(kit.info_of(kit.FEW), 0, kit.VALUE), "is said to be"),
    "no spec": (
        lambda kit: PageRecord(kit.info_of(kit.FEW, spec=None), 0, kit.FEW),
        "is said to be",
    ),
    "a negative epoch": (lambda kit: kit.record_of(kit.VALUE, epoch=-1), "epoch"),
    "event of no type": (lambda kit: kit.EVENT._replace(type=2), "EventType"),
    "event before time": (lambda kit: kit.EVENT._replace(time_ns=-1), "cannot be written"),
    "a set in an event": (lambda kit: kit.EVENT._replace(fields={"a": {1}}), "set"),
    "a large event": (
        lambda kit: kit.EVENT._replace(fields={"a": "x" * (17 << 20)}),
        "at most 16777216",
    ),
}


@pytest.mark.parametrize("case", NEVER_WRITTEN)
def test_what_would_not_come_back_is_not_written(case, kit):
    content, said = NEVER_WRITTEN[case]
    with pytest.raises(SerializationError, match=said):
        write(content(kit), "none")


@pytest.mark.parametrize("value", [torch.eye(3).to_sparse(), torch.ones(3, device="meta")], ids=str)
def test_only_dense_tensors_are_written(value, kit):
    with pytest.raises(UnsupportedError, match="dense"):
        write(value, "none")
    with pytest.raises(UnsupportedError, match="dense"):
        write(kit.DELTA._replace(region=Region.all((3,)), values=value), "none")
