"""Kill trainings, resume them, and compare them with one that was not killed.

    make soak

Each trial starts a short training of the MLP and kills it without warning (SIGKILL), either at a
random moment or while a file is being written. Then it resumes the training. The weights and the
logs must be exactly those of the training that was not killed.
"""

import argparse
import csv
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data

TRAIN = Path(__file__).resolve().parent.parent / "train.py"


def command(run, args):
    """Return the command that starts or resumes the training in the folder ``run``."""
    return [
        sys.executable, TRAIN, "--model", "mlp", "--recipe", "report", "--no-test", "--resume",
        "--epochs", str(args.epochs), "--device", "cpu", "--threads", "1",
        "--data-dir", args.data_dir, "--runs", run.parent, "--name", run.name,
    ]  # fmt: skip


def read_logs(run):
    """Return the rows of log.csv without their seconds, and the text of steps.csv."""
    rows = list(csv.DictReader((run / "log.csv").read_text(encoding="utf-8").splitlines()))
    for row in rows:
        del row["seconds"]
    return rows, (run / "steps.csv").read_text(encoding="utf-8")


def read_outcome(run):
    """Return what must be equal: the logs without their times, and the bytes of all weights."""
    best, last = (torch.load(run / f"{name}.pt", weights_only=True) for name in ("best", "last"))
    weights = [*best["model"].values(), *last["model"].values()]
    return *read_logs(run), [weight.numpy().tobytes() for weight in weights]


def start_and_kill(run, args, seconds=math.inf, files=math.inf):
    """Start a training and kill it.

    Args:
        run: folder of the training.
        args: options of the command line.
        seconds: kill it so long after the start.
        files: or kill it while it writes a file, after so many others.

    Returns:
        Where the training was killed, for the summary.
    """
    start, written, writing = time.perf_counter(), 0, set()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command(run, args), **quiet)
    while process.poll() is None:
        before, writing = writing, {file.name for file in run.glob("*.tmp")}
        written += len(writing - before)
        if written > files or time.perf_counter() - start > seconds:
            break
        time.sleep(0.001)
    ended = process.poll() is not None
    process.kill()
    process.wait()
    if ended:
        return "not at all, it was faster"
    return "while writing a file" if any(run.glob("*.tmp")) else "elsewhere"


def try_once(number, runs, unkilled, args):
    """Kill and resume one training; return where it was killed and what is wrong afterwards."""
    run, generator = runs / f"trial-{number}", random.Random(number)
    if number % 2:  # two files are written at the start, and three or four in each epoch
        place = start_and_kill(run, args, files=generator.randrange(2 + 3 * args.epochs))
    else:
        place = start_and_kill(run, args, seconds=generator.uniform(0, unkilled["seconds"]))
    resumed = subprocess.run(
        command(run, args), capture_output=True, text=True, encoding="utf-8", check=False
    )
    if resumed.returncode:
        return place, f"it could not be resumed: {resumed.stderr}"
    return place, "" if read_outcome(run) == unkilled["outcome"] else "the results differ"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    number, add = data.number(int, 1, 10_000), parser.add_argument
    add("--kills", type=number, default=100, help="number of trials, with one kill each")
    add("--epochs", type=number, default=2, help="epochs of each training")
    add("--jobs", type=number, default=os.cpu_count(), help="trials at the same time")
    add("--data-dir", default="data", help="folder of the data set")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        runs, start = Path(folder), time.perf_counter()
        first = subprocess.run(
            command(runs / "unkilled", args), capture_output=True, text=True, encoding="utf-8",
            check=False,
        )  # fmt: skip
        if first.returncode:
            raise data.UserError(f"the training failed: {first.stderr.strip()}")
        seconds = time.perf_counter() - start
        unkilled = {"outcome": read_outcome(runs / "unkilled"), "seconds": seconds}
        equal, places = 0, Counter()
        with ThreadPoolExecutor(args.jobs) as pool:
            trials = pool.map(lambda n: try_once(n, runs, unkilled, args), range(args.kills))
            for trial, (place, problem) in enumerate(trials):
                equal += not problem
                places[place] += 1
                if problem:
                    print(f"trial {trial}, killed {place}: {problem}", flush=True)
    print(f"{equal} of {args.kills} are bit by bit equal to the training that was not killed")
    print("killed " + ", ".join(f"{place}: {count}" for place, count in places.items()))
    if equal < args.kills:
        raise data.UserError(f"{args.kills - equal} trials failed")


if __name__ == "__main__":
    data.run_script(main)
