"""A pipeline on real text: MiniLM over sentences in batches, in processes of its own, one after another."""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.table import Table

SENTENCES, BATCH, ROUNDS = 128, 16, 3
SCRIPT = f"""
import sys, time, torch
import mmsb_torch as mmsb
from mmsb_torch.demo import corpus, encoder
torch.set_num_threads(1)
how, path = sys.argv[1:]
tokenizer, model = encoder.load()
batches = encoder.tokenise(tokenizer, corpus.sentences({SENTENCES})).split({BATCH})
model(batches[0])
with mmsb.open(path, compaction=False) as mem:
    embed = model if how == "plain" else mem.memo(lambda model, ids: model(ids))
    if how == "ahead":
        mem.memo.prefetch(embed).wait()
    begun = time.perf_counter()
    for ids in batches:
        model(ids) if how == "plain" else embed(model, ids)
    print(time.perf_counter() - begun)
"""
ROWS = {
    "plain": "plain",
    "first": "memoised, nothing kept yet",
    "second": "a second process, results on disk",
    "ahead": "the same, read ahead before the loop",
}


def table() -> Table:
    """Seconds of the loop alone; loading the model is left out."""
    shown = Table(title=f"{SENTENCES} sentences through MiniLM, batches of {BATCH}; medians")
    for column in ("what", "seconds", "of plain"):
        shown.add_column(column, justify="left" if column == "what" else "right")
    times = {how: [] for how in ROWS}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            for how, found in times.items():
                found.append(_run(how, Path(folder) / "pipeline.mmsb"))
    for how, text in ROWS.items():
        ratio = statistics.median(
            ours / plain for ours, plain in zip(times[how], times["plain"], strict=True)
        )
        shown.add_row(text, f"{statistics.median(times[how]):.3f}", f"{ratio:.4f}")
    return shown


def _run(how: str, path: Path) -> float:
    command = [sys.executable, "-c", SCRIPT, how, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)
