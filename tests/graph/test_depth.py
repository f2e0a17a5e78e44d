"""Depth and width have no limit but memory."""

import sys

import torch

import mmsb_torch as mmsb


def plus_one(x):
    return x + 1


def test_a_chain_of_ten_thousand_pages():
    limit = sys.getrecursionlimit()
    with mmsb.open() as mem:
        page = mem.page("root", torch.zeros(2))
        for number in range(10_000):
            page = mem.derive(plus_one, page, name=f"n{number}")
        assert page.tensor.tolist() == [10_000.0, 10_000.0]
        mem.update("root", torch.ones(1), indices=[0])
        assert page.tensor.tolist() == [10_001.0, 10_000.0]
        recomputed = mem.stats()["recomputed"]
        mem.update("root", mem["root"].read())
        assert page.tensor.tolist() == [10_001.0, 10_000.0]
        assert mem.stats()["recomputed"] == recomputed
        assert len(mem.graph.nodes) == 10_001
    assert sys.getrecursionlimit() == limit
