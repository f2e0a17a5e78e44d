"""Results that outlive the process, and are shared by several."""

import os
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.runtime.store.objects import Objects


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.mmsb"


def double(x):
    return {"twice": x * 2, "sum": [float(x.sum())]}


def noisy(folder, x):
    """Leaves a trace of each run that its key does not see."""
    Path(folder, f"{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(0.3)
    return x + 1


def forked(work):
    """Run `work` in a child; its exit code is 0 if it returned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def code_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def files(path):
    return sorted((path / "objects").rglob("*.safetensors"))


def test_a_result_is_there_after_reopening(path):
    x = torch.randn(100, 10)
    with mmsb.open(path) as mem:
        first = mem.memo(double)(x)
        assert mem.memo.stats()["misses"] == 1
    for mode in ("w", "r", "memo", "follow"):
        with mmsb.open(path, mode=mode) as mem:
            f = mem.memo(double)
            assert str(mem.memo.explain(f, x)).startswith("hit")
            found = f(x.clone())
            assert torch.equal(found["twice"], first["twice"])
            assert found["sum"] == first["sum"]
            assert mem.memo.stats()["misses"] == 0


def test_random_results_too(path):
    def draw(n):
        return torch.randn(n)

    torch.manual_seed(1)
    with mmsb.open(path) as mem:
        first = [mem.memo(draw)(3), torch.rand(2)]
    torch.manual_seed(1)
    with mmsb.open(path, mode="r") as mem:
        assert torch.equal(mem.memo(draw)(3), first[0])
        assert torch.equal(torch.rand(2), first[1])
        assert mem.memo.stats()["hits"] == 1


def test_readers_write_nothing(path):
    mmsb.open(path).close()
    for mode in ("r", "follow"):
        with mmsb.open(path, mode=mode) as mem:
            mem.memo(double)(torch.ones(3))
    assert not (path / "objects").exists()
    with mmsb.open(path) as writer:  # others may add results beside it
        writer.page("a", torch.zeros(2))
        with mmsb.open(path, mode="memo") as mem:
            mem.memo(double)(torch.ones(3))
            with pytest.raises(mmsb.ReadOnlyError):
                mem.update("a", 1.0)
        assert len(files(path)) == 1
        assert writer.memo(double)(torch.ones(3))["sum"] == [3.0]
        assert writer.memo.stats()["misses"] == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_a_damaged_result_is_computed_again(path, damage):
    x = torch.randn(1000)
    with mmsb.open(path) as mem:
        mem.memo(double)(x)
        mem.memo(double)(x + 1)
    one, other = files(path)
    raw = bytearray(one.read_bytes())
    raw[len(raw) // 2] ^= 1
    whole = {"flip": bytes(raw), "cut": bytes(raw[:-1]), "empty": b"", "other": other.read_bytes()}
    one.write_bytes(whole[damage])
    with mmsb.open(path) as mem:
        for value in (x, x + 1):
            assert torch.equal(mem.memo(double)(value)["twice"], value * 2)
        assert mem.memo.stats()["misses"] == 1
        assert len(files(path)) == 2


def test_one_process_computes_and_the_others_wait(path, tmp_path):
    mmsb.open(path).close()
    traces = tmp_path / "traces"
    traces.mkdir()

    def work():
        with mmsb.open(path, mode="memo") as mem:
            assert mem.memo(noisy)(str(traces), torch.ones(2)).tolist() == [2, 2]

    children = [forked(work) for _ in range(4)]
    assert [code_of(pid) for pid in children] == [0] * 4
    assert len(list(traces.iterdir())) == 1
    assert not list((path / "objects").rglob("*.lease"))


def test_who_is_killed_while_computing_holds_up_nobody(path, tmp_path):
    mmsb.open(path).close()
    traces = tmp_path / "traces"
    traces.mkdir()

    def work():
        with mmsb.open(path, mode="memo") as mem:
            mem.memo(noisy)(str(traces), torch.ones(2))

    first = forked(work)
    while not list(traces.iterdir()):
        time.sleep(0.005)
    os.kill(first, signal.SIGKILL)
    code_of(first)
    assert code_of(forked(work)) == 0
    assert len(list(traces.iterdir())) == 2


def test_results_stay_within_the_budget(path):
    with mmsb.open(path, budget="100 kB") as mem:
        f = mem.memo(lambda n: torch.full((1000,), float(n)))
        for n in range(100):
            assert f(n)[0] == n
        assert sum(p.stat().st_size for p in files(path)) <= 100_000
        assert f(99)[0] == 99
    with pytest.raises(mmsb.UnsupportedError, match="number of bytes"):
        mmsb.open(path, budget="much")


def test_what_was_dear_stays_longest(tmp_path):
    objects = Objects(tmp_path, 10_000, writable=True)
    for number in range(10):
        dear = number == 3
        tensors = {"result": torch.full((300,), float(number))}
        objects.put(f"{number:032x}", tensors, {}, 10**9 if dear else 10)
    left = {item.key for item in objects.stored()}
    assert f"{3:032x}" in left
    assert len(left) < 10


def test_results_of_memory_stay_within_the_budget_too():
    with mmsb.open(budget=50_000) as mem:
        f = mem.memo(lambda n: torch.full((1000,), float(n)))
        for n in range(100):
            assert f(n)[0] == n
        assert mem.memo.stats()["bytes"] <= 50_000
        large = mem.memo(lambda: torch.zeros(100_000))
        large()
        assert mem.memo.stats()["bytes"] <= 50_000


def test_a_full_disk_fails_no_call(path, monkeypatch):
    with mmsb.open(path) as mem:

        def refuse(*_):
            raise mmsb.StoreError("no space")

        monkeypatch.setattr(mem.memo.objects, "put", refuse)
        f = mem.memo(double)
        assert f(torch.ones(2))["sum"] == [2.0]
        assert f(torch.ones(2))["sum"] == [2.0]
        assert mem.memo.stats()["hits"] == 1


def test_another_process_with_another_hash_seed_has_the_same_keys(path):
    import subprocess
    import sys

    script = """
import sys, torch, mmsb_torch as mmsb
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = torch.nn.Linear(64, 64)
    def forward(self, x): return {"y": self.a(x), "names": sorted({"a", "b"})}
torch.set_num_threads(1)
with mmsb.open(sys.argv[1]) as mem, torch.no_grad():
    run = mem.memo(lambda net, x, options: net(x))
    run(Net(), torch.ones(2, 64), {"k": {1, 2, 3}, "s": frozenset("abc")})
    print(mem.memo.stats()["misses"], mem.memo.stats()["hits"])
"""
    found = []
    for seed in ("1", "2", "3"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", script, str(path)],
            capture_output=True, text=True, check=True, env=env,
        )  # fmt: skip
        found.append(done.stdout.split())
    assert found == [["1", "0"], ["0", "1"], ["0", "1"]]
