"""The report: hits, misses and why, seconds, bytes, evictions; in this process and before."""

import json
import os
import time

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch import EventType
from mmsb_torch.runtime.store.files import FILES
from mmsb_torch.runtime.store.tallies import add_tallies, read_tallies


def slow(x, scale=1.0):
    time.sleep(0.02)
    return x * scale


def refuses(x):
    return iter(x)


def full(number):
    return torch.full((1000,), float(number))


def test_hits_misses_and_why():
    with mmsb.open() as mem:
        f, g, x = mem.memo(slow), mem.memo(refuses), torch.ones(3)
        f(x)
        f(x)
        f(x.clone())
        f(x + 1)
        f(x, scale=2.0)
        g(x)
        report = mem.memo.report()
        row = report["slow"]
        assert (row.calls, row.hits, row.misses, row.unkept) == (5, 2, 3, 0)
        assert row.why == {
            "never computed in this process": 1,
            "argument 'x' changed": 1,
            "argument 'scale' changed": 1,
        }
        assert sum(row.why.values()) == row.misses
        assert 0.06 <= row.run_seconds < 1
        assert 0 < row.overhead_seconds < 1
        assert 0.03 < row.saved_seconds < 2 * 0.5
        assert (row.results, row.nbytes) == (3, mem.memo.stats()["bytes"])
        assert report["refuses"].why_unkept
        assert report.where == "memory"
        stats = mem.memo.stats()
        assert stats["hit_rate"] == 2 / 6
        assert stats["saved_seconds"] == row.saved_seconds


def test_what_has_no_key_is_a_call_that_was_not_kept():
    with mmsb.open() as mem:
        f = mem.memo(lambda x: 1)
        f(iter([1]))
        (row,) = mem.memo.report().rows
        assert (row.calls, row.hits, row.misses, row.unkept) == (1, 0, 0, 1)
        assert "cannot be keyed" in next(iter(row.why_unkept))


def test_it_prints_and_shows_and_is_plain_data():
    with mmsb.open() as mem:
        assert str(mem.memo.report()).endswith("nothing was memoised yet")
        f = mem.memo(slow)
        f(torch.ones(3))
        f(torch.ones(3))
        report = mem.memo.report()
        text, html = str(report), report._repr_html_()
        assert text.splitlines()[0].split()[:4] == ["function", "calls", "hits", "misses"]
        assert "missed 1: never computed in this process" in text
        assert "1 results" in text
        assert "<table>" in html
        assert "<lambda>" not in html
        plain = json.loads(json.dumps(report.as_dict()))
        (function,) = plain["functions"].values()
        assert function["hits"] == 1
        with pytest.raises(KeyError):
            report["nobody"]


def test_names_in_html_are_escaped():
    with mmsb.open() as mem:
        mem.memo(lambda x: x + 1)(torch.ones(2))
        html = mem.memo.report()._repr_html_()
        assert "&lt;lambda&gt;" in html
        assert "<lambda>" not in html


def test_other_code_of_a_function_is_named():
    one = {"__name__": "pipeline"}
    exec("def f(x): return x + 1", one)
    two = {"__name__": "pipeline"}
    exec("def f(x): return x + 2", two)
    with mmsb.open() as mem:
        mem.memo(one["f"])(torch.ones(2))
        mem.memo(two["f"])(torch.ones(2))
        row = mem.memo.report()["pipeline.f"]
        assert row.misses == 2
        assert any(reason.startswith("code changed") for reason in row.why)


def test_eviction_is_seen_in_events_report_and_why(tmp_path):
    for path in (None, tmp_path / "run.mmsb"):
        with mmsb.open(path, budget=40_000) as mem:
            events = []
            mem.subscribe(events.append, [EventType.EVICTED])
            f = mem.memo(full)
            for number in range(20):
                f(number)
            row = mem.memo.report()["full"]
            told = [e.fields for e in events]
            assert sum(e["results"] for e in told) == row.evicted > 0
            assert {e["where"] for e in told} == {"memory" if path is None else "disk"}
            assert all(any("full" in name for name in e["functions"]) for e in told)
            assert row.results + row.evicted == 20
            assert row.nbytes <= 40_000
            assert "evicted" in str(mem.memo.report())
            if path is None:
                whys = {number: str(mem.memo.explain(f, number)) for number in range(20)}
                gone = [n for n, why in whys.items() if why.startswith("miss: it was evicted")]
                assert len(gone) == row.evicted
                f(gone[0])
                assert mem.memo.report()["full"].why["it was evicted: results are over the budget"]
            assert mem.memo.stats()["evicted"] >= row.evicted


