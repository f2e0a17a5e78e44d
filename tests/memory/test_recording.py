"""Recording as users do it: `mem.record`, `mmsb_start(enable_instrumentation=)`, and its limits."""

import asyncio
import gc
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import mmsb_torch as mmsb

X = torch.arange(12.0).view(4, 3)


class Numbers(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if torch._C._len_torch_dispatch_stack():
            raise AssertionError("a worker is inside of a scope")
        return torch.full((3,), float(index)) * 2


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 2))


def step(model, optimizer):
    optimizer.zero_grad()
    loss = model(X).square().mean()
    loss.backward()
    optimizer.step()
    return loss.detach()


def test_a_training_loop_recorded_is_bit_for_bit_the_plain_one(mem, model, bits_of):
    def train(record):
        torch.manual_seed(7)
        twin = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 2))
        optimizer = torch.optim.AdamW(twin.parameters())
        if record:
            with mem.record() as rec:
                losses = [step(twin, optimizer) for _ in range(3)]
            assert not rec.dropped
            assert {call.phase for call in rec.calls} == {"forward", "backward", "optimizer"}
        else:
            losses = [step(twin, optimizer) for _ in range(3)]
        values = [*losses, *twin.parameters()]
        return [bits_of(value.detach()) for value in values], torch.get_rng_state().tolist()

    assert train(record=True) == train(record=False)


def test_the_graph_names_pages_and_parameters(mem, model):
    page = mem.page("x", X)
    model.eval()
    with mem.record() as rec:
        model(page.tensor)
    names = {node.name for node in rec.graph.nodes if node.kind == "input"}
    assert {"x", "Sequential.0.weight", "Sequential.3.bias"} <= names
    assert "addmm #1" in rec.graph.descendants("x")
    assert "x" in rec.graph.ancestors("addmm #1")
    text = str(rec.graph)
    assert text.splitlines()[0] == f"{len(rec.calls)} calls, 5 inputs, {len(rec.graph.edges)} edges"
    assert "forward" in text
    svg = rec.graph.svg()
    assert svg.startswith("<svg")
    assert "from outside" in svg
    assert "digraph" in rec.graph.dot()
    assert rec.graph._repr_html_()


def test_tables_add_up(mem, model):
    with mem.record() as rec:
        model(X).sum().backward()
    total = sum(call.seconds for call in rec.calls)
    for table in (rec.by_function(), rec.by_module(), rec.by_op()):
        assert sum(row.calls for row in table) == len(rec.calls)
        assert sum(row.total for row in table) == pytest.approx(total)
        assert sum(row.nbytes for row in table) == sum(call.nbytes for call in rec.calls)
        assert len(str(table).splitlines()) == len(table) + 1
    assert "Sequential: 0" in str(rec)
    assert repr(rec).startswith(f"<Recording {len(rec.calls)} calls")


def test_an_exception_ends_it_and_keeps_what_was_there(mem):
    def block():
        X + 1
        _ = 1 / 0

    rec = mem.record()
    with pytest.raises(ZeroDivisionError), rec:
        block()
    X * 2
    assert [call.op for call in rec.calls] == ["aten.add.Tensor"]
    assert not rec.recording
    with pytest.raises(mmsb.RecordingError, match="once"):
        rec.__enter__()


def test_recordings_of_two_memories_nest(mem):
    with mmsb.open() as other, mem.record() as outer:
        X + 1
        with other.record() as inner:
            X * 2
        X - 3
    names = ["aten.add.Tensor", "aten.mul.Tensor", "aten.sub.Tensor"]
    assert [call.op for call in outer.calls] == names
    assert [call.op for call in inner.calls] == ["aten.mul.Tensor"]


def test_it_decorates_functions(mem):
    @mem.record
    def twice(x):
        "Doc."
        return x * 2

    @mem.record(max_calls=1)
    def thrice(x):
        return x * 2 + x

    assert torch.equal(twice(X), X * 2)
    assert twice.__doc__ == "Doc."
    assert len(twice.recording.calls) == 1
    thrice(X)
    assert dict(thrice.recording.dropped) == {"aten.add.Tensor": 1}
    first = twice.recording
    twice(X)
    assert twice.recording is not first

    def steps():
        yield

    async def task():
        pass

    for function in (steps, task):
        with pytest.raises(mmsb.RecordingError, match="in pieces"):
            mem.record(function)


@pytest.mark.parametrize(
    "options", [{"frames": "no"}, {"max_calls": -1}, {"keep_bytes": 1.5}, {"unknown": 1}]
)
def test_options_are_checked(mem, options):
    with pytest.raises(mmsb.RecordingError, match=next(iter(options))):
        mem.record(**options)
    with pytest.raises(mmsb.RecordingError, match="a function"):
        mem.record(3)


