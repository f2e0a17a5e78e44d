"""A loop that stopped and was resumed is, bit for bit, the loop that never stopped."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import mmsb_torch as mmsb

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=False),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "adam amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "adamw tensor lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(1e-2), foreach=False),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adamax": lambda p: torch.optim.Adamax(p),
    "asgd": lambda p: torch.optim.ASGD(p),
    "nadam": lambda p: torch.optim.NAdam(p),
    "radam": lambda p: torch.optim.RAdam(p),
    "rmsprop": lambda p: torch.optim.RMSprop(p, momentum=0.5, centered=True),
    "rprop": lambda p: torch.optim.Rprop(p),
    "two groups": lambda p: _two_groups(list(p)),
}


def _two_groups(parameters):
    return torch.optim.AdamW(
        [{"params": parameters[:2], "lr": 1e-3}, {"params": parameters[2:], "weight_decay": 0.3}],
        lr=1e-2,
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer(name, kit, path):
    def loop(number=0):
        return kit.Loop(made=OPTIMIZERS[name], number=number, scheduler=False)

    whole = loop()
    losses, _ = kit.train(mmsb.open(), whole, 20)
    expected = whole.state()
    with mmsb.open(path) as memory:
        first, _ = kit.train(memory, loop(), 20, until=9)
    resumed = loop(number=7)  # nothing of what it begins with may count
    kit.seed(99)
    with mmsb.open(path) as memory:
        second, _ = kit.train(memory, resumed, 20)
        assert first + second == losses
        assert resumed.state() == expected


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_digits(model, kit, path):
    def loop(number=0):
        made = kit.Cnn if model == "cnn" else lambda: kit.mlp(64, 10)
        return kit.Loop(model=made, data=kit.digits, number=number, batch=128)

    whole = loop()
    losses, _ = kit.train(mmsb.open(), whole, 20)
    with mmsb.open(path) as memory:
        first, _ = kit.train(memory, loop(), 20, until=11)
    resumed = loop(3)
    with mmsb.open(path) as memory:
        second, run = kit.train(memory, resumed, 20)
        assert [item.metrics["loss"] for item in run.history()] == losses == first + second
    assert resumed.state() == whole.state()
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("stop", [6, 7, 13])  # an epoch has 7 batches, the last of them smaller
@pytest.mark.parametrize("count", [50, 56])
def test_at_the_end_of_an_epoch(stop, count, kit, path):
    def loop(number=0):
        return kit.Loop(data=lambda: kit.made_up(count=count), number=number)

    whole = loop()
    losses, _ = kit.train(mmsb.open(), whole, 16)
    with mmsb.open(path) as memory:
        kit.train(memory, loop(), 16, until=stop)
    resumed = loop(1)
    with mmsb.open(path) as memory:
        assert kit.train(memory, resumed, 16)[0] == losses[stop:]
    assert resumed.state() == whole.state()


SCHEDULERS = {
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [3, 5, 5]),  # its milestones are a Counter
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 1e-2, cycle_momentum=False),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.CosineAnnealingLR(o, 9)], [4]
    ),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_each_scheduler(name, kit, path):
    def went(stops):
        done = []
        for number, stop in enumerate(stops):
            loop = kit.Loop(number=number, scheduler=False)
            scheduler = SCHEDULERS[name](loop.optimizer)
            with mmsb.open(path if len(stops) > 1 else None) as memory:
                run = mmsb.track(memory, **loop.parts(), scheduler=scheduler)
                for step in range(run.resume(), stop):
                    loss = loop.step()
                    scheduler.step(*([loss] if name == "plateau" else []))
                    done.append((loss, [group["lr"] for group in loop.optimizer.param_groups]))
                    run.commit(step=step + 1)
        return done, loop.state(), kit.frozen(scheduler.state_dict())

    assert went([4, 12]) == went([12])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 12)
        self.head = nn.Linear(12, 12, bias=False)
        self.head.weight = self.embedding.weight
        self.out = nn.Linear(12, 4)

    def forward(self, x):
        return self.out(self.head(self.embedding(x.argmax(1))))


class Lora(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(12, 4).requires_grad_(False)
        self.a, self.b = nn.Linear(12, 2, bias=False), nn.Linear(2, 4, bias=False)

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


MODELS = {
    "tied": Tied,
    "lora": Lora,
    "compiled": lambda: torch.compile(nn.Linear(12, 4), backend="eager"),
    "with a compiled layer": lambda: nn.Sequential(
        torch.compile(nn.Linear(12, 6), backend="eager"), nn.Linear(6, 4)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_each_kind_of_model(name, kit, path):
    whole = kit.Loop(model=MODELS[name])
    losses, _ = kit.train(mmsb.open(), whole, 12)
    with mmsb.open(path) as memory:
        first, _ = kit.train(memory, kit.Loop(model=MODELS[name]), 12, until=5)
        assert not any("_orig_mod" in page for page in memory)
        if name == "tied":
            assert "model/embedding.weight" in memory
            assert "model/head.weight" not in memory
    resumed = kit.Loop(model=MODELS[name], number=5)
    with mmsb.open(path) as memory:
        assert first + kit.train(memory, resumed, 12)[0] == losses
    assert resumed.state() == whole.state()
    if name == "tied":
        assert resumed.model.head.weight is resumed.model.embedding.weight


def test_a_compiled_model_goes_on_as_a_plain_one(kit, path):
    plain = nn.Linear(12, 4)
    with mmsb.open(path) as memory:
        mmsb.track(memory, model=plain).commit(step=1)
    compiled = torch.compile(nn.Linear(12, 4), backend="eager")
    with mmsb.open(path) as memory:
        assert mmsb.track(memory, model=compiled).resume() == 1
    assert kit.octets(compiled._orig_mod.weight) == kit.octets(plain.weight)


def test_ema_scaler_and_accumulated_gradients(kit, path):
    """Commits come in the middle of an accumulation, too."""

    def went(stops):
        losses = []
        for number, stop in enumerate(stops):
            loop = kit.Loop(number=number)
            ema = torch.optim.swa_utils.AveragedModel(
                loop.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
            )
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
            counts, mine = {"seen": 0}, torch.Generator().manual_seed(number)
            extra = {"ema": ema, "counts": counts, "mine": mine}
            with mmsb.open(path if len(stops) > 1 else None) as memory:
                run = mmsb.track(memory, **loop.parts(), scaler=scaler, extra=extra)
                if number == 0:
                    mine.manual_seed(0)
                for step in range(run.resume(), stop):
                    x, y = loop.batch()
                    x = x + torch.randn(x.shape, generator=mine) / 10
                    loss = nn.functional.cross_entropy(loop.model(x), y)
                    scaler.scale(loss).backward()
                    counts["seen"] += len(y)
                    if step % 3 == 2:
                        scaler.step(loop.optimizer)
                        scaler.update()
                        ema.update_parameters(loop.model)
                        loop.optimizer.zero_grad()
                    losses.append(loss.item())
                    run.commit(step=step + 1)
        return losses, loop.state(), kit.frozen([ema.state_dict(), scaler.state_dict(), counts])

    expected = went([20])
    assert went([7, 12, 20]) == expected


def test_sparse_gradients(kit, path):
    def went(stops):
        for number, stop in enumerate(stops):
            kit.seed(number)
            table = nn.Embedding(100, 8, sparse=True)
            optimizer = torch.optim.SparseAdam(table.parameters())
            with mmsb.open(path if len(stops) > 1 else None) as memory:
                run = mmsb.track(memory, model=table, optimizer=optimizer)
                for step in range(run.resume(), stop):
                    optimizer.zero_grad()
                    table(torch.randint(0, 100, (5,))).square().sum().backward()
                    optimizer.step()
                    run.commit(step=step + 1)
        return kit.frozen([table.state_dict(), optimizer.state_dict()]), kit.generators()

    assert went([6, 12]) == went([12])


def test_lbfgs_whose_state_is_lists_that_grow(kit, path):
    def went(stops):
        losses = []
        for number, stop in enumerate(stops):
            kit.seed(number)
            model = nn.Linear(12, 4)
            optimizer = torch.optim.LBFGS(model.parameters(), lr=0.3, max_iter=3)
            x, y = kit.made_up()

            def closure(model=model, optimizer=optimizer, x=x, y=y):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                return loss

            with mmsb.open(path if len(stops) > 1 else None) as memory:
                run = mmsb.track(memory, model=model, optimizer=optimizer)
                for step in range(run.resume(), stop):
                    losses.append(optimizer.step(closure).item())
                    run.commit(step=step + 1)
        return losses, kit.frozen([model.state_dict(), optimizer.state_dict()])

    assert went([3, 6]) == went([6])


@pytest.mark.filterwarnings("ignore:.set_vital. is deprecated")  # torchdata 0.11 with torch 2.13
def test_stateful_data_loader(kit, path):
    loaders = pytest.importorskip("torchdata.stateful_dataloader")

    def went(stops):
        losses = []
        for number, stop in enumerate(stops):
            loop = kit.Loop(number=number)
            loop.loader = loaders.StatefulDataLoader(loop.data, batch_size=8, shuffle=True)
            with mmsb.open(path if len(stops) > 1 else None) as memory:
                run = mmsb.track(memory, **loop.parts())
                for step in range(run.resume(), stop):
                    losses.append(loop.step())
                    run.commit(step=step + 1)
        return losses, loop.state()

    assert went([3, 11, 20]) == went([20])


def test_restore_goes_anywhere_and_back(kit, path):
    with mmsb.open(path) as memory:
        loop, states = kit.Loop(), {}
        losses, run = kit.train(
            memory, loop, 12, each=lambda step: states.update({step: copy.deepcopy(loop.state())})
        )
        for step in (5, 12, 1, 9):
            assert run.restore(step=step) == step
            assert loop.state() == states[step]
            assert [item.step for item in run.history()] == list(range(1, step + 1))
        loop.batches = iter(())
        again = []
        for step in range(9, 12):
            again.append(loop.step())
            run.commit(step=step + 1)
        assert again == losses[9:]
        assert loop.state() == states[12]


def test_after_a_restore_resume_goes_on_from_there(kit, path):
    with mmsb.open(path) as memory:
        losses, run = kit.train(memory, kit.Loop(), 12)
        run.restore(step=4)
    with mmsb.open(path) as memory:
        resumed = kit.Loop(number=1)
        assert kit.train(memory, resumed, 12)[0] == losses[4:]


def test_restore_to_before_the_optimizer_had_slots(kit):
    loop = kit.Loop(scheduler=False)
    with mmsb.open() as memory:
        run = mmsb.track(memory, **loop.parts())
        run.resume()
        run.commit(step=0)
        before = loop.state()
        loop.step()
        run.commit(step=1)
        run.restore(step=0)
        assert loop.state() == before
        assert not loop.optimizer.state
