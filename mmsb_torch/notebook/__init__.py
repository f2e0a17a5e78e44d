"""The notebook's door: `%load_ext mmsb_torch`, incremental cells, `%mmsb ...`.

- `variables`: what variables hold, as plain data and tensors, and back
- `history`: the variables after each tracked cell
- `definitions`: the functions and values that a cell names, and what differs in them
- `witness`: which operations ran in a cell, which were reused, and why
- `summary`: the line below a cell; `live`: the line while it runs
- `session`: one notebook; `commands`: what `%mmsb` does
- `extension`: what IPython is told
"""

from mmsb_torch.notebook.extension import load_ipython_extension, unload_ipython_extension

__all__ = ["load_ipython_extension", "unload_ipython_extension"]
