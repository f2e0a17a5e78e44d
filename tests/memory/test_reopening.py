"""A memory with a path, closed and opened again: in this process, in another, beside a writer."""

import subprocess
import sys
import textwrap

import pytest
import torch

import mmsb_torch as mmsb

A = torch.arange(6.0).view(3, 2)
FACTOR = 2.0


def doubled(a):
    return a * 2


def tripled(a):
    return a * 3


def helper(a):
    return a + 1


def by_helper(a):
    return helper(a)


def by_global(a):
    return a * FACTOR


def by_closure(factor):
    def recipe(a):
        return a * factor

    return recipe


def make(path, recipe=doubled, name="d"):
    """A store with a page `a` and a computed page derived from it."""
    with mmsb.open(path) as memory:
        memory.page("a", A)
        _ = memory.derive(recipe, "a", name=name).tensor


@pytest.fixture
def made(path):
    make(path)
    return path


# derived pages without their recipe


@pytest.mark.parametrize("mode", ["w", "r"])
def test_a_fresh_page_gives_its_last_value_without_its_recipe(made, mode):
    with mmsb.open(made, mode=mode) as memory:
        page = memory["d"]
        assert torch.equal(page.tensor, A * 2)
        assert torch.equal(page.read([1]), A[1:2] * 2)
        assert (page.epoch, page.dtype, page.shape) == (1, torch.float32, (3, 2))
        assert memory.why(page).status == "fresh"
        assert memory.stats()["recomputed"] == 0


def refused_read(memory, name, *words):
    with pytest.raises(mmsb.RecipeNotLoadedError) as caught:
        _ = memory[name].tensor
    assert isinstance(caught.value, LookupError)
    assert all(word in str(caught.value) for word in (f"'{name}'", "mem.derive", *words)), str(
        caught.value
    )


def test_a_page_that_became_stale_needs_its_recipe(made):
    with mmsb.open(made) as memory:
        memory.update("a", 1.0, rows=[0])
        refused_read(memory, "d", "doubled", "'a' changed")
        with pytest.raises(mmsb.RecipeNotLoadedError, match="'d'"):
            memory.propagate()
        assert memory.why("d").status == "unbound"
        assert "unbound" in repr(memory["d"])
        memory.update("a", A)
        assert torch.equal(memory["a"].tensor, A)
        memory.derive(doubled, "a", name="d")
        assert torch.equal(memory["d"].tensor, A * 2)


def test_a_page_that_was_stale_when_it_was_closed_needs_its_recipe(path):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        _ = memory.derive(doubled, "a", name="d").tensor
        memory.update("a", 1.0)
    with mmsb.open(path) as memory:
        refused_read(memory, "d", "doubled", "'a' changed")


def test_a_page_that_was_never_computed_needs_its_recipe(path):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        memory.derive(doubled, "a", name="d")
    with mmsb.open(path) as memory:
        refused_read(memory, "d", "doubled", "no value yet")
        memory.derive(doubled, "a", name="d")
        assert torch.equal(memory["d"].tensor, A * 2)


def test_an_update_that_changed_no_bit_keeps_the_last_value(made):
    with mmsb.open(made) as memory:
        memory.update("a", A)
        assert torch.equal(memory["d"].tensor, A * 2)
    with mmsb.open(made) as memory:
        assert torch.equal(memory["d"].tensor, A * 2)
        assert memory["a"].epoch == 1


def test_a_page_whose_code_was_exchanged_was_not_fresh(path):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        _ = memory.derive(doubled, "a", name="d").tensor
        memory.derive(tripled, "a", name="d")
    with mmsb.open(path) as memory:
        refused_read(memory, "d", "tripled")
        memory.derive(tripled, "a", name="d")
        assert torch.equal(memory["d"].tensor, A * 3)


def test_a_page_whose_global_had_changed_was_not_fresh(path, monkeypatch):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        _ = memory.derive(by_global, "a", name="d").tensor
        monkeypatch.setitem(globals(), "FACTOR", 5.0)
    with mmsb.open(path) as memory:
        refused_read(memory, "d", "by_global")
        memory.derive(by_global, "a", name="d")
        assert torch.equal(memory["d"].tensor, A * 5)


def test_a_page_whose_recipe_failed_was_not_fresh(path):
    def choosy(a, *, enough=True):
        if not enough:
            raise ValueError
        return a

    with mmsb.open(path) as memory:
        memory.page("a", A)
        _ = memory.derive(choosy, "a", name="d").tensor
        page = memory.derive(choosy, "a", name="d", enough=False)
        with pytest.raises(mmsb.RecipeError):
            _ = page.tensor
    with mmsb.open(path) as memory:
        refused_read(memory, "d", "choosy")


