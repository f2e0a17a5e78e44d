"""The picture of a graph says what is there: every name, every edge, in order, safely escaped."""

import itertools
import random
import re
import shutil
import subprocess
import sys
import time
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_torch.errors import (
    CycleDetectedError,
    PageExistsError,
    PageNotFoundError,
    UnsupportedError,
)
from mmsb_torch.graph.draw import Graph, Node

SVG = "{http://www.w3.org/2000/svg}"
STATUSES = ("root", "fresh", "stale", "error", "unbound", "new")


def page(number, name=None, status="root", **more):
    kind = "page" if status == "root" else "derived"
    fields = {"dtype": "float32", "shape": (4, 8), "epoch": 1} | more
    return Node(number, name or f"n{number}", kind, status=status, **fields)


def chain(length):
    nodes = [page(i, status="fresh" if i else "root") for i in range(length)]
    return Graph(nodes, [(i, i + 1) for i in range(length - 1)])


def diamond():
    nodes = [page(0, "x"), page(1, "left", "fresh"), page(2, "right", "stale")]
    return Graph([*nodes, page(3, "joined", "stale")], [(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)])


def shards(count=16):
    nodes, edges = [page(201, "query"), page(200, "all", "fresh")], [(200, 202), (201, 202)]
    for i in range(count):
        nodes += [page(i, f"ids/{i}"), page(100 + i, f"embedding/{i}", "fresh")]
        edges += [(i, 100 + i), (100 + i, 200)]
    nodes += [page(202, "scores", "stale"), page(203, "top", "stale")]
    return Graph(nodes, [*edges, (202, 203)])


def tangle(count=300, seed=1):
    chance = random.Random(seed)
    nodes, edges = [], []
    for i in range(count):
        status = chance.choice(STATUSES[1:]) if i > count // 5 else "root"
        nodes.append(page(i, status=status, heat=chance.random()))
        if status != "root":
            edges += [(chance.randrange(i), i) for _ in range(chance.randrange(1, 4))]
    return Graph(nodes, edges)


GRAPHS = {
    "nothing": lambda: Graph([], []),
    "one": lambda: chain(1),
    "chain": lambda: chain(6),
    "diamond": diamond,
    "shards": shards,
    "tangle": tangle,
    "loose": lambda: Graph([page(i) for i in range(40)], []),
}
each_graph = pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS.keys())


def boxes(svg):
    """The boxes as (x, y, width, height), by the first line of their tooltips."""
    found = {}
    for outer in ET.fromstring(svg).iter(f"{SVG}g"):
        for group in outer.findall(f"{SVG}g"):
            title, rect = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
            if title is not None:
                x, y = _shift(outer)
                dx, dy = _shift(group)
                size = (float(rect.get("width")), float(rect.get("height")))
                found[title.text.split("\n")[0]] = (x + dx, y + dy, *size)
    return found


def _shift(group):
    return map(float, re.findall(r"-?[\d.]+", group.get("transform")))


@each_graph
def test_the_picture_is_xml_and_shows_every_page_without_overlap(make):
    graph = make()
    svg = graph.svg()
    root = ET.fromstring(svg)
    wide, high = float(root.get("width")), float(root.get("height"))
    found = boxes(svg)
    assert set(found) == {node.name for node in graph.nodes}
    for x, y, w, h in found.values():
        assert x >= 0
        assert y >= 0
        assert x + w <= wide
        assert y + h <= high
    for one, other in itertools.combinations(found.values(), 2):
        apart_x = one[0] + one[2] < other[0] or other[0] + other[2] < one[0]
        apart_y = one[1] + one[3] < other[1] or other[1] + other[3] < one[1]
        assert apart_x or apart_y


@each_graph
def test_arrows_point_one_way(make):
    graph = make()
    found, names = boxes(graph.svg()), {node.id: node.name for node in graph.nodes}
    steps = [
        [found[names[target]][axis] - found[names[source]][axis] for source, target in graph.edges]
        for axis in (0, 1)
    ]
    assert not graph.edges or min(steps[0]) > 0 or min(steps[1]) > 0


