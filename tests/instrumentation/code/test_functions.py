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


HELPERS = """
    SCALE = 2.0
    def inner(x):
        return x * SCALE
    def normalise(x):
        return inner(x) + 1
    def f(x):
        return normalise(x)
"""


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ("def inner(x): return x / SCALE", "helper 'inner' changed"),
        ("def normalise(x): return inner(x) + 2", "helper 'normalise' changed"),
        ("SCALE = 3.0", "global 'SCALE' changed"),
        ("SCALE = 2", "global 'SCALE' changed"),
        ("del SCALE", "global 'SCALE' changed"),
        ("inner = abs", "changed"),
        ("inner.__defaults__ = (3,)", "default 'x' of 'inner'"),
        ("inner.flag = True", "attribute 'inner.flag'"),
        ("inner.__code__ = (lambda x: x).__code__", "helper 'inner' changed"),
        ("f.__code__ = (lambda x: x).__code__", "code of 'f' changed"),
        ("def sum(x): return x", None),
        ("def inner(x):\n    'doc'\n    return x * SCALE", None),
        ("SCALE = float('2')", None),
        ("OTHER = 1", None),
    ],
)
def test_an_edit_of_what_is_referred_to(cell, rerun, edit, reason):
    space = cell(HELPERS)
    definition = Definition.of(space["f"])
    assert definition.portable
    assert definition.changed() is None
    rerun(space, edit)
    found = definition.changed()
    assert (reason in found) if reason else (found is None)
    assert (definition.refresh().digest == definition.digest) == (found is None)
    assert definition.refresh().changed() is None


def test_a_change_taken_back_is_no_change(cell, rerun):
    space = cell(HELPERS)
    definition = Definition.of(space["f"])
    rerun(space, "SCALE = 5.0")
    assert definition.changed() == definition.changed() == "global 'SCALE' changed"
    rerun(space, "SCALE = 2.0")
    assert definition.changed() is None


def test_running_the_cell_again_watches_the_new_functions(cell, rerun):
    space = cell(HELPERS)
    definition = Definition.of(space["f"])
    rerun(space, HELPERS)
    assert definition.changed() is None
    # `f` itself is the old function object; its helpers are looked up by name.
    rerun(space, "inner.__defaults__ = (1,)")
    assert definition.changed() == "default 'x' of 'inner' added"


def test_names_shadowing_builtins_and_names_defined_later(cell, rerun):
    space = cell("def f(x): return later(len(x))")
    definition = Definition.of(space["f"])
    assert definition.changed() is None
    rerun(space, "def len(x): return 1")
    assert definition.changed() == "global 'len' changed"
    rerun(space, "del len")
    assert definition.changed() is None
    rerun(space, "def later(n): return n")
    assert definition.changed() == "global 'later' changed"


@pytest.mark.parametrize(
    "source",
    [
        "def f(x): return [inner(a) for a in x]",
        "def f(x): return (lambda a: inner(a))(x)",
        "def f(x):\n    class C:\n        y = inner(x)\n    return C.y",
        "def f(x):\n    def g():\n        def h(): return inner(x)\n        return h\n    return g()()",
        "async def f(x): return inner(x)",
        "def f(x): yield from map(inner, x)",
        "f = lambda x: {inner(a): 0 for a in x}",
    ],
)
def test_references_from_nested_code(cell, rerun, source):
    space = cell("def inner(x): return x\n" + source)
    definition = Definition.of(space["f"])
    rerun(space, "def inner(x): return -x")
    assert definition.changed() == "helper 'inner' changed"


def test_recursion_and_mutual_recursion_end(cell, rerun):
    source = """
    def even(n): return n == 0 or odd(n - 1)
    def odd(n): return n != 0 and even(n - 1)
    def f(n): return f(n - 1) if n else even(n)
    """
    space, again = cell(source), cell(source)
    definition = Definition.of(space["f"])
    assert definition.digest == Definition.of(again["f"]).digest
    assert Definition.of(space["even"]).digest != Definition.of(space["odd"]).digest
    rerun(space, "def odd(n): return n != 0 and even(n - 2)")
    assert definition.changed() == "helper 'odd' changed"


def test_closures_by_value(cell):
    source = """
    def make(k, table):
        def f(x): return x * k + table[0]
        def set_k(v):
            nonlocal k
            k = v
        f.set_k = set_k
        return f
    """
    make = cell(source)["make"]
    assert Definition.of(make(1, [1])).digest == Definition.of(make(1, [1])).digest
    digests = {
        Definition.of(make(*a)).digest
        for a in [(1, [1]), (1.0, [1]), (True, [1]), (1, [2]), (1, (1,))]
    }
    assert len(digests) == 5
    table = [1]
    f = make(1, table)
    definition = Definition.of(f)
    f.set_k(2)
    assert definition.changed() == "closure variable 'k' changed"
    f.set_k(1)
    assert definition.changed() is None
    table[0] = 5
    assert definition.changed() == "closure variable 'table' changed"


def test_an_empty_cell_and_its_filling(cell):
    make = cell("""
    def make():
        def f(x): return helper(x)
        yield f
        def helper(x): return x + 1
        yield helper
    """)["make"]
    steps = make()
    definition = Definition.of(next(steps))
    assert definition.changed() is None
    next(steps)
    assert definition.changed() == "closure variable 'helper' changed"
    assert definition.refresh().portable


