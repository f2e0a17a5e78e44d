"""Steps of real functions: what is kept, what is computed, and that it is what a full run gives."""

import os

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import nn

from mmsb_torch.errors import PlanError
from mmsb_torch.graph.rows import MIXED, plan, register_row_rule

from .editing import LIMIT, Edited, boxes, filler
from .models import Decoder, Rotary

EDITS = 200 if os.environ.get("MMSB_SOAK") else 12


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    return Edited(Decoder().eval(), [torch.randint(0, 5, (20,))])


def test_a_decoder_keeps_keys_and_values(decoder):
    decoder.again()
    kept = decoder.kept
    keys_and_values = 2 * 2 * 20 * 16 * 4  # two layers of them
    first_layer = 3 * 20 * 16 * 4  # its queries, its inputs, and the places
    assert keys_and_values <= kept.nbytes <= keys_and_values + first_layer


def test_editing_a_token_computes_what_follows(decoder):
    decoder.again()
    _, box = decoder.edit([(range(12, 13),)], filler(0))
    assert box == (range(12, 20), None)
    assert not decoder.kept.exact
    _, box = decoder.edit([(np.array([5, 9]),)], filler(1))
    assert box == (range(5, 20), None)


def test_appending_computes_what_is_new(decoder):
    decoder.again()
    for count in (1, 1, 3, 1):
        before = decoder.values[0].shape[0]
        part, box = decoder.edit([None], filler(count), count)
        assert box == (range(before, before + count), None)
        assert part.shape[0] == count
    assert decoder.edit([(range(26),)], filler(3))[1][0] is None


def test_appending_and_editing_at_once(decoder):
    decoder.again()
    _, box = decoder.edit([(range(7, 8),)], filler(0), 2)
    assert box[0] == range(7, 22)


def test_nothing_changed(decoder):
    decoder.again()
    assert decoder.edit([None], filler(0)) is None
    assert decoder.edit([(range(3, 3),)], filler(0)) is None


def test_estimates_follow_the_share(decoder):
    decoder.again()
    values = decoder.values
    shares = [decoder.kept.prepare(values, [(range(at, 20),)]).share for at in (0, 5, 10, 19)]
    assert shares[0] == pytest.approx(1, abs=0.05)
    assert shares == sorted(shares, reverse=True)
    assert shares[2] == pytest.approx(0.5, abs=0.1)
    assert decoder.kept.prepare(values, [None]).share == 0


@settings(max_examples=EDITS, database=None)
@given(st.data())
def test_any_edits_of_a_decoder(decoder, data):
    decoder.again()
    for _ in range(data.draw(st.integers(1, 5))):
        box = data.draw(st.one_of(st.none(), boxes(tuple(decoder.values[0].shape))))
        grown = data.draw(st.sampled_from([0, 0, 1, 2]))
        decoder.edit([box], filler(data.draw(st.integers(0, 99))), grown)


def test_batches_of_sequences_keep_nothing_for_whole_rows():
    torch.manual_seed(0)
    model = Edited(Decoder().eval(), [torch.randint(0, 5, (18, 9))])
    assert model.plan.follows == {0}
    assert model.kept.nbytes == 0
    _, box = model.edit([(range(2, 4), None)], filler(0))
    assert box == (range(2, 4), None, None)
    _, box = model.edit([(range(2, 4), range(5, 6))], filler(0))
    assert box == (range(2, 4), range(5, 9), None)
    model.edit([None], filler(0), 2)


def test_rotary_places():
    torch.manual_seed(0)
    model = Edited(Rotary().eval(), [torch.randn(12, 16)])
    _, box = model.edit([(range(5, 6), None)], filler(0))
    assert box[0] == range(5, 12)
    for _ in range(3):
        _, box = model.edit([None], filler(1), 1)
        assert len(box[0]) == 1


