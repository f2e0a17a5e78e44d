"""A memory that makes values in part wherever that is right, whatever the clock says."""

import pytest


@pytest.fixture
def mem(row_mem):
    return row_mem
