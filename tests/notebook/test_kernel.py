"""In a real kernel: what is shown, threads of the kernel's own, interrupts, progress."""

import functools
import os
import signal
import threading
import time

import nbformat
import pytest

pytestmark = [
    pytest.mark.timeout(180),
    # what the kernel's own client leaves open or deprecates is not ours
    pytest.mark.filterwarnings(
        "ignore:::zmq", "ignore:::jupyter_client", "ignore::ResourceWarning"
    ),
]
SETUP = """
%load_ext mmsb_torch
import time, torch
from mmsb_torch.graph.scope import operations
operations.is_worth_keeping = lambda *_: True  # however quick this machine is
torch.set_num_threads(1)
x = torch.randn(300, 300)
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    from nbclient import NotebookClient

    client = NotebookClient(
        nbformat.v4.new_notebook(),
        timeout=60,
        allow_errors=True,
        kernel_name="python3",
        resources={"metadata": {"path": tmp_path_factory.mktemp("kernel")}},
    )
    with client.setup_kernel():
        assert execute(client, SETUP) == []
        yield client


def execute(client, source):
    cell = nbformat.v4.new_code_cell(source)
    client.nb.cells.append(cell)
    client.execute_cell(cell, len(client.nb.cells) - 1)
    return cell.outputs


@pytest.fixture
def run(kernel):
    return functools.partial(execute, kernel)


def html(outputs):
    return "".join(str(o.get("data", {}).get("text/html", "")) for o in outputs)


def text(outputs):
    return "".join(
        str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", "")) for o in outputs
    )


def test_a_kernel_is_alone_with_its_tensors(run):
    assert "True" in text(
        run("from mmsb_torch.instrumentation.identity import barrier\nbarrier.is_alone()")
    )


def test_results_and_the_line_below(run):
    outputs = run("%%mmsb\ny = torch.tanh(x.T @ x)\ny.shape")
    assert [output.output_type for output in outputs] == ["execute_result", "display_data"]
    assert "torch.Size([300, 300])" in text(outputs[:1])
    assert "ran " in html(outputs)
    again = run("%%mmsb\ny = torch.tanh(x.T @ x)\ny.shape")
    assert "nothing to run" in html(again)
    assert "reused 2 calls" in text(again)


def test_redefinition_and_await(run):
    run("def f(v):\n    return torch.tanh(v @ v) * 0.5")
    run("%%mmsb\nimport asyncio\nawait asyncio.sleep(0)\nz = f(x)")
    run("def f(v):\n    return torch.tanh(v @ v) * 0.75")
    shown = html(run("%%mmsb\nimport asyncio\nawait asyncio.sleep(0)\nz = f(x)"))
    assert "f() was redefined: 0.5 became 0.75" in shown
    assert "reused 2 calls" in shown


def test_an_error_ends_the_cell_and_its_place_is_shown(run):
    outputs = run("%%mmsb\nq = x @ x.T\nraise RuntimeError('half-way')")
    error = next(output for output in outputs if output.output_type == "error")
    assert "line 3" in "".join(error.traceback)
    assert "mmsb_torch/notebook" not in "".join(error.traceback)
    assert "stopped by RuntimeError" in html(outputs)
    assert "nothing to run" in html(run("%%mmsb\nq = x @ x.T"))


def interrupted(kernel, run, source, after):
    """Run a cell, and interrupt the kernel after so many seconds."""
    process = kernel.km.provisioner.pid
    timer = threading.Timer(after, os.kill, (process, signal.SIGINT))
    timer.start()
    try:
        return run(source)
    finally:
        timer.join()


@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(20)",
        "for _ in range(100_000): b = torch.tanh(a @ a)",
        "import asyncio\nfor _ in range(200): await asyncio.sleep(0.05)",
    ],
)
def test_an_interrupt_leaves_all_right(kernel, run, work):
    run(
        "import mmsb_torch as mmsb\nmem = mmsb.open()\np = mem.page('p', x)\nq = mem.derive(lambda p: p @ p, name='q')"
    )
    outputs = interrupted(kernel, run, f"%%mmsb\na = x @ x + 1\n{work}\nnever = 1", 1.0)
    shown = html(outputs)
    assert "stopped by KeyboardInterrupt" in shown or "stopped by CancelledError" in shown
    outputs = run(
        "%%mmsb\na = x @ x + 1\nassert a.equal(x @ x + 1)\n'never' in globals(), torch._C._len_torch_dispatch_stack()"
    )
    assert "(False, 1)" in text(outputs)
    assert "reused" in html(outputs)
    assert "torch.Size" in text(
        run(
            "mem.update('p', torch.ones(1, 300), rows=[3]); assert q.tensor.equal(p.tensor @ p.tensor); q.tensor.shape"
        )
    )
    assert "checked" in text(run("print('checked', mem.audit()); mem.close(); del mem, p, q"))


def test_a_long_cell_tells_how_far_it_is(run):
    source = "%%mmsb\nfor i in range(8):\n    time.sleep(0.2)\n    s = torch.tanh(x + i)"
    started = time.monotonic()
    outputs = run(source)
    assert time.monotonic() - started < 30
    assert len([output for output in outputs if output.output_type == "display_data"]) == 1
    assert "16 calls" in html(outputs)


def test_a_progress_line(run):
    outputs = run(
        "from mmsb_torch.notebook.live import progress\nfor i in progress(range(6), 'reading'):\n    time.sleep(0.3)"
    )
    assert "reading" in html(outputs)
    assert "done" in html(outputs)
    assert run("for i in progress(range(6), 'reading'):\n    pass") == []
