"""The rules of the house, held by a test."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mmsb_torch

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for folder in ("mmsb_torch", "triton_kernels", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
PACKAGE = [p for p in SOURCES if p.is_relative_to(ROOT / "mmsb_torch")]
LONGEST_FILE = 400
LONGEST_FUNCTION = 80
STILL_TO_SPLIT = {  # by topic, as their neighbours are
    "tests/graph/memo/test_memo.py",
    "tests/graph/scope/test_incremental.py",
    "tests/integration/test_wrong_answers.py",
    "tests/reliability/test_fuzzing.py",
}


def relative(path):
    return str(path.relative_to(ROOT))


def test_sources_were_found():
    assert len(PACKAGE) > 40


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_file_is_longer_than_a_reader_can_hold(path):
    lines = path.read_text().count("\n")
    limit = 700 if relative(path) in STILL_TO_SPLIT else LONGEST_FILE
    assert lines <= limit, f"{relative(path)} has {lines} lines"


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_no_function_needs_scrolling(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno
            assert length <= LONGEST_FUNCTION, f"{relative(path)}:{node.lineno} {node.name}"


def test_triton_kernels_is_a_project_folder_and_no_package():
    assert not (ROOT / "triton_kernels" / "__init__.py").exists()
    assert (ROOT / "triton_kernels" / "mmsb_kernels" / "__init__.py").exists()


def test_every_folder_of_the_package_is_a_package():
    for folder in {path.parent for path in PACKAGE}:
        assert (folder / "__init__.py").exists(), relative(folder)


def test_import_loads_neither_triton_nor_any_integration():
    heavy = ["triton", "IPython", "transformers", "rich", "matplotlib", "hypothesis", "pytest"]
    code = f"""
import sys, torch
before = set(sys.modules)
import mmsb_torch
loaded = {{name.split('.')[0] for name in set(sys.modules) - before}}
print(sorted(loaded & set({heavy!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_has_one_home_and_a_docstring():
    for name in mmsb_torch.__all__:
        thing = getattr(mmsb_torch, name)
        assert inspect.getdoc(thing), name
        home = sys.modules[thing.__module__]
        assert home.__name__.startswith("mmsb_torch."), name
        assert getattr(home, name) is thing, name
    assert sorted(mmsb_torch.__all__, key=str) == sorted(set(mmsb_torch.__all__), key=str)


def test_every_error_is_public():
    from mmsb_torch import errors

    for name, thing in vars(errors).items():
        if inspect.isclass(thing) and issubclass(thing, mmsb_torch.MMSBError):
            assert name in mmsb_torch.__all__, name


def test_every_module_imports_and_says_what_it_is():
    for module in pkgutil.walk_packages(mmsb_torch.__path__, "mmsb_torch."):
        if module.name.endswith("__main__"):
            continue
        assert inspect.getdoc(importlib.import_module(module.name)), module.name


def test_nothing_runs_code_from_a_store():
    for path in [*PACKAGE, *(ROOT / "triton_kernels").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                module = getattr(node, "module", None) or ""
                assert not {"pickle", "cloudpickle", "dill", "marshal"} & {module, *names}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, path


def test_no_unfinished_work_is_left_in_the_sources():
    for path in PACKAGE:
        text = path.read_text()
        for mark in ("TO" + "DO", "FIX" + "ME", "XX" + "X"):
            assert mark not in text, relative(path)
