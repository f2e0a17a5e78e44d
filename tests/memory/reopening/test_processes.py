"""A reader beside a writer, and other processes."""

import subprocess
import sys
import textwrap

import pytest
import torch

import mmsb_torch as mmsb

A = torch.arange(6.0).view(3, 2)


def doubled(a):
    return a * 2


def tripled(a):
    return a * 3


def test_a_reader_computes_stale_pages_in_ram_only(made, refused_read):
    def files():
        return sorted((p.relative_to(made), p.stat().st_mtime_ns) for p in made.rglob("*"))

    with mmsb.open(made) as memory:
        memory.update("a", 1.0)
    before = files()
    with mmsb.open(made, mode="r") as memory:
        page = memory.derive(doubled, "a", name="d")
        assert bool((page.tensor == 2).all())
        extra = memory.derive(tripled, "a", name="extra")
        assert bool((extra.tensor == 3).all())
        assert memory.tx == 2
    assert files() == before
    with mmsb.open(made, mode="r") as memory:
        assert "extra" not in memory
        refused_read(memory, "d", "doubled")


def test_there_is_one_writer(made):
    with mmsb.open(made) as memory:
        with pytest.raises(mmsb.StoreLockedError, match=r"run\.mmsb") as caught:
            mmsb.open(made)
        assert isinstance(caught.value, BlockingIOError)
        with mmsb.open(made, mode="r") as reader, mmsb.open(made, mode="r") as other:
            memory.update("a", 1.0)
            assert torch.equal(reader["a"].tensor, A)
            assert torch.equal(other["d"].tensor, A * 2)
        assert memory["a"].epoch == 1
    mmsb.open(made).close()


SCRIPT = """
    import sys
    import torch
    import mmsb_torch as mmsb

    SCALE = 2.0

    def helper(a):
        return a * SCALE

    def scaled(a):
        return helper(a) + 1

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 2)
    {body}
"""


def run(body):
    """Run a script in another process; returns what it prints, and fails if it does."""
    indented = textwrap.indent(textwrap.dedent(body), "    ").strip()
    source = textwrap.dedent(SCRIPT.format(body=indented))
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_another_process_is_refused_as_a_writer_and_may_read(made):
    body = f"""
        path = {str(made)!r}
        try:
            mmsb.open(path)
        except mmsb.StoreLockedError as error:
            print("refused", "writing" in str(error))
        with mmsb.open(path, mode="r") as memory:
            print(memory["a"].tensor.sum().item(), memory.tx)
            try:
                memory["d"].tensor
            except mmsb.RecipeNotLoadedError as error:
                print("'a'" in str(error))
    """
    with mmsb.open(made) as memory:
        memory.update("a", 1.0)
        total = str(memory["a"].tensor.sum().item())
        assert run(body) == ["refused", "True", total, "2", "True"]
        memory.update("a", 2.0)
    with mmsb.open(made) as memory:
        assert memory.tx == 3


def test_equal_code_in_another_process_computes_nothing(path):
    body = f"""
        with mmsb.open({str(path)!r}) as memory:
            memory.page("a", torch.arange(6.0).view(3, 2))
            one = memory.derive(scaled, "a", name="one")
            two = memory.derive(net, "one", name="two")
            print(one.tensor.sum().item(), memory.stats()["recomputed"])
            _ = two.tensor
            print(memory.stats()["recomputed"])
    """
    assert run(body) == ["36.0", "1", "2"]
    assert run(body) == ["36.0", "0", "0"]
