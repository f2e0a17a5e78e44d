"""A transaction among others that append: what it staged means what it meant, whatever came between."""

import torch
from hypothesis import given
from hypothesis import strategies as st

import mmsb_torch as mmsb

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["rows", "all", "most", "append"]),
        st.booleans(),
        st.integers(0, 30),
        st.integers(0, 2),
    ),
    max_size=12,
)


class Two:
    """A memory, a transaction on it, and the obvious model of both: a number a row.

    The transaction is writes by row, of rows that were there and of rows of its own; they come last.
    """

    def __init__(self, width, count):
        self.width, self.state = width, [0.0] * count
        self.old, self.own, self.growing = {}, [], False
        self.mem = mmsb.open()
        self.page = self.mem.page("a", self.values(self.state))

    def values(self, numbers):
        column = torch.tensor(numbers, dtype=torch.float32).view(-1, 1)
        return column.expand(-1, self.width).contiguous()

    def step(self, tx, what, where, count, number):
        if what == "append":
            tx.append(self.page, self.values([number] * count))
            self.own += [number] * count
            self.growing = True
            return
        staged = tx._batch._spec(self.page._entry).shape[0]  # how many rows the transaction sees
        size = staged if what == "rows" or self.growing else len(self.state)
        if size == 0:
            return
        row, seen = where % size, size - len(self.own)
        if what == "rows":
            tx.update(self.page, number, rows=[row])
            written = {row: number}
        else:  # of most rows the values that they have: only what differs is staged
            now = [self.old.get(n, v) for n, v in enumerate(self.state[:seen])] + self.own
            written = {n: number if what == "all" or n == row else now[n] for n in range(size)}
            tx.update(self.page, self.values(list(written.values())))
        for row, value in written.items():
            if row < seen:
                self.old[row] = value
            else:
                self.own[row - seen] = value

    def aside(self, what, where, count, number):
        size = len(self.state)
        if what == "append":
            self.mem.append(self.page, self.values([number] * count))
            self.state += [number] * count
        elif what == "rows" and size:
            self.mem.update(self.page, number, rows=[where % size])
            self.state[where % size] = number
        elif size:
            self.mem.update(self.page, self.values([number] * size))
            self.state = [number] * size

    def check(self):
        wanted = [self.old.get(row, value) for row, value in enumerate(self.state)] + self.own
        assert torch.equal(self.page.tensor, self.values(wanted))
        assert torch.equal(self.mem.at(self.mem.tx)["a"], self.page.tensor)


@given(STEPS, st.sampled_from([1, 600]), st.integers(0, 4))
def test_what_was_staged_means_what_it_meant(drawn, width, count):
    both = Two(width, count)
    with both.mem.commit("it") as tx:
        for number, (what, on_tx, where, more) in enumerate(drawn, 1):
            if on_tx:
                both.step(tx, what, where, more, float(number))
            else:
                both.aside(what, where, more, float(number))
    both.check()
