"""Rows of what a frozen function gives, known again in other batches.

- `batch`: the arguments of a call as rows, and what names each; `form`: a result as tensors, and back
- `kind`: batches that take one way through torch, and what is shown of their rows
- `answers`: a module's calls; `checks`: which modules; `costs`: whether it pays
- `known`: the rows that are kept; `machine`: what bits depend on beside code and numbers

Nothing here knows pages.
"""
