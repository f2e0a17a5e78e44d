"""Memo: the results of calls, kept by what the calls depend on.

- `keys`: the key of a call: code, arguments by value, torch's settings and modes
- `recall`: whether a call is the one before again, told without a key
- `results`: what a call returned as tensors and texts, and back as new tensors
- `shelf`: results in memory; `kept`: there and on disk; `ahead`: read before one asks
- `randomness`: what a call drew from the global generators
- `checks`: what can be memoised; `explain`: why a call is a hit or a miss
- `tally`: what is counted; `report`: what it comes to, for people
- `function`: a memoised function; `memo`: those of a memory
"""

from .explain import Explanation
from .function import MemoFunction
from .memo import Memo
from .report import Report

__all__ = ["Explanation", "Memo", "MemoFunction", "Report"]
