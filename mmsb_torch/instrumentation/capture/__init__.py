"""Capture: what a computation does, as data.

- `export`: `capture`, a function as a graph; `fx_tape`, when only running it tells
- `ir`: a graph as canonical bytes and back; `ir_values`, `ir_ops`: what may stand in it;
  `ir_writer`, `ir_reader`: from and to `torch.fx`; `ir_bytes`: the container; `ir_trees`,
  `ir_checks`: arguments
- `interpreter`: runs a graph and records each node; `backend`: compiled regions as graphs
"""
