"""What goes by name and version, and what cannot be seen at all."""

import importlib
import json
import math
import random
import sys

import numpy as np
import pytest
import torch

import mmsb_torch
from mmsb_torch.errors import MMSBError
from mmsb_torch.instrumentation.code import Definition, libraries


def test_which_modules_are_libraries():
    for name in ("json", "math", "sys", "os.path", "posixpath", "typing", "builtins"):
        assert libraries.library_of(name).startswith("python 3."), name
    assert libraries.library_of("torch.nn.functional") == f"torch {torch.__version__}"
    assert libraries.library_of("torch._C._nn") == f"torch {torch.__version__}"
    assert libraries.library_of("numpy") == f"numpy {np.__version__}"
    assert libraries.library_of("mmsb_torch.errors").startswith("mmsb_torch ")
    assert libraries.library_of("torch.ops.aten") == f"torch {torch.__version__}"
    for name in ("__main__", __name__, "no_such_module", "torch.ops.somebody"):
        assert libraries.library_of(name) is None, name


def test_a_library_that_is_not_loaded_is_not_loaded(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert libraries.library_of("colorsys").startswith("python ")
    assert "colorsys" not in sys.modules


def test_a_loose_file_among_the_libraries_is_user_code(user_module):
    module = user_module("loose_file", "def g(x): return x")
    module.__file__ = "/usr/lib/python3/site-packages/loose_file.py"
    assert libraries.library_of("loose_file") is None


def test_a_file_that_shadows_the_standard_library_is_user_code(monkeypatch, user_module):
    user_module("colorsys", "def g(x): return x")
    assert libraries.library_of("colorsys") is None


LIBRARY_VALUES = [
    json.dumps, math.sqrt, random.random, random.shuffle, np.random.rand, np.exp, np.dot,
    np.linalg.norm, torch.softmax, torch.nn.Linear, torch.Tensor, int, len, torch.no_grad,
    torch.nn.functional.gelu, torch.linalg.svd, mmsb_torch.errors.MMSBError,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(LIBRARY_VALUES)))
def test_names_of_what_lives_in_libraries(number):
    value = LIBRARY_VALUES[number]
    assert libraries.name_of(value) is not None
    assert Definition.of(value).portable


def test_the_version_is_part_of_the_digest(cell, monkeypatch):
    f = cell("import numpy as np\ndef f(x): return np.exp(x)")["f"]
    before = Definition.of(f).digest
    monkeypatch.setattr(np, "__version__", "9.9")
    assert Definition.of(f).digest != before
    monkeypatch.undo()
    assert Definition.of(f).digest == before


def test_library_state_is_by_place_until_it_is_replaced(cell, monkeypatch):
    definition = Definition.of(cell("import torch\ndef f(x): return torch.backends.cudnn")["f"])
    assert definition.portable
    space = cell("import logging\ndef f(x): return logging.root")
    definition = Definition.of(space["f"])
    assert definition.portable
    source = "import string\ndef f(x): return string.Formatter, string.ascii_letters"
    definition = Definition.of(cell(source)["f"])
    monkeypatch.setattr("string.ascii_letters", "abc")
    assert definition.changed() == "global 'string.ascii_letters' changed"
    import decimal

    definition = Definition.of(cell("import decimal\ndef f(x): return decimal.BasicContext")["f"])
    assert definition.portable
    monkeypatch.setattr(decimal, "BasicContext", decimal.Context(prec=3))
    assert definition.changed() == "global 'decimal.BasicContext' changed"
    assert not definition.refresh().portable


HIDDEN = {
    "eval": "def f(x): return eval('x')",
    "exec": "def f(x): exec('pass')",
    "compile": "def f(x): return compile(x, '', 'eval')",
    "globals": "def f(x): return globals()['K'] * x",
    "__import__": "def f(x): return __import__('math').pi",
    "import_module": "import importlib\ndef f(x): return importlib.import_module('math')",
    "imported name": "from importlib import import_module\ndef f(x): return import_module('math')",
    "sys.modules": "import sys\ndef f(x): return sys.modules['math']",
    "frame": "import sys\ndef f(x): return sys._getframe()",
    "inspect": "import inspect\ndef f(x): return inspect.stack()",
    "open": "def f(x): return open(x)",
    "environment": "import os\ndef f(x): return os.environ['A']",
    "getenv": "import os\ndef f(x): return os.getenv('A')",
    "as a value": "def f(x, run=eval): return run(x)",
    "through a helper": "def g(x): return eval(x)\ndef f(x): return g(x)",
}


@pytest.mark.parametrize("source", HIDDEN.values(), ids=HIDDEN)
def test_what_cannot_be_followed_is_reported(cell, source):
    definition = Definition.of(cell(source)["f"])
    assert not definition.portable
    assert len(definition.opaque) == 1
    assert definition.changed() is None
    assert definition.refresh().digest == definition.digest


def test_names_that_only_look_dangerous_are_fine(cell):
    space = cell("def open(x): return x\ndef f(model): return open(model.eval()).compile()")
    assert Definition.of(space["f"]).portable


def test_opaque_names_what_it_is(cell):
    space = cell("def make(tok):\n    return lambda x: tok(x)\n")
    definition = Definition.of(space["make"](iter([1])))
    assert definition.opaque == ("closure variable 'tok' (builtins.list_iterator)",)
    assert definition.opaque[0] in repr(definition)
    definition = Definition.of(cell(HIDDEN["eval"])["f"])
    assert definition.opaque == ("global 'eval' (runs code built when it is called)",)


def test_objects_of_this_package_are_not_walked(cell, monkeypatch):
    class Memory:
        pass

    Memory.__module__, Memory.__qualname__ = "mmsb_torch.memory", "Memory"
    monkeypatch.setattr("mmsb_torch.memory.Memory", Memory, raising=False)
    memory = Memory()
    memory.state = [MMSBError("x")]
    definition = Definition.of(cell("def f(x): return memory['a']", memory=memory)["f"])
    assert definition.opaque == ("global 'memory' (mmsb_torch.memory.Memory)",)
    memory.state.append(1)
    assert definition.changed() is None


def test_importing_the_package_stays_light():
    code = importlib.util.find_spec("mmsb_torch.instrumentation.code")
    assert code is not None
    assert "importlib.metadata" not in vars(libraries)