@each_graph
def test_every_form_is_the_same_at_every_call_and_for_any_order_of_nodes(make):
    graph = make()
    mixed = list(graph.nodes)
    random.Random(3).shuffle(mixed)
    again = Graph(mixed, graph.edges)
    assert (graph.svg(), graph.dot(), graph.text()) == (again.svg(), again.dot(), again.text())
    assert (graph.svg(), graph.dot()) == (graph.svg(), graph.dot())


@each_graph
def test_nodes_come_in_topological_order(make):
    graph = make()
    place = {node.id: index for index, node in enumerate(graph.nodes)}
    assert all(place[source] < place[target] for source, target in graph.edges)
    assert len(place) == len(graph)


def test_a_long_chain_runs_down_and_a_wide_fan_runs_right():
    down, right = boxes(chain(40).svg()), boxes(shards().svg())
    assert len({x for x, *_ in down.values()}) == 1
    assert len({y for _, y, *_ in down.values()}) == 40
    columns = [right[name][0] for name in ("ids/0", "embedding/0", "all", "scores", "top")]
    assert columns == sorted(set(columns))
    assert right["query"][0] == right["all"][0]  # beside what is needed at the same time


def test_a_fan_is_free_of_crossings():
    found = boxes(shards().svg())
    ids = [found[f"ids/{i}"][1] for i in range(16)]
    embeddings = [found[f"embedding/{i}"][1] for i in range(16)]
    assert ids == sorted(ids)
    assert embeddings == pytest.approx(ids)


def test_state_is_told_by_word_border_sign_and_colour():
    nodes = [page(i, status=status) for i, status in enumerate(STATUSES)]
    svg = Graph(nodes, []).svg()
    signs = re.findall(r'class="sign" d="([^"]+)"', svg)
    assert len(set(signs)) == len(STATUSES)
    for status in STATUSES:
        assert f"epoch 1 · {status}</text>" in svg
        assert f'<g class="{status}"' in svg
        assert len(re.findall(rf"\.{status}{{color:#", svg)) == 4  # light, dark, and two of Jupyter
    for status in ("stale", "error", "unbound", "new"):
        assert f".{status} .box{{stroke-" in svg
    assert "prefers-color-scheme:dark" in svg


def test_a_status_that_nobody_knows_is_shown_by_its_word():
    graph = Graph([page(1, status="resting")], [])
    assert "resting" in graph.svg()
    assert "resting" in graph.text()
    assert "resting" in graph.dot()


def test_the_way_that_made_a_page_stale_is_highlighted():
    root = ET.fromstring(diamond().svg())
    ways = [path.get("class") for path in root.iter(f"{SVG}path") if "way" in path.get("class")]
    assert sorted(ways).count("way stale") == 2  # x to right, right to joined


@pytest.mark.parametrize(
    ("heat", "told"),
    [
        (0.0, None),
        (-1.0, None),
        (float("nan"), None),
        (0.0001, "<1%"),
        (0.37, "37%"),
        (7.0, "100%"),
    ],
)
def test_heat_is_a_strip_and_a_number(heat, told):
    graph = Graph([page(1, heat=heat)], [])
    root = ET.fromstring(graph.svg())
    strips = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "heat"]
    numbers = [text.text for text in root.iter(f"{SVG}text") if "hot" in text.get("class")]
    assert numbers == ([told] if told else [])
    assert len(strips) == (2 if told else 0)  # in the box and in the legend
    assert f"{told} changed" in graph.text() if told else "changed" not in graph.text()


def test_the_picture_needs_nothing_else():
    svg = tangle(60).svg()
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"<(script|image|use|foreignObject)|\bid=|url\(|@import", svg)


