"""Laws of cache_frozen under edits of weights, modes and rows: every answer is the module's own."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

pytestmark = pytest.mark.usefixtures("frozen_rows_pay")

ROWS, WORDS, LENGTH = 24, 40, 5


class Encoder(nn.Module):
    """Words, a mask that decides about the way, a norm with statistics, attention of a sort."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(WORDS, 16)
        self.query = nn.Linear(16, 16)
        self.norm = nn.BatchNorm1d(16)
        self.out = nn.Linear(16, 16)
        self.drop = nn.Dropout(0.5)
        self.eval().requires_grad_(False)

    def forward(self, ids, mask):
        h = self.embed(ids)
        bias = None if mask.all() else torch.zeros(1).masked_fill(mask == 0, -1e9)[:, None]
        scores = self.query(h) @ h.mT
        h = torch.softmax(scores if bias is None else scores + bias.to(h.dtype), -1) @ h
        return {"hidden": self.drop(self.out(h)), "pooled": self.norm(h.mean(1))}


def rows():
    chance = torch.Generator().manual_seed(1)
    ids = torch.randint(0, WORDS, (ROWS, LENGTH), generator=chance)
    mask = (torch.rand(ROWS, LENGTH, generator=chance) > 0.3).long()
    mask[: ROWS // 2] = 1
    ids[5] = ids[4]
    return ids, mask


def in_place(module, number):
    with torch.no_grad():
        module.out.weight[number % 16, 3] += 0.5


def by_data(module, number):
    module.query.weight.data[0, number % 16] *= 1.5


def by_numpy(module, number):
    module.out.bias.numpy()[number % 16] += 1


def replaced(module, number):
    module.out.weight = nn.Parameter(module.out.weight.detach() * (1 + number), requires_grad=False)


def loaded(module, number):
    state = {name: value.clone() for name, value in module.state_dict().items()}
    state["embed.weight"][number % WORDS] += 1
    module.load_state_dict(state)


def statistics(module, number):
    module.norm.running_mean[number % 16] += 1


def other_data(module, number):
    module.query.bias.data = module.query.bias + number


def no_change(module, number):
    with torch.no_grad():
        module.out.weight.copy_(module.out.weight.clone())


def a_flag(module, number):
    module.norm.eps = 1e-5 * (1 + number % 3)


def training(module, number):
    module.train(number % 2 == 0)


def other_dtype(module, number):
    module.to((torch.float32, torch.float64, torch.bfloat16)[number % 3])


EDITS = (in_place, by_data, by_numpy, replaced, loaded, statistics, other_data, no_change, a_flag,
         training, other_dtype)  # fmt: skip
MODES = (
    torch.enable_grad,
    torch.no_grad,
    torch.inference_mode,
    lambda: torch.autocast("cpu", dtype=torch.bfloat16),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.lists(st.integers(0, ROWS - 1), min_size=2, max_size=9),
                  st.sampled_from(MODES)),
        st.tuples(st.just("epoch"), st.sampled_from((8, 12)), st.integers(0, 99)),
        st.tuples(st.just("edit"), st.sampled_from(EDITS), st.integers(0, 50)),
    ),
    max_size=8,
)  # fmt: skip


def asked(frozen, module, ids, mask):
    """Ask both, with one state of the generator and of the statistics; the answer must be the same."""
    torch.manual_seed(7)
    before = {name: value.clone() for name, value in module.named_buffers()}
    ours = frozen(ids, mask=mask)
    drawn, effects = torch.get_rng_state(), [value.clone() for value in module.buffers()]
    for name, value in module.named_buffers():
        if not same_bits(value, before[name]):
            value.copy_(before[name])
    torch.manual_seed(7)
    theirs = module(ids, mask=mask)
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(map(same_bits, effects, module.buffers()))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert same_bits(ours[name], value), (name, frozen.why())
        assert ours[name].stride() == value.stride()
        assert (ours[name].requires_grad, ours[name].is_inference()) == (
            value.requires_grad, value.is_inference())  # fmt: skip
        if "read:" in frozen.why():
            ours[name].zero_()  # nobody else may notice


