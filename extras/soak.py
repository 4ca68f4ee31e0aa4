"""Kill trainings again and again, resume them, and compare them with one that was not killed.

    make soak

Each trial starts a short MLP run, kills it (SIGKILL: no chance to clean up) at a random moment or,
every second time, in the middle of the writing of a checkpoint, goes on with --resume, and demands
the very weights and log rows of the uninterrupted run.
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
TIMES = ("seconds", "images_per_second")


def command(args, runs, name):
    return [
        sys.executable, ROOT / "train.py", "--model", "mlp", "--recipe", "report", "--no-test",
        "--epochs", str(args.epochs), "--threads", "1", "--resume", "--data-dir", args.data_dir,
        "--runs", str(runs), "--name", name,
    ]  # fmt: skip


def outcome(run):
    """What must be the same: the weights, and the logs without their times."""
    with open(run / "log.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
    best, last = (torch.load(run / f"{name}.pt", weights_only=True) for name in ("best", "last"))
    weights = [*best["model"].values(), *last["model"].values()]
    return rows, (run / "steps.csv").read_text(), weights


def same(one, other):
    return one[:2] == other[:2] and all(
        torch.equal(a, b) for a, b in zip(one[2], other[2], strict=True)
    )


def try_once(number, args, runs, whole):
    """Start, kill, resume, compare; return whether all is the same, and where it was killed."""
    moments, name = random.Random(number), f"trial-{number}"
    run, start = runs / name, time.perf_counter()
    process = subprocess.Popen(
        command(args, runs, name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    writes = moments.randrange(2 * args.epochs) if number % 2 else None
    deadline = moments.uniform(0, whole["seconds"])
    seen, before = 0, False
    while process.poll() is None:
        writing = any((run / f"{file}.pt.tmp").exists() for file in ("last", "best"))
        seen += writing and not before
        before = writing
        if seen > writes if writes is not None else time.perf_counter() - start > deadline:
            break
        time.sleep(0.0002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    torn = any(run.glob("*.tmp"))
    again = subprocess.run(command(args, runs, name), capture_output=True, text=True, check=False)
    good = again.returncode == 0 and same(outcome(run), whole["outcome"])
    return good, "while writing" if torn else "elsewhere", again.stderr


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="trials, with one kill each")
    parser.add_argument("--epochs", type=int, default=3, help="of each run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trials at the same time")
    parser.add_argument("--data-dir", default="data", help="folder of the data set")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        runs, start = Path(folder), time.perf_counter()
        subprocess.run(command(args, runs, "whole"), check=True, capture_output=True)
        seconds = time.perf_counter() - start
        whole = {"outcome": outcome(runs / "whole"), "seconds": seconds}
        good, places = 0, {}
        with ThreadPoolExecutor(args.jobs) as pool:
            trials = pool.map(lambda n: try_once(n, args, runs, whole), range(args.kills))
            for number, (same_as_whole, place, errors) in enumerate(trials):
                good += same_as_whole
                places[place] = places.get(place, 0) + 1
                if not same_as_whole:
                    print(f"trial {number}, killed {place}: differs\n{errors}", flush=True)
    print(f"{good} of {args.kills} equal the uninterrupted run bit by bit; killed: {places}")
    if good < args.kills:
        sys.exit(1)


if __name__ == "__main__":
    main()
