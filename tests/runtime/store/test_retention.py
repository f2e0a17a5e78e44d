"""The rule of what stays, against its words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_torch.errors import StoreError
from mmsb_torch.runtime.store.retention import Choice, Retention, doomed

checkpoints = st.lists(st.integers(0, 40), unique=True, max_size=8).map(sorted)
tagged = st.lists(st.integers(1, 45), unique=True, max_size=3)


def rules():
    count = st.none() | st.integers(1, 5)
    return st.builds(
        lambda keep, every, budget: Retention(
            keep_last=keep, every=every if keep or budget else None, max_bytes=budget
        ),
        count,
        count,
        st.none() | st.integers(1, 60),
    )


def weigh(kept):
    return 5 * len(kept.checkpoints) + sum(map(len, kept.deltas))


@given(rules(), checkpoints, tagged)
def test_what_the_rule_says_stays(rule, have, names):
    last = 45
    kept = Choice(rule, have, names, last).fit(weigh)
    if have:
        assert have[-1] in kept.checkpoints  # whatever the budget
    assert kept.checkpoints <= set(have)
    held = {tx for span in kept.deltas for tx in span}
    assert held >= set(range((have or [0])[-1] + 1, last + 1))  # the present can be rebuilt
    for tx in names:  # and so can what is tagged
        base = max((item for item in kept.checkpoints if item <= tx), default=0)
        assert set(range(base + 1, tx + 1)) <= held
    if rule.max_bytes is None:
        newest = have if rule.keep_last is None else have[-rule.keep_last :]
        assert set(newest) <= kept.checkpoints
        if rule.keep_last is None or len(have) < rule.keep_last:
            assert held == set(range(1, last + 1))
        else:
            assert held >= set(range(newest[0] + 1, last + 1))
        if rule.keep_last is not None and rule.every is not None:
            for group in {tx // rule.every for tx in have}:
                assert any(tx // rule.every == group for tx in kept.checkpoints)
    elif weigh(kept) > rule.max_bytes and have:  # then nothing more could go
        bases = {max((item for item in have if item <= tx), default=0) for tx in names}
        assert kept.checkpoints <= {have[-1]} | bases


@given(rules(), checkpoints, tagged, st.lists(st.integers(1, 44), unique=True, max_size=6))
def test_no_file_goes_that_somebody_needs(rule, have, names, firsts):
    starts = sorted({1, *firsts})
    files = [range(a, b) for a, b in zip(starts, [*starts[1:], 46], strict=True)]
    kept = Choice(rule, have, names, 45).fit(weigh)
    gone = {tx for item in doomed(files, kept) for tx in item}
    assert not gone & {tx for span in kept.deltas for tx in span}
    for item in files:  # and none stays for nothing
        needed = any(tx in span for span in kept.deltas for tx in item)
        assert needed or set(item) <= gone


def test_a_rule_that_makes_no_sense_is_refused():
    for wrong in ({"keep_last": 0}, {"every": -1, "keep_last": 1}, {"max_bytes": 0.5}):
        with pytest.raises(StoreError, match="integer from 1"):
            Retention(**wrong)
    with pytest.raises(StoreError, match="patterns"):
        Retention(keep_last=1, tags="release")
    with pytest.raises(StoreError, match="what counts as old"):
        Retention(every=3)
    assert Retention(keep_last=1, tags=["a*"]).tags == ("a*",)
    assert Retention(keep_last=1, tags=("v[0-9]",)).is_tagged("v1")
    assert not Retention(keep_last=1, tags=("v[0-9]",)).is_tagged("V1")
    assert not Retention(keep_last=1, tags=("*",)).is_tagged(None)
