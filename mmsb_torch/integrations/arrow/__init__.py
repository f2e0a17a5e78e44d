"""Pages, the registry of pages and their history as Arrow tables (pyarrow, the extra `arrow`).

- `mapping`: which Arrow type carries which dtype, and the columns' layout; tensors and columns only
- `pages`: `page_to_arrow`, `arrow_to_page`
- `tables`: `registry_to_arrow`, `history_to_arrow`

docs/arrow.md has the mapping, and what shares memory with what.
"""

from mmsb_torch.integrations.arrow.pages import arrow_to_page, page_to_arrow
from mmsb_torch.integrations.arrow.tables import history_to_arrow, registry_to_arrow

__all__ = ["arrow_to_page", "history_to_arrow", "page_to_arrow", "registry_to_arrow"]
