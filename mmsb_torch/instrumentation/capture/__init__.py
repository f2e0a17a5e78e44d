"""Seeing what torch executes.

- `mode`: the dispatch mode that hands every operation of a scope to one handler
- `schema`: what an operation does to its arguments, by its schema
- `frames`, `trace`: which user function, line and module an operation belongs to
- `values`, `tape`: the tensors and calls of a scope, and which depends on which
"""
