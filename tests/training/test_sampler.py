"""The sampler that knows its place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader

import mmsb_torch as mmsb


def stream(sampler, count):
    """The next indices, epoch after epoch."""
    found = []
    while len(found) < count:
        for index in sampler:
            found.append(index)
            if len(found) == count:
                break
    return found


@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 20), st.booleans(), st.integers(0, 99))
def test_it_goes_on_where_it_was(length, before, after, shuffle, seed):
    whole = stream(mmsb.ResumableSampler(length, shuffle=shuffle, seed=seed), before + after)
    first = mmsb.ResumableSampler(range(length), shuffle=shuffle, seed=seed)
    assert stream(first, before) == whole[:before]
    second = mmsb.ResumableSampler(length)
    second.load_state_dict(first.state_dict())
    assert stream(second, after) == whole[before:]
    assert second.state_dict().keys() == first.state_dict().keys()


@given(st.integers(1, 9), st.integers(0, 9))
def test_an_epoch_is_each_index_once_in_an_order_of_its_own(length, seed):
    before = torch.get_rng_state()
    sampler = mmsb.ResumableSampler(length, seed=seed)
    epochs = [tuple(sampler) for _ in range(20)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    assert (sampler.epoch, sampler.position, len(sampler)) == (20, 0, length)
    assert len(set(epochs)) > 1 or length < 4
    assert torch.equal(before, torch.get_rng_state())


def test_batches_that_are_cut_are_gone_on_from():
    sampler = mmsb.ResumableSampler(10, shuffle=False)
    batches = BatchSampler(sampler, 4, drop_last=False)
    assert next(iter(batches)) == [0, 1, 2, 3]
    assert list(batches) == [[4, 5, 6, 7], [8, 9]]


def test_other_data_are_refused():
    with pytest.raises(mmsb.TrackError, match="had 4 indices, this one has 5"):
        mmsb.ResumableSampler(5).load_state_dict(mmsb.ResumableSampler(4).state_dict())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # 3.12: a fork beside other threads
def test_workers_that_run_ahead_are_refused():
    data = list(range(8))
    loader = DataLoader(data, batch_size=2, sampler=mmsb.ResumableSampler(data), num_workers=1)
    with pytest.raises(mmsb.UnsupportedError, match="num_workers=0"):
        next(iter(loader))
