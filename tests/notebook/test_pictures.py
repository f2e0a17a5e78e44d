"""Pictures in a notebook: escaped, bounded, and never an error."""

import itertools
import math
import time
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mmsb_torch as mmsb
from mmsb_torch.pictures.html import unfailing
from mmsb_torch.pictures.samples import sample
from mmsb_torch.pictures.strips import histogram, strip
from mmsb_torch.types.heat import heat
from mmsb_torch.types.region import Form, Region

VOID = {"br", "hr", "input"}
NASTY = "<script>alert('x')</script>&\u202e\"'"


class Checker(HTMLParser):
    """Every tag is closed, and there is no script, no outside address and no handler."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attributes):
        assert tag != "script"
        for name, value in attributes:
            assert not name.startswith("on"), name
            assert name == "xmlns" or "//" not in (value or ""), (name, value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(thing):
    html = thing._repr_html_()
    assert len(html) < 200_000
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return html


@pytest.fixture
def mem():
    with mmsb.open() as memory:
        yield memory


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]  # fmt: skip
SHAPES = [(), (0, 3), (1,), (7,), (5, 4), (3, 2, 2)]


@pytest.mark.parametrize(("dtype", "shape"), [*itertools.product(DTYPES, SHAPES)])
def test_pages_of_all_kinds(mem, dtype, shape):
    page = mem.page(NASTY, torch.ones(shape).to(dtype))
    mem.update(page, torch.zeros(shape).to(dtype))
    for thing in (
        page,
        mem,
        page.history(),
        mem.at(1),
        mem.diff(1, 2),
        mem._router.log[2].deltas[0],
    ):
        html = checked(thing)
        assert "<pre>" not in html, html
    assert "&lt;script&gt;" in checked(page)


def test_strange_values_are_counted(mem):
    page = mem.page("n", torch.tensor([math.nan, math.inf, 1.0, 3e38, -3e38]))
    assert "2 nan or infinite" in checked(page)


def test_derived_pages_are_not_computed_to_be_shown(mem):
    mem.page("x", torch.ones(3))
    derived = mem.derive(lambda x: 1 / 0, "x", name="never")
    assert "not computed yet" in checked(derived)
    assert "new" in checked(mem)


def test_closed_memories_are_shown():
    memory = mmsb.open()
    page = memory.page("x", torch.ones(3))
    moment, history = memory.at(1), page.history()
    memory.close()
    for thing in (memory, page, moment, history):
        checked(thing)
    assert "closed" in checked(page)
    assert "closed" in checked(memory)


def test_recordings_and_graphs(mem):
    with mem.record() as rec:
        pass
    checked(rec)
    with mem.record() as rec:
        for _ in range(100):
            torch.ones(3).add(1)
    assert "by operation" in checked(rec)
    checked(mem.graph)


def test_large_pages_take_no_time_and_no_memory(mem):
    page = mem.page("large", shape=(500_000, 100), dtype=torch.float32)
    mem.update(page, torch.ones(1000, 100), rows=range(0, 500_000, 500))
    mask = torch.zeros(500_000, 100, dtype=torch.bool)
    mask[1000:2000, ::7] = True
    mem.update(page, torch.zeros(500_000, 100), mask=mask)
    checked(page)
    begun = time.perf_counter()
    checked(page)
    checked(page.history())
    assert time.perf_counter() - begun < 0.5


def test_many_pages_are_cut(mem):
    for number in range(60):
        mem.page(f"p{number}", torch.ones(2))
    assert "and 36 more" in checked(mem)
    assert "and 36 more" in checked(mem.at(60))
    assert "more" in checked(mem.diff(1, 60))


def test_what_cannot_be_drawn_is_text():
    class Broken:
        def __repr__(self):
            raise RuntimeError

        @unfailing
        def _repr_html_(self):
            raise ValueError

    assert Broken()._repr_html_() == "<pre>&lt;Broken&gt;</pre>"


@given(
    shape=st.sampled_from([(1,), (5,), (13, 3), (100, 2), (7, 2, 2)]),
    parts=st.integers(1, 12),
    form=st.sampled_from(["none", "all", "row", "rows", "elements", "mask", "bits"]),
    data=st.data(),
)
def test_heat_is_the_share_of_each_part(shape, parts, form, data):
    from mmsb_torch.device import pack_mask

    rows = st.lists(st.booleans(), min_size=shape[0], max_size=shape[0])
    chosen = torch.tensor(data.draw(rows))
    mask = chosen.view(-1, *(1,) * (len(shape) - 1)).expand(shape).clone()
    if form in {"elements", "mask", "bits"}:
        mask.view(-1)[:: data.draw(st.integers(1, 3))] = False
    region = {
        "none": lambda: Region.none(shape),
        "all": lambda: Region.all(shape),
        "row": lambda: Region.one_row(shape, shape[0] - 1),
        "rows": lambda: Region.rows(shape, chosen.nonzero().view(-1)),
        "elements": lambda: Region.elements(shape, mask.view(-1).nonzero().view(-1)),
        "mask": lambda: Region.where(mask),
        "bits": lambda: Region(Form.BITS, shape, pack_mask(mask), int(mask.sum())),
    }[form]()
    found = heat(region, parts)
    dense = region.mask().view(shape[0], -1).double()
    number = min(parts, shape[0])
    place = torch.arange(shape[0]) * number // shape[0]
    expected = [float(dense[place == part].mean()) for part in range(number)]
    assert len(found) == number
    assert found == pytest.approx(expected)


@given(values=st.lists(st.floats(width=64), max_size=40))
def test_samples_of_any_floats(values):
    found = sample(torch.tensor(values, dtype=torch.float64))
    finite = [value for value in values if math.isfinite(value)]
    assert sum(found.counts) == len(finite)
    assert found.strange == len(values) - len(finite)
    if finite:
        assert (found.low, found.high) == (min(finite), max(finite))


def test_strips_show_what_is_small():
    assert "hot" in strip([0.0, 1e-9, 0.0])
    assert "hot" not in strip([0.0, math.nan])
    assert strip([]) == histogram([]) == ""
    assert len(strip([0.1] * 500)) < 500