NAMES = [
    "quo\"ted 'name'",
    "<b>&amp; <script>alert(1)</script> ]]>",
    "two\nlines\tand\ra return",
    "nul\x00 bell\x07 escape\x1b[31m",
    "東京 🙂 Ω é e\u0301",
    "lone \ud800 surrogate, \ufffe no character",
    "\u202eright to left",
    "back\\slash \\N \\l %s {0}",
    " ",
    "very." * 400 + "long",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_escaped_everywhere(name, tmp_path):
    graph = Graph([page(1, name), page(2, name + "2", "error", detail=name)], [(1, 2)])
    titles = [title.text for title in ET.fromstring(graph.svg()).iter(f"{SVG}title")]
    assert len(titles) == 2
    if name.isprintable():
        assert titles[0].startswith(f"{name}\n")
        assert f"computed from {name}" in titles[1]
    assert len(graph.text().split("\n")) == 3
    assert dot_is_well_formed(graph.dot())
    assert graph.ancestors(name + "2") == [name]
    for suffix in ("svg", "dot", "txt"):
        graph.save(tmp_path / f"graph.{suffix}").read_text(encoding="utf-8")


@given(st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=6), st.data())
def test_any_graph_with_any_names_is_drawn(names, data):
    nodes = [
        page(i, name, data.draw(st.sampled_from(STATUSES)), shape=data.draw(shapes))
        for i, name in enumerate(names)
    ]
    pairs = list(itertools.combinations(range(len(names)), 2))
    edges = data.draw(st.lists(st.sampled_from(pairs))) if pairs else []
    graph = Graph(nodes, edges)
    titles = list(ET.fromstring(graph.svg()).iter(f"{SVG}title"))
    assert len(titles) == len(names)
    assert dot_is_well_formed(graph.dot())
    assert graph.text().count("\n") == len(names)


shapes = st.none() | st.lists(st.integers(0, 2**40), max_size=5).map(tuple)


def dot_is_well_formed(dot):
    """Whether every line is a statement we mean, its strings closed."""
    string = r'"(?:[^"\\\n]|\\.)*"'
    value = rf"(?:{string}|\w+)"
    attributes = rf"\[\w+={value}(?:, \w+={value})*\]"
    line = (
        rf"  (?:rankdir=LR|(?:node|edge) {attributes}|{string} {attributes}|{string} -> {string});"
    )
    first, *lines, last = dot.rstrip("\n").split("\n")
    assert (first, last) == ("digraph pages {", "}")
    for text in lines:
        assert re.fullmatch(line, text), text
    return True


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
@pytest.mark.parametrize("name", [name for name in NAMES if name.isprintable()])
def test_graphviz_reads_the_names_back(name):
    graph = Graph([page(1, name), page(2, "other", "stale")], [(1, 2)])
    told = subprocess.run(
        ["dot", "-Tsvg"], input=graph.dot().encode(), capture_output=True, check=True
    )
    texts = [text.text for text in ET.fromstring(told.stdout).iter(f"{SVG}text")]
    assert any((text or "").strip().replace("\xa0", " ") == name.strip() for text in texts)


def test_text_is_one_line_a_page_with_its_inputs():
    lines = str(diamond()).split("\n")
    assert lines[0] == "4 pages, 3 derived, 5 edges, 2 stale"
    assert re.fullmatch(r"■  x +float32\[4, 8\]  epoch 1  root", lines[1])
    assert re.fullmatch(r"~  joined +float32\[4, 8\]  epoch 1  stale  <- left, right, x", lines[4])


def test_text_tells_detail_and_many_inputs_shortly():
    graph = Graph(
        [*(page(i) for i in range(16)), page(99, "sum", "new", shape=None, detail="never read")],
        [(i, 99) for i in range(16)],
    )
    assert "<- n0, n1, n2, n3, 12 more  (never read)" in graph.text()
    assert "float32, not computed" in graph.text()


def test_a_limit_is_said_plainly():
    graph = chain(1000)
    assert graph.text(limit=10).split("\n")[-1] == "... and 990 more pages: text(limit=...)"
    assert graph.text(limit=999).split("\n")[-1] == "... and 1 more page: text(limit=...)"
    assert graph.text(limit=1000).count("\n") == 1000
    svg = graph.svg(limit=5)
    assert set(boxes(svg)) == {"n0", "n1", "n2", "n3", "n4"}
    assert "995 more pages are not drawn; these are the first 5 in topological order." in svg
    assert "not drawn" not in chain(5).svg(limit=5)
    assert boxes(graph.svg(limit=0)) == {}


