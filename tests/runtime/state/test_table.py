"""Pages by name and id, and who may write into a page's memory."""

import pytest
import torch

from mmsb_torch.errors import PageExistsError, PageNotFoundError
from mmsb_torch.runtime.state import Table


@pytest.fixture
def table(kit):
    table = Table()
    with table.lock:
        for number, name in ((1, "alpha"), (5, "beta")):
            table.add(kit.entry(torch.zeros(3), number, name))
    return table


def test_pages_are_found_by_name_and_id(table):
    assert table.find("alpha") is table.find(1)
    assert table.get("beta") is table.find(5)
    assert table.get("gamma") is None
    assert "alpha" in table
    assert "gamma" not in table
    assert len(table) == 2
    assert [entry.info.name for entry in table] == ["alpha", "beta"]


def test_what_is_not_there_is_named_with_what_is_near(table):
    with pytest.raises(PageNotFoundError) as caught:
        table.find("alpa")
    assert all(word in str(caught.value) for word in ("'alpa'", "'alpha'", "mem.page"))
    with pytest.raises(PageNotFoundError, match="7"):
        table.find(7)


def test_ids_count_on_from_the_highest(table, kit):
    assert table.free_id(None, "x") == 6
    assert table.free_id(3, "x") == 3
    table.add(kit.entry(torch.zeros(3), 20, "twenty"))
    assert table.free_id(None, "x") == 21
    with pytest.raises(PageExistsError, match=r"5.*'beta'"):
        table.free_id(5, "x")


@pytest.mark.parametrize(("number", "name"), [(1, "new"), (9, "alpha")])
def test_a_name_or_id_in_use_is_not_entered_twice(table, kit, number, name):
    with pytest.raises(PageExistsError), table.lock:
        table.add(kit.entry(torch.zeros(3), number, name))
    assert len(table) == 2
    assert [entry.info.id for entry in table] == [1, 5]
    assert table.find("alpha").info.id == 1
    assert table.get("new") is None


def test_one_may_iterate_while_pages_are_made(table, kit):
    for number, _ in enumerate(table, 10):
        with table.lock:
            table.add(kit.entry(torch.zeros(1), number, f"page {number}"))
    assert len(table) == 4


# an entry's memory


def written(entry, number):
    target = entry.writable()
    target.fill_(number)
    entry.put(target, shared=False)
    return target


def test_nobody_else_looking_it_is_written_in_place(kit):
    entry = kit.entry(torch.zeros(3))
    place = entry.tensor.data_ptr()
    for number in range(3):
        assert written(entry, number).data_ptr() == place
    assert entry.is_unwritten()


def test_a_reader_keeps_its_bits(kit):
    entry = kit.entry(torch.zeros(3))
    for number in range(1, 6):
        alias = entry.alias()
        before = alias.clone()
        written(entry, number)
        assert torch.equal(alias, before)
        assert entry.alias().tolist() == [number] * 3


def test_a_buffer_that_nobody_holds_any_more_is_used_again(kit):
    entry = kit.entry(torch.zeros(3))
    places = set()
    for number in range(8):
        alias = entry.alias()
        places.add(written(entry, number).data_ptr())
        del alias
    assert len(places) == 2


def test_a_buffer_that_somebody_holds_is_not(kit):
    entry, held = kit.entry(torch.zeros(3)), []
    for number in range(8):
        held.append(entry.alias())
        written(entry, number)
    assert [int(alias[0]) for alias in held] == [0, 0, 1, 2, 3, 4, 5, 6]


def test_memory_that_the_log_shares_is_copied_before_anybody_sees_or_writes_it(kit):
    logged = torch.zeros(3)
    entry = kit.entry(torch.zeros(3))
    entry.put(logged.detach(), shared=True)
    alias = entry.alias()
    assert alias.data_ptr() != logged.data_ptr()
    entry.put(logged.detach(), shared=True)
    written(entry, 7)
    assert logged.tolist() == [0, 0, 0]
    assert entry.alias().tolist() == [7, 7, 7]


def test_a_foreign_write_is_seen(kit):
    entry = kit.entry(torch.zeros(3))
    assert entry.is_unwritten()
    alias = entry.alias()
    assert entry.is_unwritten()
    alias.add_(1)
    assert not entry.is_unwritten()


def test_a_page_without_a_value_is_unwritten(kit):
    entry = kit.entry(torch.zeros(3))
    entry.tensor = None
    assert entry.is_unwritten()
