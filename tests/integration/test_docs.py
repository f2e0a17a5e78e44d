"""Every Python snippet of these pages runs as it stands, page by page, in an empty folder."""

import contextlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the snippets of a page in one session; returns the session and what was printed."""
    monkeypatch.chdir(tmp_path)

    def run(page):
        session = {"__name__": page}
        snippets = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
        for number, snippet in enumerate(snippets):
            exec(compile(snippet, f"{page} snippet {number}", "exec"), session)
        return session, capsys.readouterr().out

    return run


def test_pipeline(run):
    session, printed = run("pipeline.md")
    assert (session["row"].hits, session["row"].misses) == (10, 1)
    assert list(session["row"].why) == ["argument 'model' changed (parameter '0.weight' changed)"]
    assert "missed 9: argument 'batch' changed" in printed
    assert "hit: kept" in printed
    assert "earlier processes: 0 hits, 10 misses" in printed
    assert "'where': 'memory'" in printed
    assert "10 hits had been read ahead" in printed


def test_arrow(run, tmp_path):
    pytest.importorskip("pyarrow")
    pytest.importorskip("duckdb")
    session, printed = run("arrow.md")
    assert printed.splitlines()[0] == "True"
    assert session["back"].metadata == {"unit": "metres"}
    assert session["top"].fetchall() == [("emb", 2)]
    assert session["numbers"].shape == (1000, 64)


def test_monitoring(run, tmp_path):
    pytest.importorskip("matplotlib")
    prometheus = pytest.importorskip("prometheus_client")
    session, printed = run("monitoring.md")
    try:
        assert "1,000 derived" not in printed
        assert (tmp_path / "stats.png").stat().st_size > 10_000
        assert [event.fields["page"] for event in session["told"]] == ["scores"]
        assert b'mmsb_pages{memory="run"} 2.0' in prometheus.generate_latest()
    finally:
        collectors = list(prometheus.REGISTRY._collector_to_names)
        for collector in collectors:
            if type(collector).__module__.startswith("mmsb_torch"):
                prometheus.REGISTRY.unregister(collector)
        with contextlib.suppress(KeyError):
            session["server"].shutdown()
            session["server"].server_close()
            session["thread"].join()
        session["mem"].close()


def test_every_key_of_the_stats_and_every_type_of_event_is_described():
    import torch

    import mmsb_torch as mmsb

    text = (DOCS / "monitoring.md").read_text()
    with mmsb.open() as mem:
        mem.page("a", torch.ones(2))
        mem.memo(lambda x: x)(1)
        stats = mem.stats()
    for key in [*stats, *stats["memo"], *stats["states"], *stats["audit"]]:
        assert f"`{key}`" in text, key
    for kind in mmsb.EventType:
        assert f"| `{kind.name}` |" in text, kind