def test_a_stale_page_in_a_chain_names_what_changed(path):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        memory.derive(doubled, "a", name="d")
        _ = memory.derive(lambda d: d + 1, "d", name="e").tensor
    with mmsb.open(path) as memory:
        assert torch.equal(memory["e"].tensor, A * 2 + 1)
        memory.update("a", 0.0)
        refused_read(memory, "d", "'a' changed")
        with pytest.raises(mmsb.RecipeNotLoadedError, match="'a'"):
            _ = memory["e"].tensor
        memory.derive(doubled, "a", name="d")
        refused_read(memory, "e", "'d' changed")


def test_a_cut_off_upstream_keeps_a_page_without_recipe(path):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        memory.derive(lambda a: a[:1], "a", name="head")
        _ = memory.derive(lambda head: head + 1, "head", name="more").tensor
    with mmsb.open(path) as memory:
        memory.derive(lambda a: a[:1], "a", name="head")
        memory.update("a", 9.0, rows=[2])
        assert memory["more"].tensor.tolist() == [[1, 2]]


def test_the_past_of_a_page_without_recipe(made):
    with mmsb.open(made) as memory:
        assert torch.equal(memory.at(1)["d"], A * 2)
        memory.update("a", 0.0)
        moment = memory.at(2)
        assert "d" in moment
        with pytest.raises(mmsb.RecipeNotLoadedError, match="'d'"):
            _ = moment["d"]
        memory.derive(doubled, "a", name="d")
        assert not bool(memory.at(2)["d"].any())
        assert torch.equal(memory.at(1)["d"], A * 2)


# declaring again


@pytest.mark.parametrize("mode", ["w", "r"])
@pytest.mark.parametrize("recipe", [doubled, by_helper, by_global, by_closure(4.0)])
def test_equal_code_attaches_and_computes_nothing(path, recipe, mode):
    make(path, recipe)
    with mmsb.open(path, mode=mode) as memory:
        page = memory.derive(recipe, "a", name="d")
        assert page is memory["d"]
        assert torch.equal(page.tensor, recipe(A))
        memory.propagate()
        assert memory.stats()["recomputed"] == 0
        assert (memory.tx, page.epoch) == (1, 1)
        assert "kept" in str(memory.why(page))


def test_attached_again_it_follows_its_inputs(made):
    with mmsb.open(made) as memory:
        memory.derive(doubled, "a", name="d")
        memory.update("a", 3.0, rows=[2])
        assert memory["d"].tensor[2].tolist() == [6, 6]
        assert memory.stats()["recomputed"] == 1
        assert "'a'" in str(memory.why("d"))


def test_a_function_defined_again_with_equal_code_attaches(made):
    namespace = {}
    source = "def doubled(a):\n    return a * 2\n"
    exec(compile(source, __file__, "exec"), namespace)
    with mmsb.open(made) as memory:
        memory.derive(namespace["doubled"], "a", name="d")
        assert torch.equal(memory["d"].tensor, A * 2)
        assert memory.stats()["recomputed"] == 0


CHANGES = {
    "other function": (doubled, tripled),
    "closure": (by_closure(2.0), by_closure(5.0)),
    "constant": (lambda a: a + 1, lambda a: a + 2),
    "partial": (by_closure(torch.tensor(2.0)), by_closure(torch.tensor(3.0))),
}


@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES.keys())
def test_other_code_recomputes(path, before, after):
    make(path, before)
    with mmsb.open(path) as memory:
        page = memory.derive(after, "a", name="d")
        assert torch.equal(page.tensor, after(A))
        assert memory.stats()["recomputed"] == 1
    with mmsb.open(path) as memory:
        memory.derive(after, "a", name="d")
        assert torch.equal(memory["d"].tensor, after(A))
        assert memory.stats()["recomputed"] == 0


def test_a_changed_global_recomputes(path, monkeypatch):
    make(path, by_global)
    monkeypatch.setitem(globals(), "FACTOR", 7.0)
    with mmsb.open(path) as memory:
        assert torch.equal(memory.derive(by_global, "a", name="d").tensor, A * 7)
        assert memory.stats()["recomputed"] == 1


