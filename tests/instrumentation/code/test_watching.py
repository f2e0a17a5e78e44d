"""`changed()` under load: its cost, many threads, other processes, and random edits."""

import os
import subprocess
import sys
import textwrap
import threading
import timeit
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmsb_torch.instrumentation.code import Definition


def best_microseconds(function, number):
    return min(timeit.repeat(function, number=number, repeat=15)) / number * 1e6


def test_checking_a_plain_function_takes_about_a_microsecond(cell):
    source = "import torch\ndef f(e, q): return torch.softmax(e @ q.T, -1)"
    definition = Definition.of(cell(source)["f"])
    assert definition.cheap
    assert best_microseconds(definition.changed, 2000) < 3  # 0.4 on an idle machine


def test_checking_a_module_reads_its_tensors_and_little_else():
    module = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(50)])
    definition = Definition.of(module)
    assert best_microseconds(definition.changed, 5) < 10_000  # 600 on an idle machine


def test_many_threads_and_a_writer_never_see_a_wrong_answer(cell):
    space = cell("TABLE = [0]\ndef g(x): return x\ndef f(x): return g(x) * TABLE[0]")
    definition = Definition.of(space["f"])
    found, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            found.add(definition.changed())

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(300):
        space["TABLE"].append(number)
        space["TABLE"].pop()
        space["g"] = cell("def g(x): return x")["g"]
        space["TABLE"] = [0]
    stop.set()
    for thread in threads:
        thread.join()
    assert found <= {None, "global 'TABLE' changed"}
    assert definition.changed() is None


PROGRAM = """
    import enum, functools, json, sys
    import torch
    from mmsb_torch.instrumentation.code import Definition

    class Kind(enum.Enum):
        A = "a"
        B = "b"

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 3)
            self.kinds = {Kind.A, Kind.B}
        def forward(self, x): return self.linear(x) if x.sum() in {1, 2, "x"} else x

    NAMES = {"one", "two", "three"}
    TABLE = {name: {len(name), name} for name in sorted(NAMES)}
    TYPES = frozenset([int, str, Kind, functools.partial])

    def helper(x, names=frozenset(NAMES)):
        return [x for name in names if name in NAMES and TABLE[name] and TYPES]

    def f(x):
        "Doc."
        return torch.softmax(helper(x)[0], -1)

    torch.manual_seed(0)
    definitions = [Definition.of(f), Definition.of(Net()), Definition.of(lambda x: eval(x))]
    definitions.append(Definition.of(functools.partial(f, iter([]))))
    print(json.dumps([[d.digest, d.portable] for d in definitions]))
"""


def run_program(seed, folder):
    (folder / f"s{seed}").mkdir()
    script = folder / f"s{seed}" / f"program{seed}.py"
    script.write_text("\n" * seed + textwrap.dedent(PROGRAM))
    environment = dict(os.environ, PYTHONHASHSEED=str(seed))
    root = str(Path(__file__).parents[3])
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_digests_are_equal_across_processes_and_hash_seeds(tmp_path):
    import json

    processes = [run_program(seed, tmp_path) for seed in (1, 2)]
    one, two = (json.loads(process.communicate(timeout=120)[0]) for process in processes)
    assert [portable for _, portable in one] == [True, True, False, False]
    assert one[:2] == two[:2]
    assert one[2][0] != two[2][0]
    assert one[3][0] != two[3][0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_a_token_of_its_own(cell):
    f = cell("def f(x): return eval(x)")["f"]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, Definition.of(f).digest.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 32).decode() != Definition.of(f).digest
    os.close(reading)
    os.close(writing)


FUNCTIONS = ("a", "b", "c", "d")
bodies = st.sampled_from(["x + K", "x * 2", "[K for _ in x]", "(lambda y: y - J)(x)", "x"])
calls = st.lists(st.sampled_from(FUNCTIONS), max_size=2)
edits = st.one_of(
    st.tuples(st.just("def"), st.sampled_from(FUNCTIONS), bodies, calls),
    st.tuples(st.sampled_from(["K", "J"]), st.sampled_from(["1", "1.0", "True", "2", "[1]"])),
    st.tuples(st.just("del"), st.sampled_from(["K", "J", *FUNCTIONS[1:]])),
    st.tuples(st.just("append"), st.sampled_from(["K", "J"])),
)


def apply(namespace, edit):
    if edit[0] == "def":
        body = " or ".join([edit[2], *(f"{name}(x)" for name in edit[3])])
        exec(f"def {edit[1]}(x): return {body}", namespace)
    elif edit[0] == "del":
        namespace.pop(edit[1], None)
    elif edit[0] == "append":
        if isinstance(namespace.get(edit[1]), list):
            namespace[edit[1]].append(1)
    else:
        namespace[edit[0]] = eval(edit[1])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(edits, max_size=8), st.lists(edits, min_size=1, max_size=8))
def test_changed_agrees_with_the_digest_after_any_edit_of_a_program(before, after):
    namespace = {"__name__": "program", "K": 1, "J": 2}
    apply(namespace, ("def", "a", "x", ["b", "c"]))
    for edit in before:
        apply(namespace, edit)
    root = namespace["a"]
    definition = Definition.of(root)
    for edit in after:
        if edit[:2] == ("def", "a"):
            continue  # the definition keeps the old function object
        apply(namespace, edit)
        reason, now = definition.changed(), Definition.of(root)
        assert (reason is None) == (now.digest == definition.digest)
        assert now.changed() is None
