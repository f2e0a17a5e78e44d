"""What cannot be done is refused: the right class, words that help, and everything as it was."""

import pytest
import torch

import mmsb_torch as mmsb


def doubled(a):
    return a * 2


@pytest.fixture
def room(mem):
    """A memory with a page of each kind, a label, a step and a computed derived page."""
    mem.page("a", torch.arange(15.0).view(5, 3), metadata={"unit": "m"})
    mem.page("b", torch.arange(4))
    mem.page("flag", torch.tensor([True, False, True]))
    mem.page("zero", torch.tensor(1.5))
    mem.page("empty", torch.empty(0, 2))
    mem.page("u8", torch.zeros(3, dtype=torch.uint8))
    mem.page("long", torch.zeros(100))
    mem.derive(doubled, "a", name="d")
    with mem.commit("first", step=1) as tx:
        tx.update("a", 7.0, rows=[4])
    _ = mem["d"].tensor
    return mem


@pytest.fixture
def refused(room, picture_of):
    """Checks that a call is refused, helpfully, and that nothing came of it."""

    def check(call, kind, words):
        before = picture_of(room)
        with pytest.raises(kind) as caught:
            call(room)
        error, message = caught.value, str(caught.value)
        assert isinstance(error, mmsb.MMSBError)
        assert 20 < len(message) < 800, message
        assert "frame #" not in message
        for word in words:
            assert word in message, f"{word!r} is not in: {message}"
        assert picture_of(room) == before
        assert room.update("b", 9) == room.tx == before[2] + 1
        assert room["b"].tensor.tolist() == [9, 9, 9, 9]

    return check