def test_a_changed_helper_recomputes(path, monkeypatch):
    make(path, by_helper)
    monkeypatch.setitem(globals(), "helper", lambda a: a - 1)
    with mmsb.open(path) as memory:
        assert torch.equal(memory.derive(by_helper, "a", name="d").tensor, A - 1)
        assert memory.stats()["recomputed"] == 1


def test_other_constants_recompute(path):
    def scaled(a, factor):
        return a * factor

    with mmsb.open(path) as memory:
        memory.page("a", A)
        _ = memory.derive(scaled, "a", name="d", factor=2.0).tensor
    for factor, recomputed in ((2.0, 0), (3.0, 1), (3.0, 0)):
        with mmsb.open(path) as memory:
            page = memory.derive(scaled, "a", name="d", factor=factor)
            assert torch.equal(page.tensor, A * factor)
            assert memory.stats()["recomputed"] == recomputed


def test_other_inputs_recompute(path):
    make(path)
    with mmsb.open(path) as memory:
        memory.page("b", A + 10)
        page = memory.derive(doubled, "b", name="d")
        assert torch.equal(page.tensor, (A + 10) * 2)
        memory.update("a", 0.0)
        assert torch.equal(page.tensor, (A + 10) * 2)
    with mmsb.open(path) as memory:
        memory.derive(doubled, "b", name="d")
        assert torch.equal(memory["d"].tensor, (A + 10) * 2)
        assert memory.stats()["recomputed"] == 0


def net(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))


def test_the_weights_of_a_module_count(path):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        value = memory.derive(net(0), "a", name="out").tensor
    with mmsb.open(path) as memory:
        page = memory.derive(net(0), "a", name="out")
        assert torch.equal(page.tensor, value)
        assert memory.stats()["recomputed"] == 0
    with mmsb.open(path) as memory:
        other = net(0)
        with torch.no_grad():
            other[2].bias.add_(1)
        page = memory.derive(other, "a", name="out")
        assert torch.equal(page.tensor, value + 1)
        assert memory.stats()["recomputed"] == 1


def test_a_root_is_there_with_its_epoch_mask_and_metadata(path):
    with mmsb.open(path) as memory:
        memory.page("a", A, metadata={"unit": "m"})
        memory.update("a", 1.0, rows=[1])
        before = memory["a"].clone()
    with mmsb.open(path) as memory:
        page = memory.page("a", torch.zeros(3, 2))
        assert torch.equal(page.tensor, before)
        assert (page.epoch, page.id, memory.tx) == (1, 1, 2)
        assert not bool(page.mask.any())
        assert dict(page.metadata) == {"unit": "m"}
        with pytest.raises(mmsb.PageExistsError, match=r"\[3, 2\]"):
            memory.page("a", torch.zeros(2, 2))


# what close keeps


def test_closing_writes_a_checkpoint_only_if_something_changed(path):
    def checkpoints():
        return sorted(item.name for item in (path / "checkpoints").iterdir())

    make(path)
    before = checkpoints()
    assert len(before) == 1
    stamp = (path / "checkpoints" / before[0]).stat().st_mtime_ns
    with mmsb.open(path) as memory:
        memory.derive(doubled, "a", name="d")
        _ = memory["d"].tensor
    assert checkpoints() == before
    assert (path / "checkpoints" / before[0]).stat().st_mtime_ns == stamp
    with mmsb.open(path) as memory:
        memory.update("a", 1.0)
    assert len(checkpoints()) == 2


def test_a_recomputation_alone_is_worth_keeping(made):
    with mmsb.open(made) as memory:
        _ = memory.derive(tripled, "a", name="d").tensor
    with mmsb.open(made) as memory:
        assert torch.equal(memory["d"].tensor, A * 3)


def test_a_declaration_alone_is_worth_keeping(made):
    with mmsb.open(made) as memory:
        memory.derive(tripled, "a", name="declared only")
    with mmsb.open(made) as memory:
        assert "declared only" in memory
        refused_read(memory, "declared only", "tripled")


def test_what_a_with_block_did_before_it_raised_is_kept(path):
    def work():
        with mmsb.open(path) as memory:
            memory.page("a", A)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    with mmsb.open(path) as memory:
        assert torch.equal(memory["a"].tensor, A)


def test_old_checkpoints_can_be_let_go(path):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        for number in range(4):
            memory.update("a", float(number))
            info = memory.checkpoint(keep=2)
            assert info.tx == memory.tx
        names = sorted(item.name for item in (path / "checkpoints").iterdir())
        assert names == [f"{tx:020d}" for tx in (4, 5)]
    with mmsb.open(path) as memory:
        assert memory["a"].tensor[0, 0].item() == 3


