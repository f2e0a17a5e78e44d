"""The binary form of events."""

import pytest

from mmsb_torch.errors import SerializationError
from mmsb_torch.types import Event, EventType


@pytest.mark.parametrize("payload", [b'{"a":1e999}', b'{"a":1,"a":2}', b'{"a":NaN}', b"[1]"])
def test_what_could_not_be_written_again_is_refused(payload):
    raw = bytes([1]) + (5).to_bytes(8, "little") + len(payload).to_bytes(4, "little") + payload
    with pytest.raises(SerializationError):
        Event.from_bytes(raw)


def test_a_time_before_1970_has_no_bytes():
    with pytest.raises(SerializationError):
        Event(EventType.STALE, -1, {}).to_bytes()
