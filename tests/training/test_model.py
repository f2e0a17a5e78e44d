"""Random loops of steps, commits, restores, closings and foreign writes, beside plain deep copies."""

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mmsb_torch as mmsb

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(1, 3)),
        st.tuples(st.just("commit"), st.booleans()),
        st.tuples(st.just("restore"), st.integers(0, 20)),
        st.tuples(st.just("resume"), st.none()),
        st.tuples(st.just("reopen"), st.none()),
        st.tuples(
            st.just("write"), st.sampled_from(["data", "numpy", "copy", "replace", "buffer"])
        ),
        st.tuples(st.just("freeze"), st.booleans()),
        st.tuples(st.just("backward"), st.none()),
        st.tuples(st.just("checkpoint"), st.none()),
    ),
    max_size=25,
)


class World:
    """A loop in a store, and what a list of deep copies says of it."""

    def __init__(self, kit, path, kind):
        self.kit, self.path, self.kind = kit, path, kind
        self.kept, self.step, self.last = {}, 0, None
        self.build(0)

    def build(self, number):
        self.kit.seed(number)
        self.model = nn.Sequential(nn.Linear(8, 40), nn.BatchNorm1d(40), nn.Linear(40, 3))
        kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad}
        more = {"momentum": 0.9} if self.kind == "sgd" else {}
        self.optimizer = kinds[self.kind](self.model.parameters(), lr=0.01, **more)
        self.memory = mmsb.open(self.path)
        self.run = mmsb.track(self.memory, model=self.model, optimizer=self.optimizer)

    def state(self):
        """Gradients that a step has used count as none."""
        used = self.run._parts[1]._is_used
        grads = [
            None if p.grad is None or used(p, p.grad) else p.grad for p in self.model.parameters()
        ]
        given = [self.model.state_dict(), self.optimizer.state_dict(), grads]
        return copy.deepcopy(self.kit.frozen(given)), self.kit.generators()

    def do(self, action, how):
        getattr(self, f"do_{action}")(how)

    def do_step(self, count):
        for _ in range(count):
            self.do_backward(None)
            self.optimizer.step()
            self.step += 1

    def do_backward(self, _):
        if self.model[0].weight.requires_grad or self.model[2].weight.requires_grad:
            self.model(torch.randn(4, 8)).square().mean().backward()

    def do_commit(self, wait):
        done = self.run.commit(step=self.step, loss=float(self.step))
        if wait:
            done.wait()
        self.kept[self.step] = self.last = self.state()

    def do_restore(self, which):
        if self.kept:
            self.step = sorted(self.kept)[which % len(self.kept)]
            assert self.run.restore(step=self.step) == self.step
            self.last = self.kept[self.step]
            assert self.state() == self.last

    def do_resume(self, _):
        if self.last is not None:
            self.step = self.run.resume()
            assert self.state() == self.last

    def do_reopen(self, _):
        self.memory.close()
        self.build(1000 + self.step)
        self.step = self.run.resume(default=self.step)
        if self.last is not None:
            assert self.state() == self.last

    def do_write(self, how):
        layer = self.model[0]
        if how == "data":
            layer.weight.data[3] += 1
        elif how == "numpy":
            layer.weight.detach().numpy()[5] *= 2
        elif how == "copy":
            with torch.no_grad():
                layer.bias.copy_(torch.randn(40))
        elif how == "replace":
            layer.bias.data = torch.randn(40)
        else:
            self.model[1].running_mean.add_(1)

    def do_freeze(self, frozen):
        self.model[0].requires_grad_(not frozen)

    def do_checkpoint(self, _):
        self.memory.checkpoint()


@settings(max_examples=30)
@given(actions=ACTIONS, kind=st.sampled_from(["adamw", "sgd", "adagrad"]))
def test_every_moment_is_what_it_was(actions, kind, kit, tmp_path_factory):
    world = World(kit, tmp_path_factory.mktemp("model") / "run.mmsb", kind)
    try:
        for action, how in actions:
            world.do(action, how)
        for step, expected in world.kept.items():
            world.run.restore(step=step)
            assert world.state() == expected
    finally:
        world.memory.close()
