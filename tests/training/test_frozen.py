"""cache_frozen: what comes back has the bits of a run, whatever rows share its batch."""

import copy
import dataclasses
import logging
import pickle

import pytest
import torch
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

pytestmark = pytest.mark.usefixtures("frozen_rows_pay")

LOG = logging.getLogger(
    "modules of the tests of frozen ones"
)  # a digest knows it by its name alone


def backbone(seed=0):
    torch.manual_seed(seed)
    made = nn.Sequential(
        nn.Linear(12, 32), nn.ReLU(inplace=True), nn.LayerNorm(32), nn.Linear(32, 24)
    )
    return made.eval().requires_grad_(False)


def data(rows=40, seed=1):
    return torch.randn(rows, 12, generator=torch.Generator().manual_seed(seed))


def warm(frozen, *batches):
    """Let rows be known, and shown to be the same in other batches."""
    for _ in range(3):
        for batch in batches:
            frozen(batch)


def hit(frozen, *args, **kwargs):
    before = frozen.stats()["hits"]
    value = frozen(*args, **kwargs)
    assert frozen.stats()["hits"] == before + 1, frozen.why()
    return value


def test_rows_in_other_batches_are_read_with_the_same_bits(mem):
    module, x = backbone(), data()
    frozen = mmsb.cache_frozen(mem, module)
    warm(frozen, x[:16].clone(), x[16:32].clone())
    order = torch.randperm(32, generator=torch.Generator().manual_seed(2))[:16]
    assert same_bits(hit(frozen, x[order]), module(x[order]))
    assert "all 16 rows" in frozen.why()
    assert frozen.stats()["rows_read"] >= 16


def test_new_rows_run_the_whole_batch_and_are_known_afterwards(mem):
    module, x = backbone(), data()
    frozen = mmsb.cache_frozen(mem, module)
    warm(frozen, x[:16].clone())
    assert same_bits(frozen(x[8:24].clone()), module(x[8:24].clone()))
    assert same_bits(hit(frozen, x[:24][-16:].clone()), module(x[8:24].clone()))


def test_a_few_new_rows_are_computed_apart(mem, caplog):
    caplog.set_level(logging.INFO)
    module, x = Noted(), data()
    frozen = mmsb.cache_frozen(mem, module.eval())
    warm(frozen, x[:32].clone())
    mixed = torch.cat([x[:30], x[32:34]])
    assert same_bits(frozen(mixed), module.inner(mixed))
    caplog.clear()
    other = torch.cat([x[:30], x[34:36]])
    assert same_bits(hit(frozen, other), module.inner(other))
    assert max(map(int, caplog.messages)) <= 16  # two would do, if their bits were the same
    assert "30 of 32 rows" in frozen.why()


class Noted(nn.Module):
    """Tells how many rows it is given."""

    def __init__(self):
        super().__init__()
        self.inner = backbone()

    def forward(self, x):
        LOG.info(len(x))
        return self.inner(x)


def test_the_last_batch_may_be_smaller(mem):
    module, x = backbone(), data()
    frozen = mmsb.cache_frozen(mem, module)
    warm(frozen, x[:16].clone(), x[16:32].clone(), x[32:].clone())
    shuffled = x[torch.randperm(40, generator=torch.Generator().manual_seed(3))]
    for batch in shuffled.split(16):
        assert same_bits(hit(frozen, batch.clone()), module(batch.clone()))


def test_rows_that_occur_twice_are_computed_once(mem):
    module, x = backbone(), data()
    frozen = mmsb.cache_frozen(mem, module)
    twice = torch.cat([x[:12], x[:4]])
    warm(frozen, twice)
    assert frozen.stats()["rows"] == 12
    assert same_bits(hit(frozen, twice), module(twice))


def test_what_comes_back_is_new_memory(mem):
    module, x = backbone(), data(16)
    frozen = mmsb.cache_frozen(mem, module)
    warm(frozen, x)
    first = hit(frozen, x)
    first.zero_()
    second = hit(frozen, x)
    assert same_bits(second, module(x))
    assert second.is_leaf
    assert not second.requires_grad
    x.zero_()
    assert same_bits(hit(frozen, data(16)), second)


def test_arguments_and_masks_of_other_dtypes_and_sizes_are_other_rows(mem):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 16)
            self.out = nn.Linear(16, 16)

        def forward(self, ids, mask=None, *, scale=1.0):
            h = self.embed(ids) * scale
            if mask is not None:
                h = h.masked_fill(~mask.bool()[..., None], 0)
            return self.out(h.sum(1))

    module = Masked().eval().requires_grad_(False)
    frozen = mmsb.cache_frozen(mem, module)
    ids = torch.randint(0, 50, (16, 6))
    masks = [None, ids > 10, ids > 20, (ids > 10).float(), (ids > 10).long()]
    for _ in range(3):
        for mask in masks:
            for scale in (1.0, 2.0):
                asked = ids, mask
                assert same_bits(frozen(*asked, scale=scale), module(*asked, scale=scale))
        assert same_bits(frozen(ids.int()), module(ids.int()))
        assert same_bits(frozen(ids[:, :5]), module(ids[:, :5]))
        assert same_bits(frozen(mask=masks[1], ids=ids), module(ids, masks[1]))
    assert frozen.stats()["hits"] >= 10


@dataclasses.dataclass
class Output:
    hidden: torch.Tensor
    pooled: torch.Tensor | None = None
    name: str = "x"


