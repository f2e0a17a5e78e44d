"""Scraped over HTTP by the real client library, as a Prometheus server does."""

import sys
import threading
import urllib.request

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.integrations.prometheus import MemoryCollector

prometheus = pytest.importorskip(
    "prometheus_client", reason="the extra 'prometheus' is not installed"
)


@pytest.fixture
def mem(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as memory:
        memory.page("a", torch.zeros(1000))
        memory.derive(lambda a: a + 1, "a", name="b")
        _ = memory["b"].tensor
        memory.update("a", 1.0)
        yield memory


@pytest.fixture
def scrape(mem):
    from prometheus_client.parser import text_string_to_metric_families

    registry = prometheus.CollectorRegistry()
    registry.register(MemoryCollector(mem, name="run"))
    server, thread = prometheus.start_http_server(0, addr="127.0.0.1", registry=registry)

    def look():
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    yield look
    server.shutdown()
    server.server_close()
    thread.join()


RUN = ("memory", "run")


def test_numbers_are_scraped_and_move(mem, scrape):
    found = scrape()
    assert found["mmsb_up", RUN] == 1
    assert found["mmsb_pages", RUN] == 2
    assert found["mmsb_bytes", ("device", "cpu"), RUN] == 8000
    assert found["mmsb_recomputed_total", RUN] == 1
    assert found["mmsb_derived_pages", RUN, ("state", "stale")] == 1
    assert ("mmsb_memo_hits_total", RUN) not in found
    f = mem.memo(lambda x: x + 1)
    for _ in range(3):
        f(1)
    _ = mem["b"].tensor
    found = scrape()
    assert found["mmsb_recomputed_total", RUN] == 2
    assert found["mmsb_derived_pages", RUN, ("state", "fresh")] == 1
    assert found["mmsb_memo_hits_total", RUN] == 2
    assert found["mmsb_disk_bytes", RUN, ("part", "log")] == mem.stats()["log_bytes"]


def test_scraped_while_others_work(mem, scrape):
    over = threading.Event()

    def work():
        for number in range(300):
            mem.update("a", float(number))
            _ = mem["b"].tensor
            mem.derive(torch.neg, "a", name=f"c{number}")
        over.set()

    thread = threading.Thread(target=work)
    thread.start()
    seen = []
    while not over.is_set():
        seen.append(scrape()["mmsb_transaction", RUN])
    thread.join()
    assert seen == sorted(seen)
    assert scrape()["mmsb_transaction", RUN] == mem.tx


def test_a_closed_memory_is_down(mem, scrape):
    mem.close()
    assert scrape() == {("mmsb_up", RUN): 0}


def test_two_memories_are_told_apart_by_name(mem):
    registry = prometheus.CollectorRegistry()
    with mmsb.open() as other:
        registry.register(MemoryCollector(mem, name="run"))
        registry.register(MemoryCollector(other, name="other"))
        text = prometheus.generate_latest(registry).decode()
    assert 'mmsb_pages{memory="run"} 2.0' in text
    assert 'mmsb_pages{memory="other"} 0.0' in text


def test_bad_input_is_refused(mem, monkeypatch):
    with pytest.raises(mmsb.UnsupportedError, match="expected a text"):
        MemoryCollector(mem, name=5)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(mmsb.UnsupportedError, match=r"mmsb-torch\[prometheus\]"):
        MemoryCollector(mem)
