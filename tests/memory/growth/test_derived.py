"""Pages that grow: what follows from them, and who is told."""

import torch

import mmsb_torch as mmsb

A = torch.arange(12.0).view(4, 3)


def doubled(a):
    return a * 2


def total(doubled):
    return doubled.sum(0)


def test_what_is_derived_takes_the_new_shape(mem):
    page = mem.page("a", A)
    twice, summed = mem.derive(doubled, "a"), mem.derive(total, "doubled")
    assert torch.equal(summed.tensor, A.sum(0) * 2)
    mem.append(page, torch.ones(2, 3))
    assert torch.equal(twice.tensor, page.tensor * 2)
    assert twice.shape == (6, 3)
    assert torch.equal(summed.tensor, page.tensor.sum(0) * 2)
    told = str(mem.why("total"))
    assert "rows 4, 5 (2 of 6); 4 to 6 rows" in told
    assert torch.equal(mem.at(1)["doubled"], A * 2)
    mem.restore(1)
    assert torch.equal(twice.tensor, A * 2)
    assert torch.equal(mem.at(2)["total"], torch.cat([A, torch.ones(2, 3)]).sum(0) * 2)


def test_a_change_of_nothing_is_cut_off(mem):
    page, twice = mem.page("a", A), mem.derive(doubled, "a")
    _ = twice.tensor
    runs = mem.stats()["recomputed"]
    mem.append(page, torch.empty(0, 3))
    assert torch.equal(twice.tensor, A * 2)
    assert mem.stats()["recomputed"] == runs
    mem.append(page, torch.ones(1, 3))
    assert twice.shape == (5, 3)
    assert mem.stats()["recomputed"] == runs + 1


def first_row(a):
    return a[:1]


def test_what_did_not_change_is_cut_off_further_on(mem):
    page = mem.page("a", A)
    mem.derive(first_row, "a")
    last = mem.derive(total, "first_row", name="last")
    _ = last.tensor
    mem.append(page, torch.ones(1, 3))
    assert torch.equal(last.tensor, A[0])
    assert mem.why("last").what == "cut off"


def test_an_append_while_a_recipe_runs_is_no_write_into_its_input(mem):
    page = mem.page("a", A)
    mem.append(page, torch.ones(1, 3))  # from now on there is room
    runs = []

    def slow(a):
        runs.append(len(a))
        if len(runs) == 1:
            import threading

            other = threading.Thread(target=lambda: mem.append("a", torch.zeros(1, 3)))
            other.start()
            other.join()
        return a + 1

    found = mem.derive(slow, "a", name="slow")
    assert len(found.tensor) in {5, 6}
    assert len(found.tensor) == 6
    assert runs == [5, 6]


def test_subscribers_are_told_of_the_rows(mem):
    page, heard = mem.page("a", A), []
    mem.subscribe(heard.append, [mmsb.EventType.DELTA_COMMITTED])
    mem.append(page, torch.ones(1, 3))
    assert heard[0].fields["region"] == "rows 4 (1 of 5); 4 to 5 rows"
    assert heard[0].fields["epoch"] == 1


def test_the_journal_names_what_was_changed_and_what_was_added(mem):
    page = mem.page("a", A)
    mem.update(page, 1.0, rows=[2])
    mem.append(page, torch.ones(2, 3))
    mem.update(page, 2.0, rows=[0])
    journal = page._entry.journal
    assert journal.since(0, (6, 3)).index.tolist() == [0, 2, 4, 5]
    assert journal.since(1, (6, 3)).index.tolist() == [0, 4, 5]
    assert journal.since(2, (6, 3)).index.tolist() == [0]
    assert journal.since(3, (6, 3)).empty
