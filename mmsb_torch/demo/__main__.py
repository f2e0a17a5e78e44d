"""Run the demo: `python -m mmsb_torch.demo [--sentences N] [--out FOLDER]`.

The work is done in a child process, so that it can be killed with SIGKILL in the middle; a second
child reopens what it left.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import xxhash

import mmsb_torch as mmsb
from mmsb_torch.demo import corpus, encoder, show
from mmsb_torch.demo.pipeline import Pipeline, build
from mmsb_torch.demo.story import edits, run_step, watching
from mmsb_torch.device import flat_words

_STORE, _STATE, _PICTURE = "demo.mmsb", "state.json", "graph.svg"


def main() -> int:
    """Parse the arguments and run one stage, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m mmsb_torch.demo", description=__doc__)
    parser.add_argument("--sentences", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder to write to")
    parser.add_argument("--stage", choices=["work", "reopen"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage == "work":
        work(options.out, options.sentences)
        return 0
    if options.stage == "reopen":
        return reopen(options.out, options.sentences)
    return supervise(options.out, options.sentences)


def supervise(out: Path, count: int) -> int:
    """Start the work, kill it when it says it is ready, and reopen what it left."""
    if (out / _STORE).exists():
        shutil.rmtree(out / _STORE)
    out.mkdir(parents=True, exist_ok=True)
    (out / _STATE).unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "mmsb_torch.demo",
        "--out",
        str(out),
        "--sentences",
        str(count),
    ]
    worker = subprocess.Popen([*command, "--stage", "work"])  # noqa: S603 - our own module
    while not (out / _STATE).exists():
        if worker.poll() is not None:
            return worker.returncode or 1
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    show.heading(f"killed with SIGKILL (exit status {worker.returncode})")
    return subprocess.run([*command, "--stage", "reopen"], check=False).returncode  # noqa: S603


def work(out: Path, count: int) -> None:
    """Build, edit, compare, checkpoint, and wait to be killed."""
    texts = corpus.sentences(count)
    show.heading(f"{len(texts)} English sentences, embedded with MiniLM on the CPU")
    tokenizer, model = encoder.load()
    memory = mmsb.open(out / _STORE)
    pipeline = build(memory, tokenizer, model, texts)
    steps = []
    with watching(pipeline) as watcher:
        with show.progress("first run, and again to compare"):
            steps.append(run_step(pipeline, watcher, "first run", lambda: mark(memory)))
        _show_matches(pipeline, texts)
        for title, act in edits(pipeline, texts):
            show.heading(title)
            with show.progress("everything again, to compare"):
                steps.append(run_step(pipeline, watcher, title, act))
            show.say(_indented(steps[-1].why))
    show.console.print(show.table(steps))
    picture = memory.graph.save(out / _PICTURE)
    began = time.perf_counter()
    info = memory.checkpoint(keep=2)
    seconds = time.perf_counter() - began
    show.say(f"checkpoint {info.tx}: {info.nbytes / 2**20:.1f} MiB in {seconds:.2f} s; {picture}")
    if not all(step.equal for step in steps):
        raise SystemExit("a recomputed page differs from computing everything")
    temporary = out / f"{_STATE}.tmp"
    temporary.write_text(json.dumps(fingerprints(memory)))
    temporary.rename(out / _STATE)
    time.sleep(600)  # the parent kills this process


def mark(memory: mmsb.Memory) -> None:
    """Name the state before any edit."""
    with memory.commit("start"):
        pass


def reopen(out: Path, count: int) -> int:
    """Open what the killed process left; nothing may be lost or computed again."""
    expected = json.loads((out / _STATE).read_text())
    began = time.perf_counter()
    with mmsb.open(out / _STORE) as memory:
        seconds = time.perf_counter() - began
        found = fingerprints(memory)
        show.heading(f"reopened in {seconds * 1e3:.0f} ms: {memory!r}")
        same = found == expected
        show.say(
            f"  {len(found)} pages, the same bits as before the kill: {'yes' if same else 'NO'}"
        )
        tokenizer, model = encoder.load()
        pipeline = build(memory, tokenizer, model, corpus.sentences(count))
        again = fingerprints(memory)
        ran = memory.stats()["recomputed"]
        show.say(f"  recipes declared again with equal code: {ran} pages recomputed")
        show.say(_indented(str(memory.why(pipeline.top))))
    return 0 if same and again == expected and ran == 0 else 1


def fingerprints(memory: mmsb.Memory) -> dict[str, str]:
    """A digest of every page's bits, by name."""
    return {
        page.name: xxhash.xxh3_128_hexdigest(flat_words(page.tensor).cpu().numpy().tobytes())
        for page in memory.pages()
    }


def _show_matches(pipeline: Pipeline, texts: list[str]) -> None:
    for position in pipeline.top.tensor[:3].tolist():
        show.say(f"  {float(pipeline.scores.tensor[position]):.3f}  {texts[position]}")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines()[:8])


if __name__ == "__main__":
    sys.exit(main())
