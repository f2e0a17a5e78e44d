"""Which bits a tensor holds, without reading them again when nobody can have written.

- `barrier`: the copy-on-write flag as a watch for writes; probed, and the only module that names
  torch's private calls for it
- `newcomers`: clears the flags when a thread begins
- `ledger`: the one owner of the flags; digests of tensors' bytes
"""

from .barrier import capability
from .evidence import Evidence, Panel
from .ledger import LEDGER, Ledger

__all__ = ["LEDGER", "Evidence", "Ledger", "Panel", "capability"]
