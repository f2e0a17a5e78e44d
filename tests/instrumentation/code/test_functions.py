"""Which edits of code move the digest, and what the reason says."""

import functools
import operator
import types

import pytest
import torch

from mmsb_torch.errors import InvalidRecipeError
from mmsb_torch.instrumentation.code import Definition

BASE = """
    def f(x, k=2):
        y = x * k
        return y + 1
"""

SAME = {
    "the same text": BASE,
    "comments": """
    # about f
    def f(x, k=2):
        y = x * k  # product

        # now the sum
        return y + 1
    """,
    "docstring": '''
    def f(x, k=2):
        """What f does."""
        y = x * k
        return y + 1
    ''',
    "lines": """


    def f(
        x,
        k=2,
    ):
        y = (
            x
            * k
        )
        return y + 1
    """,
    "annotations": """
    def f(x: int, k: "float" = 2) -> int:
        y = x * k
        return y + 1
    """,
    "other names around": "unrelated = 3\ndef f(x, k=2):\n    y = x * k\n    return y + 1",
    "defined inside": """
    def make():
        def f(x, k=2):
            y = x * k
            return y + 1
        return f
    f = make()
    """,
}

DIFFERENT = {
    "constant": "def f(x, k=2):\n    y = x * k\n    return y + 2",
    "constant's type": "def f(x, k=2):\n    y = x * k\n    return y + 1.0",
    "truth for one": "def f(x, k=2):\n    y = x * k\n    return y + True",
    "operator": "def f(x, k=2):\n    y = x / k\n    return y + 1",
    "in place": "def f(x, k=2):\n    y = x * k\n    y += 1\n    return y",
    "default": "def f(x, k=3):\n    y = x * k\n    return y + 1",
    "default's type": "def f(x, k=2.0):\n    y = x * k\n    return y + 1",
    "keyword only": "def f(x, *, k=2):\n    y = x * k\n    return y + 1",
    "parameter's name": "def f(x, n=2):\n    y = x * n\n    return y + 1",
    "order": "def f(k, x=2):\n    y = x * k\n    return y + 1",
    "varargs": "def f(x, *k):\n    y = x * k\n    return y + 1",
    "generator": "def f(x, k=2):\n    y = x * k\n    yield y + 1",
    "async": "async def f(x, k=2):\n    y = x * k\n    return y + 1",
    "attribute": BASE + "\n    f.scale = 3",
}


@pytest.mark.parametrize("source", SAME.values(), ids=SAME)
def test_edits_that_do_not_matter(digest, source):
    assert digest(source) == digest(BASE)


@pytest.mark.parametrize("source", DIFFERENT.values(), ids=DIFFERENT)
def test_edits_that_matter(digest, source):
    assert digest(source) != digest(BASE)


PAIRS = {
    "tuples of ones": ("(1,)", "(1.0,)", "(True,)"),
    "zeros": ("0.0", "-0.0", "0", "False", "0j"),
    "nested": ("(1, (2, 3))", "(1, 2, 3)", "((1, 2), 3)"),
    "text": ("'a'", "b'a'", "('a',)"),
    "slices": ("x[1:]", "x[1:None:1]", "x[1]"),
    "sets": ("x in {1, 2}", "x in {1, 3}", "x in (1, 2)"),
    "names": ("x.real", "x.imag", "x.real()"),
    "comparisons": ("x < 1", "x <= 1", "x == 1", "x is None", "x is not None"),
    "unary": ("-x", "+x", "~x", "not x"),
    "formats": ("f'{x}'", "f'{x!r}'", "f'{x:.1f}'", "str(x)"),
    "comprehensions": ("[a for a in x]", "[a for a in x if a]", "{a for a in x}", "(a for a in x)"),
    "nested functions": ("(lambda a: a + 1)(x)", "(lambda a: a + 2)(x)", "(lambda a, b=1: a)(x)"),
    "super long": ("'" + "a" * 500 + "'", "'" + "a" * 499 + "b'"),
}


@pytest.mark.parametrize("expressions", PAIRS.values(), ids=PAIRS)
def test_no_two_expressions_have_one_digest(digest, expressions):
    digests = [digest(f"f = lambda x: {text}") for text in expressions]
    assert len(set(digests)) == len(expressions)
    assert digests == [digest(f"f = lambda x: {text}") for text in expressions]


def test_nan_equals_itself(digest):
    source = "def f(x, y=float('nan')): return x + y"
    assert digest(source) == digest(source)


def test_exception_handlers_count(digest):
    one = "def f(x):\n  try:\n    g(x)\n    h(x)\n  except ValueError:\n    pass"
    two = "def f(x):\n  try:\n    g(x)\n  except ValueError:\n    pass\n  h(x)"
    assert digest(one) != digest(two)