def test_wrappers_partials_and_methods(cell, rerun):
    space = cell("""
    import functools
    def timed(g):
        @functools.wraps(g)
        def wrapper(*args): return g(*args)
        return wrapper
    def plain(x, k=1): return x * k
    @timed
    def wrapped(x): return plain(x)
    part = functools.partial(plain, k=3)
    cached = functools.lru_cache(maxsize=3)(plain)
    class Model:
        def __init__(self, k): self.k = k
        def __call__(self, x): return plain(x, self.k)
        def method(self, x): return plain(x, self.k)
        @staticmethod
        def static(x): return plain(x)
        @classmethod
        def klass(cls, x): return plain(x)
    model = Model(2)
    """)
    names = ["wrapped", "part", "cached", "model"]
    definitions = [Definition.of(space[name]) for name in names]
    model = space["model"]
    definitions += map(Definition.of, [model.method, model.static, model.klass])
    assert all(d.portable for d in definitions)
    assert len({d.digest for d in definitions}) == len(definitions)
    assert [d.changed() for d in definitions] == [None] * len(definitions)
    model.k = 3
    assert definitions[3].changed() == "attribute 'k' changed"
    assert definitions[4].changed() == "attribute 'k' changed"
    assert definitions[5].changed() is None
    space["part"].keywords["k"] = 4
    assert definitions[1].changed() == "argument 'k' changed"
    rerun(space, "def plain(x, k=1): return x + k")
    assert definitions[0].changed() == "helper 'plain' changed"
    assert definitions[5].changed() == "helper 'plain' changed"
    assert Definition.of(Definition.of).digest  # a library's own method


def test_user_code_under_a_librarys_decorator_is_seen(cell, rerun):
    space = cell("""
    import torch, contextlib
    def inner(x): return x * 2
    @torch.no_grad()
    def f(x): return inner(x)
    @contextlib.contextmanager
    def scope(x): yield inner(x)
    """)
    definitions = [Definition.of(space["f"]), Definition.of(space["scope"])]
    assert all(d.portable for d in definitions), [d.opaque for d in definitions]
    rerun(space, "def inner(x): return x * 3")
    assert [d.changed() for d in definitions] == ["helper 'inner' changed"] * 2


def test_singledispatch_sees_its_registry(cell):
    space = cell("""
    import functools
    @functools.singledispatch
    def pick(x): return 0
    def f(x): return pick(x)
    """)
    definition = Definition.of(space["f"])
    space["pick"](1)
    assert definition.changed() is None
    space["pick"].register(int, lambda x: x)
    assert definition.changed() is not None


def test_user_modules_are_followed_by_name(cell, user_module):
    helpers = user_module(
        "helpers", "LIMIT = 1\ndef g(x): return x + LIMIT\ndef unused(x): return 0"
    )
    for source in (
        "import helpers\ndef f(x): return helpers.g(x)",
        "def f(x):\n    import helpers\n    return helpers.g(x)",
        "def f(x):\n    from helpers import g\n    return g(x)",
        "def f(x):\n    import helpers as h\n    return [h.g(a) for a in x]",
        "def make():\n    import helpers\n    return lambda x: helpers.g(x)\nf = make()",
        "from helpers import g\ndef f(x): return g(x)",
    ):
        helpers.LIMIT = 1
        definition = Definition.of(cell(source)["f"])
        assert definition.portable, (source, definition.opaque)
        helpers.unused = len
        if "as h" not in source:  # a module that escapes into a closure counts as a whole
            assert definition.changed() is None
        helpers.LIMIT = 2
        assert definition.changed().endswith("LIMIT' changed"), source


def test_a_user_module_used_as_a_value_counts_as_a_whole(cell, user_module):
    helpers = user_module("helpers", "def g(x): return x\nTABLE = [1]")
    definition = Definition.of(
        cell("import helpers\ndef f(x, n): return getattr(helpers, n)(x)")["f"]
    )
    helpers.TABLE.append(2)
    assert definition.changed() == "global 'helpers.TABLE' changed"
    helpers.TABLE.pop()
    assert definition.changed() is None
    helpers.new = 1
    assert definition.changed() == "global 'helpers.new' added"


def test_packages_and_relative_imports(cell, user_module):
    package = user_module("pkg", "")
    package.__path__ = []
    package.sub = user_module("pkg.sub", "def g(x): return x")
    space = cell(
        "def f(x):\n    from .sub import g\n    return g(x)\n"
        "def h(x):\n    import pkg.sub\n    return pkg.sub.g(x)",
        __name__="pkg.other",
        __package__="pkg",
    )
    definitions = [Definition.of(space["f"]), Definition.of(space["h"])]
    assert all(d.portable for d in definitions)
    package.sub.g.__defaults__ = (1,)
    assert all("'x' of 'g'" in d.changed() for d in definitions)


def test_a_module_that_is_not_loaded_yet(cell, user_module):
    definition = Definition.of(cell("def f(x):\n    import notyet\n    return notyet.g(x)")["f"])
    assert definition.portable
    assert definition.changed() is None
    user_module("notyet", "def g(x): return x")
    assert definition.changed() == "global 'notyet.g' changed"


def test_modules_that_compute_attributes(cell, user_module):
    module = user_module("lazy", "def __getattr__(name): return K\nK = 1")
    definition = Definition.of(cell("import lazy\ndef f(x): return lazy.anything + x")["f"])
    assert definition.portable
    module.K = 2
    assert definition.changed() == "global 'K' changed"
    definition = definition.refresh()
    module.anything = 5
    assert definition.changed() is not None


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
