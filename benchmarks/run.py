"""`make bench`: every table, medians of interleaved runs, with the ratio to the floor beside each.

Timings on shared machines are noisy: the ratios within one run are what to look at.
"""

import argparse
import platform

import bench_append
import bench_arrow
import bench_codecs
import bench_follow
import bench_frozen
import bench_graph
import bench_history
import bench_import
import bench_log
import bench_memo
import bench_merge
import bench_notebook
import bench_peers
import bench_pipeline
import bench_record
import bench_rows
import bench_rows_graph
import bench_sentences
import bench_track
import bench_update
import torch
from rich.console import Console

TABLES = {
    "update": bench_update.table,
    "append": bench_append.table,
    "merge": bench_merge.table,
    "bits": bench_merge.bits,
    "graph": bench_graph.table,
    "rows": bench_rows.table,
    "frozen": bench_frozen.table,
    "sentences": bench_sentences.table,
    "record": bench_record.table,
    "memo": bench_memo.table,
    "pipeline": bench_pipeline.table,
    "notebook": bench_notebook.table,
    "cells": bench_notebook.history,
    "answers": bench_peers.answers,
    "hits": bench_peers.hits,
    "rows_graph": bench_rows_graph.table,
    "log": bench_log.states,
    "commits": bench_log.small,
    "history": bench_history.history,
    "peers": bench_history.peers,
    "synced": bench_log.synced,
    "dense": bench_log.dense,
    "opening": bench_log.opening,
    "follow": bench_follow.table,
    "codecs": bench_codecs.table,
    "forms": bench_codecs.forms,
    "arrow": bench_arrow.table,
    "track": bench_track.table,
    "import": bench_import.table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}")
    chosen = parser.parse_args().tables or list(TABLES)
    console = Console(width=120, highlight=False)
    torch.set_num_threads(1)
    console.print(
        f"python {platform.python_version()}, torch {torch.__version__}, one thread, "
        f"{platform.machine()}"
    )
    for name in chosen:
        console.print(TABLES[name]())


if __name__ == "__main__":
    main()