def epoch(frozen, module, size, seed):
    ids, mask = rows()
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))
    for at in order.split(size):
        asked(frozen, module, ids[at], mask[at])


@settings(max_examples=25)
@given(STEPS)
def test_every_answer_is_the_modules_own(steps):
    module = Encoder()
    ids, mask = rows()
    with mmsb.open() as mem:
        frozen = mmsb.cache_frozen(mem, module)
        epoch(frozen, module, 8, 0)
        for step, what, how in steps:
            if step == "edit":
                what(module, how)
            elif step == "epoch":
                epoch(frozen, module, what, how)
            else:
                at = torch.tensor(what)
                with how():
                    asked(frozen, module, ids[at], mask[at])


def test_the_model_is_worth_asking():
    """Hits do come about in it, also after edits."""
    module = Encoder()
    with mmsb.open() as mem:
        frozen = mmsb.cache_frozen(mem, module)
        for edit in (no_change, in_place, by_data, by_numpy, replaced, loaded, statistics):
            edit(module, 3)
            before = frozen.stats()["hits"]
            for seed in range(4):
                epoch(frozen, module, 8, seed)
            assert frozen.stats()["hits"] > before + 3, (edit, frozen.why())


@pytest.mark.parametrize("edit", [e for e in EDITS if e not in (no_change, training)])
def test_an_edit_makes_all_rows_stale_and_taking_it_back_makes_them_known(edit):
    module = Encoder()
    kept = copy.deepcopy(module.state_dict())
    with mmsb.open() as mem:
        frozen = mmsb.cache_frozen(mem, module)
        for seed in range(4):
            epoch(frozen, module, 8, seed)
        edit(module, 1)
        ids, mask = rows()
        asked(frozen, module, ids[:8], mask[:8])
        assert frozen.stats()["changes"] == 1
        assert "executed" in frozen.why()
        if edit in (a_flag, other_dtype):
            return
        module.load_state_dict(kept)
        computed = frozen.stats()["rows_computed"]
        epoch(frozen, module, 8, 9)
        assert frozen.stats()["rows_computed"] == computed


def test_settings_count():
    module = Encoder()
    with mmsb.open() as mem:
        frozen = mmsb.cache_frozen(mem, module)
        for seed in range(3):
            epoch(frozen, module, 8, seed)
        before = frozen.stats()["rows_computed"]
        torch.use_deterministic_algorithms(mode=True)
        try:
            epoch(frozen, module, 8, 1)
        finally:
            torch.use_deterministic_algorithms(mode=False)
        assert frozen.stats()["rows_computed"] > before


def test_two_processes_share_rows(tmp_path):
    """As two memories of one store: another process reads, and adds."""
    with mmsb.open(tmp_path / "run.mmsb") as mem:
        module = Encoder()
        frozen = mmsb.cache_frozen(mem, module)
        epoch(frozen, module, 8, 0)
        assert frozen.stats()["rows_computed"] > 0
        with mmsb.open(tmp_path / "run.mmsb", mode="memo") as other:
            again = mmsb.cache_frozen(other, module)
            for seed in range(3):
                epoch(again, module, 8, seed)
            assert again.stats()["rows_computed"] <= 8
            assert again.stats()["hits"] > 3
    for path in itertools.islice((tmp_path / "run.mmsb" / "objects").rglob("*.safetensors"), 5):
        path.write_bytes(path.read_bytes()[:-1])
    with mmsb.open(tmp_path / "run.mmsb", mode="r") as reader:
        frozen = mmsb.cache_frozen(reader, module)
        for seed in range(3):
            epoch(frozen, module, 8, seed)
        assert frozen.stats()["hits"] > 0
