"""The values that walk through the house: immutable, small, without behaviour of their own lives.

`spec` says what a tensor looks like, `region` where something changed, `delta` what changed,
`transaction` what changed together, `page` what a page is, `event` what happened.
"""

from mmsb_torch.types.delta import (
    NARROW_BYTES,
    Delta,
    apply,
    changes_bits,
    compose,
    compose_all,
    compress,
    make_delta,
    narrow,
)
from mmsb_torch.types.event import Event, EventType
from mmsb_torch.types.page import PageInfo
from mmsb_torch.types.region import Form, Region
from mmsb_torch.types.spec import Spec
from mmsb_torch.types.transaction import Transaction, make_transaction

__all__ = [
    "NARROW_BYTES",
    "Delta",
    "Event",
    "EventType",
    "Form",
    "PageInfo",
    "Region",
    "Spec",
    "Transaction",
    "apply",
    "changes_bits",
    "compose",
    "compose_all",
    "compress",
    "make_delta",
    "make_transaction",
    "narrow",
]