def test_a_closed_memory_records_nothing(mem):
    with mem.record() as rec:
        X + 1
        mem.close()
        X * 2
    assert len(rec.calls) == 1
    with pytest.raises(mmsb.ClosedError):
        mem.record()


def test_reading_pages_is_not_part_of_the_record(mem):
    mem.page("x", X)
    mem.derive(lambda x: x.sin() + 1, "x", name="y")
    with mem.record() as rec:
        mem["y"].tensor + 1
    assert [call.op for call in rec.calls] == ["aten.add.Tensor"]
    assert list(rec.inputs.values()) == ["y"]


def test_a_page_that_was_read_is_changed_in_place_again(mem):
    """Nothing of the recording holds a page: a row update needs no copy."""
    page = mem.page("x", torch.zeros(100, 8))
    with mem.record() as rec:
        page.tensor.sum()
    address = page.tensor.data_ptr()
    mem.update(page, torch.ones(1, 8), rows=[1])
    assert page.tensor.data_ptr() == address
    assert rec.calls


def test_results_are_freed(mem):
    with mem.record() as rec:
        y = X * 2
        gone = weakref.ref(y)
        del y
        gc.collect()
        assert gone() is None
    assert len(rec.calls) == 1


# start and stop


def test_start_and_stop():
    state = mmsb.mmsb_start(enable_gpu=False, enable_instrumentation=True)
    X + 1
    rec = state.recording
    assert rec.recording
    mmsb.mmsb_stop(state)
    X * 2
    assert [call.op for call in rec.calls] == ["aten.add.Tensor"]
    assert torch._C._len_torch_dispatch_stack() == 0
    assert state.recording is None


def test_start_takes_a_configuration(tmp_path):
    config = mmsb.InstrumentationConfig(max_calls=1)
    state = mmsb.mmsb_start(enable_gpu=False, enable_instrumentation=config)
    state.page("a", X)
    rec = state.recording
    X + 1
    mmsb.mmsb_stop(state, checkpoint_path=tmp_path / "x.safetensors")
    assert len(rec.calls) == 1
    assert rec.dropped
    with pytest.raises(mmsb.RecordingError, match="InstrumentationConfig"):
        mmsb.mmsb_start(enable_gpu=False, enable_instrumentation="yes")


def test_stopping_on_another_thread_ends_the_record(bounded):
    state = mmsb.mmsb_start(enable_gpu=False, enable_instrumentation=True)
    rec = state.recording
    bounded(lambda: mmsb.mmsb_stop(state))
    X + 1
    assert rec.calls == ()
    with mmsb.open() as memory, memory.record():
        pass  # takes what is over off this thread's stack
    assert torch._C._len_torch_dispatch_stack() == 0


def test_leaving_on_another_thread_is_refused(mem, bounded):
    rec = mem.record().start()
    with pytest.raises(mmsb.RecordingError, match="thread"):
        bounded(rec.stop)
    X + 1
    assert rec.calls == ()
    with mem.record():
        pass
    assert torch._C._len_torch_dispatch_stack() == 0


# who is recorded


def test_threads_record_themselves_only(mem):
    found = {}
    barrier = threading.Barrier(3)

    def work(number):
        with mem.record() as rec:
            barrier.wait(20)
            for _ in range(number):
                X + number
            barrier.wait(20)
        found[number] = len(rec.calls)

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in (1, 2, 3)]
    [thread.start() for thread in threads]
    [thread.join(20) for thread in threads]
    assert found == {1: 1, 2: 2, 3: 3}


def test_tasks_record_themselves_only(mem):
    async def task(op):
        with mem.record() as rec:
            for _ in range(3):
                op(X, 2)
                await asyncio.sleep(0)
        return {call.op for call in rec.calls}, len(rec.calls), rec.passed

    async def main():
        return await asyncio.gather(task(torch.add), task(torch.mul))

    first, second = asyncio.run(main())
    assert first[:2] == ({"aten.add.Tensor"}, 3)
    assert second[:2] == ({"aten.mul.Tensor"}, 3)


def test_a_generator_that_sleeps_records_nothing_and_says_so(mem):
    recs = []

    def steps():
        with mem.record() as rec:
            recs.append(rec)
            X + 1
            yield
            X * 2
            yield

    generator = steps()
    next(generator)
    X - 1
    next(generator)
    generator.close()
    assert [call.op for call in recs[0].calls] == ["aten.add.Tensor", "aten.mul.Tensor"]
    assert "1 passed while suspended" in repr(recs[0])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_of_a_data_loader_record_nothing(mem):
    with mem.record() as rec:
        batches = [
            batch + 1
            for batch in DataLoader(
                Numbers(), batch_size=4, num_workers=1, multiprocessing_context="fork"
            )
        ]
    assert torch.equal(torch.cat(batches)[:, 0], torch.arange(8.0) * 2 + 1)
    assert sum(call.op == "aten.add.Tensor" for call in rec.calls) == 2