@pytest.mark.parametrize(
    "shape",
    [
        lambda h: (h, h.sum(1)),
        lambda h: [h.clone(), {"a": h.sum(1), "b": None, 3: 0.5}],
        lambda h: Output(h, h.sum(1)),
        lambda h: torch.return_types.topk((h.clone(), h.argsort(-1))),
        lambda h: {"same": (h, h)},
        lambda h: h.t().contiguous().t(),
        lambda h: torch.stack([h, h + 1], 1)[:, 1],
    ],
    ids=[
        "tuple",
        "nested",
        "dataclass",
        "return type",
        "twice",
        "strided",
        "a view with an offset",
    ],
)
def test_results_keep_their_form(mem, shape):
    class Shaped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = backbone()

        def forward(self, x):
            return shape(self.inner(x))

    module, x = Shaped().eval(), data()
    frozen = mmsb.cache_frozen(mem, module)
    warm(frozen, x[:16].clone(), x[16:32].clone())
    mixed = x[4:20].clone()
    ours, theirs = frozen(mixed), module(mixed)
    assert type(ours) is type(theirs)
    for a, b in zip(leaves(ours), leaves(theirs), strict=True):
        if isinstance(b, torch.Tensor):
            assert same_bits(a, b)
            assert (a.stride(), a.storage_offset()) == (b.stride(), b.storage_offset())
        else:
            assert a == b


def leaves(value):
    if dataclasses.is_dataclass(value):
        value = vars(value)
    return torch.utils._pytree.tree_leaves(value)


def test_the_module_looks_like_the_one_it_stands_for(mem):
    model = nn.Sequential(backbone(), nn.Linear(24, 3))
    names = list(model.state_dict())
    state = copy.deepcopy(model.state_dict())
    inner = model[0]
    inner.config = "an attribute"
    model[0] = mmsb.cache_frozen(mem, inner)
    assert list(model.state_dict()) == names
    assert [name for name, _ in model.named_parameters()] == names
    assert model[0].config == "an attribute"
    assert model.get_submodule("0.3") is inner[3]
    x = data(16)
    for _ in range(3):
        model(x)
    hit(model[0], x)
    model.load_state_dict({name: value + 1 for name, value in state.items()})
    assert same_bits(model[0](x), inner(x))
    model.double()
    assert same_bits(model[0](x.double()), inner(x.double()))
    assert model.train()[0].training
    assert inner.training
    again = copy.deepcopy(model)
    assert type(again[0]) is type(model[0])
    assert same_bits(again[0](x.double()), inner(x.double()))
    assert type(pickle.loads(pickle.dumps(model))[0]) is nn.Sequential
    assert "rows read" in repr(model)


def test_keep_eval_holds_the_module_in_eval_mode(mem):
    module = nn.Sequential(nn.Linear(12, 16), nn.Dropout()).requires_grad_(False)
    frozen = mmsb.cache_frozen(mem, module, keep_eval=True)
    model = nn.ModuleList([frozen]).train()
    assert model.training
    assert not frozen.training
    assert not module[1].training
    warm(frozen, data(16))
    hit(frozen, data(16))


def test_verified_hits_are_run_again(mem):
    module, x = backbone(), data(16)
    frozen = mmsb.cache_frozen(mem, module, verify=1.0)
    warm(frozen, x)
    hit(frozen, x)
    assert mem.stats()["audit"]["checked"] >= 1
    for row in frozen._answers.known._shelf._items.values():
        row.result.tensors["0"].add_(1)
    with pytest.raises(mmsb.WrongHitError, match="other bits"):
        frozen(x)


def test_rows_in_memory_stay_within_the_budget(mem):
    frozen = mmsb.cache_frozen(mem, backbone(), budget="8 kB")
    for seed in range(6):
        warm(frozen, data(16, seed))
    assert 0 < frozen.stats()["bytes"] <= 8000


def test_what_is_no_module_is_refused(mem):
    with pytest.raises(mmsb.InvalidMemoError, match=r"nn\.Module"):
        mmsb.cache_frozen(mem, lambda x: x)
    with pytest.raises(mmsb.InvalidMemoError, match="not cached yet"):
        mmsb.cache_frozen(mem, mmsb.cache_frozen(mem, backbone()))
    with pytest.raises(mmsb.UnsupportedError):
        mmsb.cache_frozen(mem, backbone(), budget="lots")
    frozen = mmsb.cache_frozen(mem, backbone())
    mem.close()
    with pytest.raises(mmsb.ClosedError):
        frozen(data())


def test_a_tracked_model_may_have_a_frozen_part(tmp_path):
    def loop(steps, path=None, stop=None):
        torch.manual_seed(0)
        model = nn.Sequential(backbone(), nn.Linear(24, 3))
        optimizer = torch.optim.AdamW(model[1].parameters(), 1e-2)
        x, run, begun, losses = data(), None, 0, []
        if path is not None:
            mem = mmsb.open(path)
            model[0] = mmsb.cache_frozen(mem, model[0])
            run = mmsb.track(mem, model=model, optimizer=optimizer)
            begun = run.resume()
        for step in range(begun, stop or steps):
            at = torch.randperm(40, generator=torch.Generator().manual_seed(step))[:16]
            loss = model(x[at]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if run is not None:
                run.commit(step=step + 1, loss=loss)
        if run is not None:
            assert model[0].stats()["hits"] > 0
            mem.close()
        return losses

    plain = loop(24)
    assert loop(24, tmp_path / "run.mmsb", stop=14) + loop(24, tmp_path / "run.mmsb") == plain
