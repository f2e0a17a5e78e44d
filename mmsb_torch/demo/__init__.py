"""The main job on real text: `python -m mmsb_torch.demo` (or `make demo`).

About 2,000 sentences are embedded with MiniLM as a chain of pages; then the query, some sentences
and nothing at all are edited, the process is killed, and the memory reopened.
"""
