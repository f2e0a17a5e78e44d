"""Memo: the results of calls, kept by what the calls depend on.

- `keys`: the key of a call: code, arguments by value, torch's settings and modes
- `recall`: whether a call is the one before again, told without a key
- `results`: what a call returned as tensors and texts, and back as new tensors
- `shelf`: results in memory
- `randomness`: what a call drew from the global generators
- `memo`: a memoised function
"""

from .memo import Explanation, Memo, MemoFunction

__all__ = ["Explanation", "Memo", "MemoFunction"]
