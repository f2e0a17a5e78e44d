"""Capture: what torch executes, and what a computation does, as data.

- `mode`: the dispatch mode that hands every operation of a scope to one handler
- `schema`: what an operation does to its arguments, by its schema
- `frames`, `trace`: which user function, line and module an operation belongs to
- `values`, `tape`: the tensors and calls of a scope, and which depends on which
- `export`: `capture`, a function as a graph; `fx_tape`, when only running it tells
- `ir`: a graph as canonical bytes and back; `ir_values`, `ir_ops`: what may stand in it;
  `ir_writer`, `ir_reader`: from and to `torch.fx`; `ir_bytes`: the container; `ir_trees`,
  `ir_checks`: arguments
- `interpreter`: runs a graph and records each node; `backend`: compiled regions as graphs
"""