def test_a_docstring_does_not_move_constants(digest):
    body = "\n    " + "; ".join(f"x += {n}.5" for n in range(300)) + "\n    return x"
    assert digest("def f(x):" + body) == digest("def f(x):\n    'Doc.'" + body)


def test_defaults_and_keyword_defaults_in_place(cell):
    space = cell("def f(x, table=[1], *, k={'a': 1}): return table[0] + k['a']")
    f = space["f"]
    definition = Definition.of(f)
    f.__defaults__[0].append(1)
    assert definition.changed() == "default 'table' of 'f' changed"
    f.__defaults__[0].pop()
    assert definition.changed() is None
    f.__kwdefaults__["k"] = {"a": 1.0}
    assert definition.changed() == "default 'k' of 'f' changed"


def test_constants_of_the_definition():
    def f(x, k, table=()):
        return x * k

    one = Definition.of(f, {"k": 1, "table": [1]})
    assert one.digest == Definition.of(f, {"table": [1], "k": 1}).digest
    others = [{}, {"k": 1.0, "table": [1]}, {"k": 1, "table": (1,)}, {"j": 1, "table": [1]}]
    assert len({Definition.of(f, c).digest for c in others} | {one.digest}) == 5
    table = [1]
    definition = Definition.of(f, {"k": 1, "table": table})
    table.append(2)
    assert definition.changed() == "constant 'table' changed"
    assert definition.refresh().digest != definition.digest
    assert definition.refresh().changed() is None


def test_callables_of_libraries():
    callables = [
        torch.softmax, torch.relu, torch.Tensor.add, torch.nn.functional.gelu, len, str.upper,
        operator.add, operator.itemgetter(1), operator.itemgetter(2), operator.attrgetter("a"),
        operator.methodcaller("f", 1), operator.methodcaller("f", 1.0), functools.reduce,
        torch.nn.functional.max_pool2d, torch.nn.functional.softmax, torch.ops.aten.add,
        torch.ops.aten.add.Tensor, torch.linalg.norm, torch.nn.Linear, int,
    ]  # fmt: skip
    definitions = [Definition.of(function) for function in callables]
    assert [d.opaque for d in definitions] == [()] * len(definitions)
    assert len({d.digest for d in definitions}) == len(definitions)
    assert all(d.changed() is None and d.cheap for d in definitions)


def test_a_patched_library_function_is_seen(cell, monkeypatch):
    functional = torch.nn.functional
    space = cell("""
    import functools
    import torch.nn.functional as F
    def f(x): return F.relu(x)
    original = F.relu
    @functools.wraps(F.relu)
    def disguised(x): return original(x) + 1
    """)
    definition = Definition.of(space["f"])
    patches = [
        space["disguised"],
        torch.sigmoid,
        functional.relu6,
        functools.partial(functional.relu, inplace=True),
        torch.no_grad()(space["disguised"]),
        type("Callable", (), {"__call__": lambda self, x: x})(),
    ]
    digests = {definition.digest}
    for patch in patches:
        monkeypatch.setattr(functional, "relu", patch)
        assert definition.changed() is not None, patch
        digests.add(definition.refresh().digest)
    assert len(digests) == 1 + len(patches)
    monkeypatch.undo()
    assert definition.changed() is None


def test_labels():
    def scores(x):
        return x

    definition = Definition.of(scores)
    line = scores.__code__.co_firstlineno
    assert definition.label == f"scores (test_functions.py:{line})"
    assert repr(definition) == f"<Definition {definition.label} {definition.digest[:8]}>"
    assert Definition.of(functools.partial(scores, k=1)).label == definition.label
    assert Definition.of(torch.relu).label == "relu"
    assert Definition.of(torch.nn.Linear(1, 1)).label == "Linear"
    cell = types.FunctionType(
        compile("f = lambda: 1", "/tmp/ipykernel_77/123.py", "exec").co_consts[0], {}
    )
    assert Definition.of(cell).label == "<lambda> (cell:1)"


def test_what_is_not_callable_is_refused():
    with pytest.raises(InvalidRecipeError, match="expected a callable, got int"):
        Definition.of(3)


def test_a_partial_is_the_same_before_and_after_it_is_called(cell):
    """It shows a pointer of the interpreter as a member, which moves with the first call."""
    partial = functools.partial(cell("def f(x, y): return x + y")["f"], y=2)
    definition = Definition.of(partial)
    assert partial(1) == 3
    assert definition.changed() is None
    assert Definition.of(partial).digest == definition.digest
    assert Definition.of(functools.partial(partial.func, y=2)).digest == definition.digest
