"""The values that walk through the house: immutable, small, without behaviour of their own lives.

`spec` says what a tensor looks like, `region` where something changed, `delta` what changed,
`growth` what becomes of it when rows were added meanwhile, `transaction` what changed together, `page`
what a page is, `event` what happened.
"""

from mmsb_torch.types.delta import (
    ANY_ROWS,
    NARROW_BYTES,
    Delta,
    after,
    apply,
    changes_bits,
    compose,
    compose_all,
    compress,
    make_delta,
    narrow,
)
from mmsb_torch.types.event import Event, EventType
from mmsb_torch.types.growth import is_append, rebased
from mmsb_torch.types.page import PageInfo
from mmsb_torch.types.region import Form, Region
from mmsb_torch.types.spec import Spec
from mmsb_torch.types.transaction import Transaction, make_transaction

__all__ = [
    "ANY_ROWS",
    "NARROW_BYTES",
    "Delta",
    "Event",
    "EventType",
    "Form",
    "PageInfo",
    "Region",
    "Spec",
    "Transaction",
    "after",
    "apply",
    "changes_bits",
    "compose",
    "compose_all",
    "compress",
    "is_append",
    "make_delta",
    "make_transaction",
    "narrow",
    "rebased",
]
