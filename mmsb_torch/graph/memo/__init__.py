"""Memo: the results of calls, kept by what the calls depend on.

- `keys`: the key of a call: code, arguments by value, torch's settings and modes
- `recall`: whether a call is the one before again, told without a key
- `results`: what a call returned as tensors and texts, and back as new tensors
- `shelf`: results in memory
- `randomness`: what a call drew from the global generators
- `checks`: what can be memoised; `explain`: why a call is a hit or a miss
- `memo`: a memoised function
"""

from .explain import Explanation
from .memo import Memo, MemoFunction

__all__ = ["Explanation", "Memo", "MemoFunction"]