def test_rows_of_a_deep_network_are_exact():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.LayerNorm(128), nn.Linear(128, 64)).eval()
    model = Edited(net, [torch.randn(50, 64)])
    assert model.plan.exact
    for rows in (range(3, 4), np.array([1, 7, 40]), range(10, 45), None):
        model.edit([(rows, None)], filler(0))
        assert model.kept.exact
    model.edit([None], filler(0), 3)


def test_a_weight_changes():
    model = Edited(lambda x, w: F.relu(x @ w), [torch.randn(30, 4), torch.randn(4, 6)], [0, 1])
    _, box = model.edit([None, (None, range(2, 3))], filler(0))
    assert box == (None, range(2, 3))
    model.edit([(range(3, 4), None), (range(2), None)], filler(0))


def test_sums_over_rows_keep_what_they_sum():
    model = Edited(lambda x: x + F.relu(x @ torch.eye(4)).mean(0), [torch.randn(30, 4)])
    assert model.kept.nbytes > 0
    for at in (3, 20):
        model.edit([(range(at, at + 1), None)], filler(at))


def test_fixed_values_that_change_with_the_size():
    model = Edited(
        lambda x: x * (torch.arange(x.shape[0]) - x.shape[0])[:, None], [torch.randn(9, 4)]
    )
    model.edit([(range(2, 3), None)], filler(0))
    _, box = model.edit([None], filler(0), 1)
    assert box[0] is None
    model = Edited(lambda x: x[-3:] + x[:3] * x.shape[0], [torch.randn(9, 4)])
    model.edit([None], filler(0), 1)
    model.edit([(range(2, 3), None)], filler(0))


def test_anchors_are_limited():
    model = Decoder().eval()
    ids = torch.zeros(20, dtype=torch.int64)
    found = plan(model, [ids], model(ids).detach(), [0])
    with pytest.raises(PlanError, match="bytes, and 100 are allowed"):
        found.start([ids], 100)


def test_values_that_do_not_fit(decoder):
    decoder.again()
    ids = decoder.values[0]
    with pytest.raises(PlanError, match="start again"):
        decoder.kept.step([ids[:10]], [None])
    with pytest.raises(PlanError, match="another kind"):
        decoder.kept.step([ids.float()], [None])
    decoder.edit([(range(3, 4),)], filler(0))


def test_a_step_that_fails_ends_it(decoder):
    decoder.again()
    bad = decoder.values[0].clone()
    bad[3] = 1000  # no such token
    with pytest.raises((IndexError, RuntimeError)):
        decoder.kept.step([bad], [(range(3, 4),)])
    with pytest.raises(PlanError, match="midway"):
        decoder.kept.step(decoder.values, [(range(3, 4),)])


def test_results_are_nobody_elses():
    def function(x):
        return x.cumsum(1).transpose(0, 1)

    x = torch.randn(5, 4)
    kept = plan(lambda x: function(x).sum(1) + 0 * x.sum(), [x], function(x).sum(1), [0]).start(
        [x], LIMIT
    )
    part, _ = kept.step([x + 1], [(range(2, 3), None)])
    part.fill_(7)
    again, _ = kept.step([x + 1], [(range(2, 3), None)])
    assert not torch.equal(again, part)


def test_a_rule_of_ones_own():
    library = torch.library.Library("mmsb_test_rows", "DEF")
    library.define("swap(Tensor x) -> Tensor")
    library.impl("swap", lambda x: x.flip(1) + 1, "CompositeExplicitAutograd")
    torch.library.register_fake("mmsb_test_rows::swap", torch.empty_like, lib=library)
    op, x = torch.ops.mmsb_test_rows.swap.default, torch.randn(6, 4)
    assert "no rule" in plan(op, [x], op(x), [0]).why_not
    register_row_rule(op, lambda at: {"x": (0, MIXED)})
    model = Edited(op, [x])
    assert model.plan.follows == {0}
    assert model.edit([(range(2, 3), range(1, 2))], filler(0))[1] == (range(2, 3), None)