def test_what_cannot_be_stored_is_told_and_fails_no_call(tmp_path, monkeypatch):
    with mmsb.open(tmp_path / "run.mmsb") as mem:
        events = []
        mem.subscribe(events.append, [EventType.ERROR])

        def refuse(*_):
            raise mmsb.StoreError("no space")

        monkeypatch.setattr(mem.memo.objects, "put", refuse)
        assert mem.memo(full)(3)[0] == 3
    assert [e.fields["error"] for e in events] == ["no space"]
    assert "full" in events[0].fields["memo"]


def test_a_subscriber_to_evictions_may_call_the_function_that_evicts(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb", budget=20_000) as mem:
        f, seen = mem.memo(full), []

        def listen(event):
            if len(seen) < 5:
                seen.append(event)
                f(100 + len(seen))

        mem.subscribe(listen, [EventType.EVICTED])
        for number in range(10):
            assert f(number)[0] == number
        assert len(seen) == 5


def test_what_draws_at_random_misses_where_the_generators_stand_elsewhere():
    with mmsb.open() as mem:
        f = mem.memo(lambda n: torch.rand(n))
        f(3)
        f(3)
        assert mem.memo.report().rows[0].why == {
            "never computed in this process": 1,
            "random generators changed": 1,
        }
        assert str(mem.memo.explain(f, 3)) == "miss: random generators changed"


# across processes


def test_counts_of_earlier_processes_are_added(tmp_path):
    path, x = tmp_path / "run.mmsb", torch.ones(3)
    for _ in range(3):
        with mmsb.open(path) as mem:
            f = mem.memo(slow)
            f(x)
            f(x)
            row = mem.memo.report()["slow"]
    assert (row.hits, row.misses) == (2, 0)
    assert row.from_disk == 1
    assert (row.earlier_hits, row.earlier_misses) == (1 + 2, 1)
    assert row.earlier_saved_seconds > 0.03
    with mmsb.open(path, mode="r") as mem:  # nothing was called here
        row = mem.memo.report()["slow"]
        assert (row.calls, row.earlier_hits, row.results) == (0, 5, 1)
        text = str(mem.memo.report())
    assert "earlier processes: 5 hits, 1 misses" in text


def test_readers_leave_no_counts(tmp_path):
    path = tmp_path / "run.mmsb"
    mmsb.open(path).close()
    with mmsb.open(path, mode="r") as mem:
        mem.memo(full)(1)
    assert read_tallies(path / "objects") == {}


def test_lines_that_cannot_be_read_count_as_not_there(tmp_path):
    add_tallies(tmp_path, {"f": {"hits": 2}}, FILES)
    file = tmp_path / "tallies.jsonl"
    whole = file.read_bytes()
    for wrong in (b"{", b"[1]", b'{"f": 3}', b'{"f": {"hits": "x"}}', b"\xff\xfe", b"5", b"null"):
        file.write_bytes(wrong + b"\n" + whole)
        assert read_tallies(tmp_path).get("f", {}) == {"hits": 2}
    file.write_bytes(b"[" * 100_000 + b"\n" + whole)
    assert read_tallies(tmp_path)["f"] == {"hits": 2}


def test_many_processes_at_once_lose_no_line_and_the_file_stays_small(tmp_path):
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            for _ in range(500):
                add_tallies(tmp_path, {"some.function": {"hits": 1, "saved_seconds": 0.5}}, FILES)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    assert read_tallies(tmp_path) == {"some.function": {"hits": 2000, "saved_seconds": 1000.0}}
    assert (tmp_path / "tallies.jsonl").stat().st_size <= 64 << 10