@pytest.fixture(
    params=[OSError(28, "No space left on device"), mmsb.StoreError("the disk is full")]
)
def failing_once(request, monkeypatch):
    """A function that makes the next checkpoint of a memory fail."""

    def arrange(memory):
        write = memory._store.write_checkpoint
        waiting = [request.param]

        def failing(*args, **options):
            if waiting:
                raise waiting.pop()
            return write(*args, **options)

        monkeypatch.setattr(memory._store, "write_checkpoint", failing)

    return arrange


def test_when_the_disk_refuses_close_can_be_tried_again(path, failing_once):
    memory = mmsb.open(path)
    memory.page("a", A)
    memory.update("a", 1.0, rows=[0])
    failing_once(memory)
    with pytest.raises(OSError, match=r"space|full"):
        memory.close()
    assert not memory.closed
    assert memory["a"].tensor[0].tolist() == [1, 1]
    assert memory["a"].mask.tolist() == [[True, True], [False, False], [False, False]]
    memory.update("a", 2.0, rows=[1])
    with pytest.raises(mmsb.StoreLockedError):
        mmsb.open(path)
    memory.close()
    assert memory.closed
    with mmsb.open(path) as again:
        assert again["a"].tensor.tolist() == [[1, 1], [2, 2], [4, 5]]


def test_when_the_disk_refuses_a_checkpoint_the_masks_stay(path, failing_once):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        memory.checkpoint()
        memory.update("a", 1.0, rows=[0])
        failing_once(memory)
        with pytest.raises(OSError, match=r"space|full"):
            memory.checkpoint()
        assert memory["a"].mask[:, 0].tolist() == [True, False, False]
        assert "1 delta since" in repr(memory["a"])
        assert memory.checkpoint().tx == 2
        assert not bool(memory["a"].mask.any())


def test_a_failing_recipe_does_not_keep_a_memory_open(path):
    def broken(a):
        raise ValueError("not today")

    with mmsb.open(path) as memory:
        memory.page("a", A)
        memory.derive(broken, "a")
    with mmsb.open(path) as memory:
        assert torch.equal(memory["a"].tensor, A)


# kinds


def kind_of(name, function):
    mmsb.register_recomputation(name, function)
    return name


def sum_of_rows(memory, page):
    return memory["a"].tensor.sum(page.metadata["dim"])


def test_a_page_of_a_kind_is_bound_when_the_store_opens(path):
    kind = kind_of("reopened rows", sum_of_rows)
    with mmsb.open(path) as memory:
        memory.page("a", A)
        page = memory.page("rows", kind=kind, metadata={"dim": 1})
        assert page.tensor.tolist() == [1, 5, 9]
        assert page.metadata["dim"] == 1
    with mmsb.open(path) as memory:
        assert memory["rows"].tensor.tolist() == [1, 5, 9]
        assert memory.stats()["recomputed"] == 0
        memory.update("a", 0.0, rows=[1])
        assert memory["rows"].tensor.tolist() == [1, 0, 9]
        assert memory.page("rows", kind=kind) is memory["rows"]
        assert memory.stats()["recomputed"] == 1
    with mmsb.open(path, mode="r") as memory:
        assert memory["rows"].tensor.tolist() == [1, 0, 9]


def test_a_kind_registered_with_other_code_recomputes(path):
    kind = kind_of("reopened other", sum_of_rows)
    with mmsb.open(path) as memory:
        memory.page("a", A)
        page = memory.page("rows", kind=kind, metadata={"dim": 0})
        assert page.tensor.tolist() == [6, 9]
        kind_of(kind, sum_of_rows)
        assert page.tensor.tolist() == [6, 9]
        assert memory.stats()["recomputed"] == 1
        kind_of(kind, lambda memory, page: memory["a"].tensor.amax(0))
        assert page.tensor.tolist() == [4, 5]
        assert memory.stats()["recomputed"] == 2
    kind_of(kind, lambda memory, page: memory["a"].tensor.amin(0))
    with mmsb.open(path) as memory:
        assert memory["rows"].tensor.tolist() == [0, 1]
        assert memory.stats()["recomputed"] == 1


