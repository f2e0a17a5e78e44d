"""What code refers to counts: helpers, closures, wrappers, modules of the user's."""

import pytest

from mmsb_torch.instrumentation.code import Definition

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
