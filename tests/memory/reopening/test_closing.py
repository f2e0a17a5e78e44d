"""What closing keeps, and what happens when the disk refuses it."""

import pytest
import torch

import mmsb_torch as mmsb

A = torch.arange(6.0).view(3, 2)


def doubled(a):
    return a * 2


def tripled(a):
    return a * 3


def test_closing_writes_a_checkpoint_only_if_something_changed(path, make):
    def checkpoints():
        return sorted(item.name for item in (path / "checkpoints").iterdir())

    make(path)
    before = checkpoints()
    assert len(before) == 1
    stamp = (path / "checkpoints" / before[0]).stat().st_mtime_ns
    with mmsb.open(path) as memory:
        memory.derive(doubled, "a", name="d")
        _ = memory["d"].tensor
    assert checkpoints() == before
    assert (path / "checkpoints" / before[0]).stat().st_mtime_ns == stamp
    with mmsb.open(path) as memory:
        memory.update("a", 1.0)
    assert len(checkpoints()) == 2


def test_a_recomputation_alone_is_worth_keeping(made):
    with mmsb.open(made) as memory:
        _ = memory.derive(tripled, "a", name="d").tensor
    with mmsb.open(made) as memory:
        assert torch.equal(memory["d"].tensor, A * 3)


def test_a_declaration_alone_is_worth_keeping(made, refused_read):
    with mmsb.open(made) as memory:
        memory.derive(tripled, "a", name="declared only")
    with mmsb.open(made) as memory:
        assert "declared only" in memory
        refused_read(memory, "declared only", "tripled")


def test_what_a_with_block_did_before_it_raised_is_kept(path):
    def work():
        with mmsb.open(path) as memory:
            memory.page("a", A)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    with mmsb.open(path) as memory:
        assert torch.equal(memory["a"].tensor, A)


def test_old_checkpoints_can_be_let_go(path):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        for number in range(4):
            memory.update("a", float(number))
            info = memory.checkpoint(keep=2)
            assert info.tx == memory.tx
        names = sorted(item.name for item in (path / "checkpoints").iterdir())
        assert names == [f"{tx:020d}" for tx in (4, 5)]
    with mmsb.open(path) as memory:
        assert memory["a"].tensor[0, 0].item() == 3


@pytest.fixture(
    params=[OSError(28, "No space left on device"), mmsb.StoreError("the disk is full")]
)
def failing_once(request, monkeypatch):
    """A function that makes the next checkpoint of a memory fail."""

    def arrange(memory):
        write = memory._store.write_checkpoint
        waiting = [request.param]

        def failing(*args, **options):
            if waiting:
                raise waiting.pop()
            return write(*args, **options)

        monkeypatch.setattr(memory._store, "write_checkpoint", failing)

    return arrange


def test_when_the_disk_refuses_close_can_be_tried_again(path, failing_once):
    memory = mmsb.open(path)
    memory.page("a", A)
    memory.update("a", 1.0, rows=[0])
    failing_once(memory)
    with pytest.raises(OSError, match=r"space|full"):
        memory.close()
    assert not memory.closed
    assert memory["a"].tensor[0].tolist() == [1, 1]
    assert memory["a"].mask.tolist() == [[True, True], [False, False], [False, False]]
    memory.update("a", 2.0, rows=[1])
    with pytest.raises(mmsb.StoreLockedError):
        mmsb.open(path)
    memory.close()
    assert memory.closed
    with mmsb.open(path) as again:
        assert again["a"].tensor.tolist() == [[1, 1], [2, 2], [4, 5]]


def test_when_the_disk_refuses_a_checkpoint_the_masks_stay(path, failing_once):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        memory.checkpoint()
        memory.update("a", 1.0, rows=[0])
        failing_once(memory)
        with pytest.raises(OSError, match=r"space|full"):
            memory.checkpoint()
        assert memory["a"].mask[:, 0].tolist() == [True, False, False]
        assert "1 delta since" in repr(memory["a"])
        assert memory.checkpoint().tx == 2
        assert not bool(memory["a"].mask.any())


def test_a_failing_recipe_does_not_keep_a_memory_open(path):
    def broken(a):
        raise ValueError("not today")

    with mmsb.open(path) as memory:
        memory.page("a", A)
        memory.derive(broken, "a")
    with mmsb.open(path) as memory:
        assert torch.equal(memory["a"].tensor, A)