def test_a_kind_may_read_derived_pages_and_other_kinds(path):
    def on_top(memory, page):
        return memory["rows"].tensor + memory["d"].tensor[:, 0]

    with mmsb.open(path) as memory:
        memory.page("a", A)
        memory.derive(doubled, "a", name="d")
        memory.page("rows", kind=kind_of("below", sum_of_rows), metadata={"dim": 1})
        page = memory.page("top", kind=kind_of("on top", on_top))
        assert page.tensor.tolist() == [1, 9, 17]
        memory.update("a", 1.0, rows=[0])
        assert page.tensor.tolist() == [4, 9, 17]
    with mmsb.open(path) as memory:
        assert memory["top"].tensor.tolist() == [4, 9, 17]
        assert memory.stats()["recomputed"] == 0
        memory.derive(doubled, "a", name="d")
        memory.update("a", 0.0, rows=[0])
        assert memory["top"].tensor.tolist() == [0, 9, 17]


def test_a_kind_that_reads_other_pages_now_depends_on_those(mem):
    mem.page("a", torch.tensor(0))
    mem.page("b", torch.tensor(10))
    mem.page("c", torch.tensor(20))
    page = mem.page(
        "chosen",
        kind=kind_of("choosing", lambda m, page: m["bc"[int(m["a"].tensor)]].tensor + 0),
    )
    assert page.tensor.item() == 10
    mem.update("c", 21)
    assert page.tensor.item() == 10
    assert mem.stats()["recomputed"] == 1
    mem.update("a", 1)
    assert page.tensor.item() == 21
    mem.update("b", 11)
    assert page.tensor.item() == 21
    assert mem.stats()["recomputed"] == 2


# reading beside a writer


def test_a_reader_computes_stale_pages_in_ram_only(made):
    def files():
        return sorted((p.relative_to(made), p.stat().st_mtime_ns) for p in made.rglob("*"))

    with mmsb.open(made) as memory:
        memory.update("a", 1.0)
    before = files()
    with mmsb.open(made, mode="r") as memory:
        page = memory.derive(doubled, "a", name="d")
        assert bool((page.tensor == 2).all())
        extra = memory.derive(tripled, "a", name="extra")
        assert bool((extra.tensor == 3).all())
        assert memory.tx == 2
    assert files() == before
    with mmsb.open(made, mode="r") as memory:
        assert "extra" not in memory
        refused_read(memory, "d", "doubled")


def test_there_is_one_writer(made):
    with mmsb.open(made) as memory:
        with pytest.raises(mmsb.StoreLockedError, match=r"run\.mmsb") as caught:
            mmsb.open(made)
        assert isinstance(caught.value, BlockingIOError)
        with mmsb.open(made, mode="r") as reader, mmsb.open(made, mode="r") as other:
            memory.update("a", 1.0)
            assert torch.equal(reader["a"].tensor, A)
            assert torch.equal(other["d"].tensor, A * 2)
        assert memory["a"].epoch == 1
    mmsb.open(made).close()


SCRIPT = """
    import sys
    import torch
    import mmsb_torch as mmsb

    SCALE = 2.0

    def helper(a):
        return a * SCALE

    def scaled(a):
        return helper(a) + 1

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 2)
    {body}
"""


def run(body):
    """Run a script in another process; returns what it prints, and fails if it does."""
    indented = textwrap.indent(textwrap.dedent(body), "    ").strip()
    source = textwrap.dedent(SCRIPT.format(body=indented))
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_another_process_is_refused_as_a_writer_and_may_read(made):
    body = f"""
        path = {str(made)!r}
        try:
            mmsb.open(path)
        except mmsb.StoreLockedError as error:
            print("refused", "writing" in str(error))
        with mmsb.open(path, mode="r") as memory:
            print(memory["a"].tensor.sum().item(), memory.tx)
            try:
                memory["d"].tensor
            except mmsb.RecipeNotLoadedError as error:
                print("'a'" in str(error))
    """
    with mmsb.open(made) as memory:
        memory.update("a", 1.0)
        total = str(memory["a"].tensor.sum().item())
        assert run(body) == ["refused", "True", total, "2", "True"]
        memory.update("a", 2.0)
    with mmsb.open(made) as memory:
        assert memory.tx == 3


def test_equal_code_in_another_process_computes_nothing(path):
    body = f"""
        with mmsb.open({str(path)!r}) as memory:
            memory.page("a", torch.arange(6.0).view(3, 2))
            one = memory.derive(scaled, "a", name="one")
            two = memory.derive(net, "one", name="two")
            print(one.tensor.sum().item(), memory.stats()["recomputed"])
            _ = two.tensor
            print(memory.stats()["recomputed"])
    """
    assert run(body) == ["36.0", "1", "2"]
    assert run(body) == ["36.0", "0", "0"]