def test_ancestors_and_descendants():
    graph = diamond()
    assert graph.ancestors("joined") == ["x", "left", "right"]
    assert graph.descendants("x") == ["left", "right", "joined"]
    assert graph.ancestors("x") == graph.descendants("joined") == []
    with pytest.raises(PageNotFoundError, match="'nobody'"):
        graph.ancestors("nobody")
    with pytest.raises(PageNotFoundError, match="'nobody'"):
        graph.descendants("nobody")


def test_what_is_no_graph_is_refused():
    with pytest.raises(PageExistsError, match="the id 1 occurs twice"):
        Graph([page(1, "a"), page(1, "b")], [])
    with pytest.raises(PageExistsError, match="the name 'a' occurs twice"):
        Graph([page(1, "a"), page(2, "a")], [])
    with pytest.raises(PageNotFoundError, match="from 1 to 7"):
        Graph([page(1)], [(1, 7)])
    with pytest.raises(CycleDetectedError, match="'n1' -> 'n2' -> 'n1'"):
        Graph([page(1), page(2), page(3)], [(1, 2), (2, 1), (2, 3)])
    with pytest.raises(CycleDetectedError, match="'n1' -> 'n1'"):
        Graph([page(1)], [(1, 1)])


def test_it_is_read_only_and_counts_an_edge_once():
    nodes, edges = [page(2, status="fresh"), page(1)], [(1, 2), (1, 2)]
    graph = Graph(nodes, edges)
    nodes.clear()
    edges.clear()
    assert [node.id for node in graph.nodes] == [1, 2]
    assert graph.edges == ((1, 2),)
    for name in ("nodes", "edges", "other"):
        with pytest.raises(AttributeError):
            setattr(graph, name, ())


def test_repr_counts():
    assert repr(diamond()) == "<Graph 4 pages, 3 derived, 5 edges, 2 stale>"
    assert repr(chain(1)) == "<Graph 1 page, 0 derived, 0 edges>"
    assert repr(Graph([page(1, status="error")], [])).endswith("0 edges, 1 in error>")


def test_notebooks_get_the_picture():
    graph = diamond()
    assert graph._repr_svg_() == graph.svg()
    assert graph.svg() in graph._repr_html_()
    ET.fromstring(graph._repr_html_())


def test_save_goes_by_the_suffix(tmp_path):
    graph = diamond()
    for suffix, content in ((".svg", graph.svg()), (".dot", graph.dot()), (".TXT", f"{graph}\n")):
        path = graph.save(str(tmp_path / f"graph{suffix}"))
        assert path == tmp_path / f"graph{suffix}"
        assert path.read_bytes() == content.encode()
    for name in ("graph.png", "graph"):
        with pytest.raises(UnsupportedError, match=r"\.svg, \.dot or \.txt"):
            graph.save(tmp_path / name)
        assert not (tmp_path / name).exists()


def test_ten_thousand_in_a_row_take_no_recursion_and_little_time():
    assert sys.getrecursionlimit() < 10_000
    start = time.process_time()
    graph = chain(10_000)
    assert graph.text(limit=10_000).count("\n") == 10_000
    assert graph.dot().count(" -> ") == 9_999
    assert len(graph.ancestors("n9999")) == len(graph.descendants("n0")) == 9_999
    assert "9,700 more pages are not drawn" in graph.svg()
    assert time.process_time() - start < 15  # what is quadratic here takes minutes


def test_a_tangle_of_seven_thousand_edges_is_drawn():
    nodes = [page(i, status="fresh" if i else "root") for i in range(120)]
    graph = Graph(nodes, list(itertools.combinations(range(120), 2)))
    assert len(boxes(graph.svg())) == 120
