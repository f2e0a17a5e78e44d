"""Training with a memory.

- `frozen`: what a frozen backbone gives for a row is computed once
"""

from mmsb_torch.training.frozen import cache_frozen

__all__ = ["cache_frozen"]
