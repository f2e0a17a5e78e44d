"""`tail`: each transaction once, when it is whole, and nothing that is not."""

import json
import signal
import subprocess
import sys
import threading

import torch

import mmsb_torch as mmsb


def numbers(lines):
    return [json.loads(line)["tx"] for line in lines.splitlines()]


def test_once_prints_what_the_log_holds(run, root):
    assert numbers(run("tail", root, "--once", "--json").out) == list(range(1, 10))
    assert numbers(run("tail", root, "--once", "--since", 6, "--json").out) == [7, 8, 9]
    assert numbers(run("tail", root, "--once", "-n", 2, "--json").out) == [1, 2]
    assert run("tail", root, "--once", "--since", 9).out == ""


def test_lines_for_programs_are_those_of_log(run, root):
    lines = [json.loads(line) for line in run("tail", root, "--once", "--json").out.splitlines()]
    assert not any(line.pop("taken_back") for line in lines)
    assert lines == run("log", root, "--json").json


def test_lines_for_people(run, root):
    lines = run("tail", root, "--once").out.splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(1, 10))
    assert lines[7].endswith("w  second  step 20")


def test_a_live_writer_is_followed_through_checkpoints(run, root):
    stop = threading.Event()

    def write():
        with mmsb.open(root) as mem:
            while not stop.is_set():
                mem.update("w", 1.0)
                if mem.tx % 4 == 0:
                    mem.page(f"page {mem.tx}", torch.zeros(2))
                    mem.checkpoint(keep=1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = run("tail", root, "--json", "-n", 12, "--interval", 0.005)
    finally:
        stop.set()
        writer.join()
    rows = [json.loads(line) for line in done.out.splitlines()]
    first = rows[0]["tx"]
    assert first > 9  # only what is new
    assert [row["tx"] for row in rows] == list(range(first, first + 12))
    made = [row for row in rows if row["pages"] != ["w"]]
    assert made
    assert all(row["pages"] == [f"page {row['tx'] - 1}"] for row in made)


def test_pages_made_before_are_named(run, root):
    with mmsb.open(root) as mem:
        mem.page("newest", torch.zeros(2))
        mem.update("newest", 1.0)
        (row,) = [
            json.loads(line)
            for line in run("tail", root, "--once", "--since", 10, "--json").out.splitlines()
        ]
    assert row["pages"] == ["newest"]


def test_ctrl_c_ends_it_well(root):
    command = [sys.executable, "-u", "-m", "mmsb_torch.cli", "tail", str(root), "--since", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        lines = [process.stdout.readline() for _ in range(9)]
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert all(lines)
    assert (out, err, process.returncode) == ("", "", 0)


def test_damage_ends_it_with_one_line(run, root, kit):
    kit.flip(kit.logs(root)[1], 140)
    done = run("tail", root, "--once", "--json")
    assert done.code == 2
    assert numbers(done.out) == [1, 2, 3, 4, 5]
    assert "damaged" in done.err
    assert done.err.count("\n") == 1


def test_taken_back_in_print(run, root):
    with mmsb.open(root) as mem:
        mem.update("w", 5.0)
        mem._router.log.take_back(10)
        rows = run("tail", root, "--once", "--since", 9, "--json").out.splitlines()
        assert [json.loads(row)["taken_back"] for row in rows] == [False, True]
        assert "was taken back" in run("tail", root, "--once", "--since", 9).out
        mem._router.log.close()
        mem._router.shut()
    mem._store.close()
