"""Instrumentation: what a result depends on besides its inputs, and how to see it change.

- `code`: definitions, the code and values behind a recipe
- `capture`: what torch executes in a block
"""
