"""The whole memory against the obvious model."""

import hypothesis
import pytest

from mmsb_torch.testing import MemoryMachine

TestMemoryMachine = pytest.mark.timeout(600)(MemoryMachine.TestCase)
TestMemoryMachine.settings = hypothesis.settings(
    max_examples=max(10, hypothesis.settings().max_examples // 3),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
