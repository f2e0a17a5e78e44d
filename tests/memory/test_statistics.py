"""Numbers about a memory: each is what it says, and all of them are plain data."""

import json
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mmsb_torch as mmsb


def test_get_stats_is_stats_and_plain_data():
    with mmsb.open() as mem:
        mem.page("a", torch.ones(3))
        mem.derive(lambda a: a + 1, "a", name="b")
        mem.memo(lambda x: x)(1)
        stats = mmsb.get_stats(mem)
        assert stats.keys() == mem.stats().keys()
        assert json.loads(json.dumps(stats)) == stats
    with pytest.raises(mmsb.ClosedError):
        mmsb.get_stats(mem)


def test_pages_deltas_and_bytes_are_counted():
    with mmsb.open() as mem:
        mem.page("a", torch.zeros(100))
        mem.page("b", torch.zeros(10, dtype=torch.float64))
        for number in range(4):
            mem.update("a", float(number), rows=[number])
        stats = mem.stats()
        assert (stats["pages"], stats["transaction"], stats["deltas"]) == (2, 6, 6)
        assert stats["bytes"] == {"cpu": 400 + 80}
        assert stats["delta_mean_bytes"] == stats["history_bytes"] / 6
        assert stats["log_bytes"] == stats["history_bytes"]
        assert stats["disk_bytes"] == {}


def test_throughput_is_that_of_the_last_transactions():
    with mmsb.open() as mem:
        mem.page("a", torch.zeros(3))
        assert mem.stats()["deltas_per_second"] == 0
        begun = time.time()
        for number in range(20):
            mem.update("a", float(number))
            time.sleep(0.005)
        took = time.time() - begun
        rate = mem.stats()["deltas_per_second"]
        assert 0.5 * 20 / took < rate < 4 * 20 / took
        mem.update_many([("a", [0], 1.0)])
        for number in range(1100):
            mem.update("a", float(number))
        assert mem.stats()["deltas_per_second"] > 2 * rate


def test_files_are_measured(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as mem:
        mem.page("a", torch.zeros(1000))
        before = mem.stats()
        assert before["disk_bytes"]["checkpoints"] == before["disk_bytes"]["results"] == 0
        assert before["log_bytes"] == before["disk_bytes"]["log"] > 4000
        mem.memo(torch.nn.Identity())(torch.zeros(10))
        mem.checkpoint()
        mem.checkpoint()  # shares what did not change
        after = mem.stats()["disk_bytes"]
        assert 4000 < after["checkpoints"] < 100_000
        files = [p for p in (tmp_path / "run.mmsb" / "objects").rglob("*") if p.is_file()]
        assert after["results"] == sum(p.stat().st_size for p in files)


CHAINS = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=2), max_size=7)


@given(CHAINS, st.lists(st.booleans(), min_size=8, max_size=8))
def test_the_graph_is_counted_as_a_walk_over_it_counts(parents, read):
    with mmsb.open() as mem:
        mem.page("p0", torch.zeros(2))
        depths, edges = {0: 0}, 0
        for number, above in enumerate(parents, 1):
            above = sorted({parent % number for parent in above})
            names = [mem[f"p{parent}"] for parent in above]
            mem.derive(lambda *values: sum(values) + 1, *names, name=f"p{number}")
            depths[number] = 1 + max(depths[parent] for parent in above)
            edges += len(above)
            if read[number]:
                _ = mem[f"p{number}"].tensor
        mem.update("p0", 1.0)
        for number in range(1, len(parents) + 1, 3):
            _ = mem[f"p{number}"].tensor
        stats = mem.stats()
        assert stats["depth"] == max(depths.values())
        assert stats["edges"] == edges
        states = [mem.why(f"p{number}").status for number in range(1, len(parents) + 1)]
        assert stats["states"] == {name: states.count(name) for name in stats["states"]}
        assert sum(stats["states"].values()) == stats["derived"] == len(parents)
        assert stats["stale"] == states.count("stale")


def test_looking_changes_nothing():
    with mmsb.open() as mem:
        mem.page("a", torch.zeros(2))
        page = mem.derive(lambda a: a + 1, "a", name="b")
        _ = page.tensor
        mem.update("a", 1.0)
        first = mem.stats()
        assert mem.stats() == first
        assert first["states"]["stale"] == 1
        assert first["recomputed"] == 1
        assert page.tensor.tolist() == [2, 2]


def test_rates_and_savings():
    with mmsb.open() as mem:
        assert mem.stats()["hit_rates"] == {"derived": None, "memo": None}
        assert mem.stats()["memo"] == {}
        mem.page("a", torch.ones(2))
        mem.derive(lambda a: a.sign(), "a", name="sign")
        mem.derive(lambda sign: sign + 1, "sign", name="next")
        _ = mem["next"].tensor
        mem.update("a", 2.0)
        _ = mem["next"].tensor  # sign is run, and next cut off

        @mem.memo
        def slow(x):
            time.sleep(0.02)
            return x

        for _ in range(4):
            slow(1)
        stats = mem.stats()
        assert stats["hit_rates"] == {"derived": 1 / 4, "memo": 3 / 4}
        assert (
            stats["time_saved_seconds"] == stats["saved_seconds"] + stats["memo"]["saved_seconds"]
        )
        assert stats["memo"]["saved_seconds"] > 0.03
