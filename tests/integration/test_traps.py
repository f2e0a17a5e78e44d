"""The traps of instrumenting torch, by number, and where each is tested.

 1 the version moves after the dispatch: test_1_a_write_is_over_when_the_next_operation_asks
 2 (1,) == (1.0,) == (True,), 0.0 == -0.0, nan: test_2_scalars_that_look_alike, and of memo
   graph/memo test_equal_calls_are_run_once
 3 what belongs to the context: instrumentation/test_context (every setting), test_3_settings_between_runs;
   graph/scope and graph/memo test_settings_and_modes_count
 4 attention with p = 0 is said to be random: test_4_attention_with_and_without_dropout
 5 random operations: test_5_random_operations_move_the_generator, graph/memo test_random_functions
 6 batch_norm writes and does not say so: test_6_batch_norm_moves_its_statistics_each_time
 7 _unsafe_view aliases and does not say so: test_7_views_that_do_not_say_so,
   instrumentation/capture test_views_that_do_not_say_so_share_their_memory
 8 arguments of unknown kinds: test_8_script_objects_pass
 9 jagged, meta, fake, sparse: graph/scope test_strange_tensors_pass, test_9_fake_and_quantised_tensors_pass
10 torch.cond: graph/scope test_compiled_and_higher_order, instrumentation/capture test_cond_arrives_as_one_operation
11 torch.compile under a mode: instrumentation/capture test_compiled_functions_run_compiled_inside_and_afterwards
12 modes are of a thread, autograd's threads inherit: instrumentation/capture
   test_each_thread_has_its_own_scope, test_autograds_own_threads_count_as_the_scopes
13 generators and tasks: instrumentation/capture test_a_suspended_generator_sees_nothing_of_others,
   integration/threads/test_instrumented
14 forked workers: graph/scope test_forked_children_run_plainly, integration/threads/test_instrumented
15 what a scope knew is looked at again by the next: test_15_writes_between_scopes_through_what_was_taken_inside
16 an operation that raises midway: test_16_a_write_that_raises_midway
17 torch.hash_tensor is a XOR: test_17_the_same_values_in_another_order, graph/memo WRITES "swapped halves"
18 one settrace at a time: instrumentation/capture test_frames (chained, refused, put back)

Wrong answers of others: of pages test_wrong_answers.py, of memo and scopes test_wrong_hits.py here.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmsb_torch.testing import alike

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("everything_counts")]


def square(seed=0):
    return torch.randn(8, 8, generator=torch.Generator().manual_seed(seed))


def three_times(mem, body, between=lambda turn: None):
    """Run a block plainly and in a scope by turns, from the same generator state."""
    hits = 0
    for turn in range(3):
        torch.manual_seed(turn % 2)
        wanted = body(), torch.get_rng_state()
        torch.manual_seed(turn % 2)
        with mem.incremental() as scope:
            found = body()
        assert alike(found, wanted[0])
        assert torch.equal(torch.get_rng_state(), wanted[1])
        hits += scope.counts["hit"]
        between(turn)
    return hits


def test_1_a_write_is_over_when_the_next_operation_asks(mem):
    start = square()

    def body():
        x = start.clone()
        before = x @ x
        x.add_(1)
        between = x @ x
        x[2:].mul_(0.5)
        return before, between, x @ x

    assert three_times(mem, body) >= 6


@pytest.mark.parametrize(
    "values",
    [(1, 1.0, True), (0.0, -0.0), (float("nan"), 0.0, float("inf")), (2, 2.0, 2 + 0j)],
    ids=str,
)
def test_2_scalars_that_look_alike(mem, values):
    x = torch.arange(16).view(4, 4)
    memo = mem.memo(lambda x, v: (x * v, [v]))

    def body():
        return [
            (x * v, x + v, torch.full_like(x, v, dtype=None) if v == v else 0) for v in values[:2]
        ]

    three_times(mem, body)
    floats = x.float()
    real = [v for v in values if not isinstance(v, complex)]
    three_times(mem, lambda: [torch.copysign(floats, torch.tensor(v)) for v in real])
    three_times(mem, lambda: [floats * v for v in values])
    for _ in range(2):
        for value in values:
            found, wanted = memo(x, value), (x * value, [value])
            assert alike(found[0], wanted[0])
            assert repr(found[1]) == repr(wanted[1])


def test_3_settings_between_runs(mem):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval()
    x = torch.randn(8, 16, 64)
    tiny = torch.full((64,), 1e-39)
    memo = mem.memo(lambda layer, x: layer(x))
    product = mem.memo(lambda x: x * 0.5)
    changes = [
        (torch.backends.mha.set_fastpath_enabled, True, False),
        (torch.set_flush_denormal, False, True),
        (torch.use_deterministic_algorithms, False, True),
        (torch.set_float32_matmul_precision, "highest", "medium"),
    ]
    with torch.no_grad():
        for change, plain, other in changes:
            try:
                for value in (plain, other, plain, other):
                    change(value)
                    assert alike(memo(layer, x), layer(x))
                    assert alike(product(tiny), tiny * 0.5)
                    with mem.incremental():
                        found = layer(x), tiny * 0.5
                    assert alike(found, (layer(x), tiny * 0.5))
            finally:
                change(plain)


def test_4_attention_with_and_without_dropout(mem):
    q = torch.randn(1, 2, 8, 16)
    attention = nn.functional.scaled_dot_product_attention
    assert three_times(mem, lambda: attention(q, q, q, dropout_p=0.0)) >= 2
    three_times(mem, lambda: attention(q, q, q, dropout_p=0.5))


def test_5_random_operations_move_the_generator(mem):
    x = square()

    def body():
        noisy = x + torch.rand_like(x)
        return noisy @ x, nn.functional.dropout(x, 0.5), torch.randperm(5), x.bernoulli(0.5)

    three_times(mem, body)


def test_6_batch_norm_moves_its_statistics_each_time(mem):
    nets = [nn.BatchNorm1d(8) for _ in range(2)]
    x = square()
    memo = mem.memo(lambda net, x: net(x))
    for _ in range(4):
        with torch.no_grad(), mem.incremental():
            found = nets[0](x)
        with torch.no_grad():
            assert alike(found, nets[1](x))
            assert alike([*nets[0].buffers()], [*nets[1].buffers()])
            assert alike(memo(nets[0], x), nets[1](x))
            assert alike([*nets[0].buffers()], [*nets[1].buffers()])


def test_7_views_that_do_not_say_so(mem):
    start = square()

    def body():
        x = start.clone()
        view = torch.ops.aten._unsafe_view(x, [64])
        reshaped = torch.ops.aten._reshape_alias(x, [4, 16], [16, 1])
        before = x @ x
        view.add_(1)
        between = x @ x
        reshaped[0].zero_()
        return before, between, x @ x, view.clone()

    three_times(mem, body)


def test_8_script_objects_pass(mem):
    engines = [e for e in torch.backends.quantized.supported_engines if e not in ("none", "onednn")]
    if not engines:
        pytest.skip("this torch has no quantised kernels")
    torch.backends.quantized.engine = engines[0]
    weight = torch.quantize_per_tensor(square(), 0.1, 0, torch.qint8)
    x = square(1)

    def body():
        packed = torch.ops.quantized.linear_prepack(weight, None)
        return torch.ops.quantized.linear_dynamic(x, packed)

    three_times(mem, body, lambda turn: x.add_(turn))


def test_9_fake_and_quantised_tensors_pass(mem):
    x = square()
    quantised = torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)

    def body():
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            shape = (mode.from_tensor(x) @ mode.from_tensor(x)).shape
        return [list(shape), quantised.dequantize() @ x, (quantised.int_repr().float() * 2)]

    three_times(mem, body, lambda turn: x.add_(turn))


def test_15_writes_between_scopes_through_what_was_taken_inside(mem):
    x = square()
    held = {}

    def body():
        y = held.get("y")
        if y is None:
            y = held["y"] = x @ x
            held["array"] = y.numpy()
            held["view"] = y[2:4]
            held["address"] = y.data_ptr()
        return y @ x, y * 2

    def between(turn):
        (held["array"].__setitem__(0, turn + 5.0), held["view"].mul_(turn))

    three_times(mem, body, between)
    del held["y"]
    held.pop("array")
    three_times(mem, body, between)


library = torch.library.Library("mmsb_tests_traps", "DEF")
library.define("half(Tensor(a!) x) -> Tensor(a!)")


def _half(x):
    x[: len(x) // 2] += 1
    raise ArithmeticError("midway")


library.impl("half", _half, "CPU")


def test_16_a_write_that_raises_midway(mem):
    start = square()

    def body():
        x = start.clone()
        before = x @ x
        with pytest.raises(ArithmeticError):
            torch.ops.mmsb_tests_traps.half(x)
        with pytest.raises(RuntimeError):
            x.add_(torch.ones(3))
        return before, x @ x

    three_times(mem, body)
    x = square()
    with mem.incremental():
        wanted = x @ x
    with pytest.raises(ArithmeticError), mem.incremental():
        torch.ops.mmsb_tests_traps.half(x)
    with mem.incremental():
        found = x @ x
    assert alike(found, x @ x)
    assert not torch.equal(found, wanted)


def test_17_the_same_values_in_another_order(mem):
    x = square()
    others = [
        x,
        x.flip(0),
        x.flip(1),
        x.t(),
        x.t().contiguous(),
        x.view(-1)[torch.randperm(64)].view(8, 8),
    ]
    memo = mem.memo(lambda x: x.cumsum(0))
    with mem.incremental():
        found = [x.cumsum(0) for x in others]
    for x, one in zip(others, found, strict=True):
        assert alike(one, x.cumsum(0))
        assert alike(memo(x), x.cumsum(0))
