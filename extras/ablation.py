"""Measure what each part of the default recipe gives at the same training time.

    make ablation

Each row is the default with one change: something taken out of it, or something else tried. All of
these changes cost about the same time: with SGD or AdamW, an epoch is 4 % shorter than with Muon.
The last row is the report's recipe in as many epochs. Each run is a training by train.py or
transform.py, evaluated on the validation images only, and one row of ablation.csv. A run that the
CSV already has is not repeated, one that was interrupted is resumed. At the end a table and a
figure are drawn from ablation.csv; `--draw` does nothing else.

The ResNet18 has 16 channels instead of 64 (0.7 M parameters), so that a run takes minutes on one
thread of a CPU.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
from analyze import COLOURS, open_folder, read_run, save, write_table

ROOT = Path(__file__).resolve().parent.parent
HEADER = (
    "study", "change", "seed", "val_accuracy", "minutes", "epochs", "processor", "threads",
    "precision",
)  # fmt: skip


STUDY = "equal-time"  # in the CSV; published ones have other studies, too
BASE = "--model resnet18 --width 16 --epochs 10"
SEEDS = {"default": 5, "SGD, rate 0.1": 1, "SGD, rate 0.4": 1}  # others: 3
# The options of each change, after those of BASE: of train.py, --transform of transform.py.
CHANGES = {
    "default": "",
    "SGD": "--optimizer sgd --lr 0.2",
    "SGD, rate 0.1": "--optimizer sgd --lr 0.1",
    "SGD, rate 0.4": "--optimizer sgd --lr 0.4",
    "AdamW": "--optimizer adamw",
    "cosine schedule": "--schedule cosine",
    "no label smoothing": "--label-smoothing 0",
    "padding 0": "--padding 0",
    "padding 2": "--padding 2",
    "padding 4": "--padding 4",
    "dropout 0.3": "--dropout 0.3",
    "mixup 0.2": "--mixup 0.2",
    "random erasing": "--transform erasing",
    "rotation": "--transform rotation",
    "brightness": "--transform brightness",
    "report's recipe": "--recipe report",
}


def run(change, seed, args):
    """Train one network; return its row, or None if it failed."""
    name = re.sub(r"[^\w.+]+", "-", f"{change} {seed}")
    options = CHANGES[change].split()
    script = "extras/transform.py" if "--transform" in options else "train.py"
    command = [sys.executable, ROOT / script, *BASE.split(), *options, "--seed", str(seed)]
    command += ["--resume", "--no-test", "--runs", args.runs, "--name", name]
    command += ["--device", "cpu", "--threads", str(args.threads), "--data-dir", args.data_dir]
    with open(Path(args.runs) / f"{name}.txt", "w", encoding="utf-8") as output:
        if subprocess.run(command, stdout=output, stderr=output, check=False).returncode:
            print(f"{name} failed; see {output.name}", file=sys.stderr, flush=True)
            return None
    trained = read_run(Path(args.runs) / name)
    accuracy, minutes = f"{trained.best_validation:.6f}", f"{trained.minutes:.2f}"
    machine = [trained.config[key] for key in ("device_name", "threads", "precision")]
    return STUDY, change, seed, accuracy, minutes, trained.epochs, *machine


def read_done(path):
    """Return (change, seed), as text, of the rows of this study in an ablation.csv; none if there
    is no file."""
    if not path.exists():
        return set()
    text = path.read_text(encoding="utf-8-sig", errors="replace")  # and Excel's BOM
    reader = csv.DictReader(text.splitlines())
    if tuple(reader.fieldnames or ()) != HEADER:
        raise data.UserError(f"{path}: its first row is not {','.join(HEADER)}")
    if not text.endswith("\n"):  # the next row would be added to it
        raise data.UserError(f"{path}: its last row does not end with a new line")
    return {(row["change"], row["seed"]) for row in reader if row["study"] == STUDY}


def half_interval(groups, group):
    """Return half of the 95 % interval of the mean of a group, by Student's t; NaN if unknown.

    Three seeds hardly tell a standard deviation, so that of all groups is pooled. Only a group
    whose own is more than three times the median keeps its own, and is not in the pool.

    Args:
        groups: lists of accuracies, one for each change.
        group: one of them.
    """
    groups = [g for g in groups if len(g) > 1]
    if not groups:
        return np.nan
    limit = 3 * np.median([np.std(g, ddof=1) for g in groups])
    if len(group) > 1 and np.std(group, ddof=1) > limit:
        groups = [group]
    else:
        groups = [g for g in groups if np.std(g, ddof=1) <= limit]
    freedom = sum(len(g) - 1 for g in groups)
    deviation = np.sqrt(sum(np.var(g) * len(g) for g in groups) / freedom)
    return stats.t.ppf(0.975, freedom) * deviation / np.sqrt(len(group))


def average_seeds(file):
    """Read the rows of an ablation.csv and average them over the seeds. Their minutes are left out:
    they compare only where one machine, without other work, made all of them.

    Returns:
        A list of dictionaries with study, change, accuracy, half (of the 95 % interval) and seeds,
        in the file's order.
    """
    studies = {}  # study: change: list of accuracies
    for row in csv.DictReader(file):
        accuracy = float(row["val_accuracy"])
        if not 0 <= accuracy <= 1 or not row["change"]:
            raise ValueError(f"there is no change with a val_accuracy of {accuracy}")
        studies.setdefault(row["study"], {}).setdefault(row["change"], []).append(accuracy)
    return [
        {
            "study": study,
            "change": change,
            "accuracy": np.mean(accuracies),
            "half": half_interval(changes.values(), accuracies),
            "seeds": len(accuracies),
        }
        for study, changes in studies.items()
        for change, accuracies in changes.items()
    ]


def tabulate(rows, folder, name):
    """Write a table with one row per change of a study."""
    table = []
    for row in rows:
        half = "" if np.isnan(row["half"]) else f" ± {100 * row['half']:.2f}"
        cells = {
            "change": row["change"],
            "validation accuracy": f"{100 * row['accuracy']:.2f}{half} %",
            "seeds": row["seeds"],
        }
        table.append(cells)
    write_table(table, folder / f"{name}.md")


def plot(rows, folder, name):
    """Show the validation accuracy of each change of a study. A dotted line is at the accuracy of
    the first."""
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.27 * len(rows)), layout="constrained")
    accuracy, half = (100 * np.array([row[key] for row in rows]) for key in ("accuracy", "half"))
    axis.errorbar(accuracy, range(len(rows)), xerr=half, fmt="o", color=COLOURS[0], capsize=3)
    axis.axvline(accuracy[0], color="grey", ls=":")
    axis.set_yticks(range(len(rows)), [row["change"] for row in rows])
    axis.invert_yaxis()
    axis.grid(alpha=0.3)
    axis.set(xlabel="validation accuracy (%)")
    fewest, most = min(row["seeds"] for row in rows), max(row["seeds"] for row in rows)
    seeds = f"{fewest} to {most}" if fewest < most else f"{most}"
    figure.suptitle(f"{rows[0]['study']}: mean and 95 % interval, seeds: {seeds}")
    save(figure, folder, name)


def draw(path, folder):
    """Draw the table and the figure of each study in an ablation.csv."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = average_seeds(file)
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise data.UserError(f"{path}: {type(error).__name__}: {error}") from None
    if not rows:
        raise data.UserError(f"{path}: there is no row to draw")
    for study in dict.fromkeys(row["study"] for row in rows):
        mine = [row for row in rows if row["study"] == study]
        tabulate(mine, folder, f"ablation_{study}")
        plot(mine, folder, f"ablation_{study}.png")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    number, add = data.number(int, 1, 10_000), parser.add_argument
    add("--only", default="", help="only changes whose name contains this")
    add("--seeds", type=number, help="seeds of each change; None: 3, of some changes 5 or 1")
    add("--jobs", type=number, default=os.cpu_count(), help="runs at the same time")
    add("--threads", type=number, default=1, help="CPU threads of each run")
    add("--list", action="store_true", help="show the runs, start none")
    add("--runs", default="runs/ablation", help="folder of the runs")
    add("--data-dir", default="data", help="folder of the data set")
    add("--out", default="runs/ablation.csv", help="file to add the rows to")
    add("--figures", default="figures", help="folder of the tables and figures")
    add("--draw", action="store_true", help="draw what --out has, start no run")
    args = parser.parse_args()
    out = Path(args.out)
    if args.draw:
        draw(out, open_folder(args.figures))
        return

    done = read_done(out)
    seeds = {name: args.seeds or SEEDS.get(name, 3) for name in CHANGES if args.only in name}
    if not seeds:
        raise data.UserError(f"--only {args.only}: no change has this in its name")
    jobs = [(name, seed) for name in seeds for seed in range(seeds[name])]
    jobs = [(name, seed) for name, seed in jobs if (name, str(seed)) not in done]
    jobs.sort(key=lambda job: job[1])  # the first seed of all changes first
    print(f"{len(done)} runs of this study are in {out}, {len(jobs)} are to be done", flush=True)
    if args.list:
        for change, seed in jobs:
            print(f"{change:30} seed {seed}  {BASE} {CHANGES[change]}")
        return
    data.load(args.data_dir, train=True)  # downloaded now, not by several runs at the same time
    Path(args.runs).mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        for row in pool.map(lambda job: run(*job, args), jobs):
            if row is None:
                failed += 1
                continue
            rows = [row] if out.exists() else [HEADER, row]
            with open(out, "a", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)
            print(*row[1:5], sep=", ", flush=True)
    if out.exists():
        draw(out, open_folder(args.figures))
    if failed:
        raise data.UserError(f"{failed} runs failed; the same command tries them again")


if __name__ == "__main__":
    data.run_script(main)
