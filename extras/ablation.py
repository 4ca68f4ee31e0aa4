"""Measure what each change of the recipe gives.

    make ablation

A study starts from the report's recipe and adds one change after another, up to the modern recipe.
Then it takes single changes out of the modern recipe, and tries others in addition. Each run is a
training by train.py, evaluated on the validation images only, and one row of ablation.csv. A run
that the CSV already has is not repeated, one that was interrupted is resumed. At the end a table
and a figure of each study are drawn from ablation.csv; `--draw` does nothing else.

The ResNet18 of these studies has 16 channels instead of 64 (0.7 M parameters), so a run takes
minutes on one thread.
"""

import argparse
import csv
import json
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
from analyze import COLOURS, describe_place, open_folder, save, write_table

ROOT = Path(__file__).resolve().parent.parent
HEADER = (
    "study", "change", "seed", "val_accuracy", "minutes", "epochs", "processor", "threads",
    "precision",
)  # fmt: skip

# Each study: options of train.py that all its runs have, the number of seeds, and the changes by
# name. A change gives the options in which its runs differ from the modern recipe; it may also set
# "epochs", for example to compare at equal time. "+" stands for: and all changes above.
STUDIES = {
    "mlp": {
        "base": {"model": "mlp", "epochs": 60},
        "seeds": 5,
        "changes": {
            "report": {"recipe": "report"},
            "+ padding 1": {"recipe": "report", "padding": 1},
            "+ batches of 256": {"recipe": "report", "padding": 1, "batch_size": 256},
            "+ Muon": {},  # now it is the modern recipe
            "modern − padding 1": {"padding": 4},
            "modern, AdamW": {"optimizer": "adamw"},
            "modern, padding 2": {"padding": 2},
            "modern, flips without crop": {"padding": 0},
            "modern, no augmentation": {"padding": 0, "flip": 0},
            "modern, label smoothing 0.1": {"label_smoothing": 0.1},
        },
    },
    "resnet18": {
        "base": {"model": "resnet18", "width": 16, "epochs": 8},
        "seeds": 3,
        "changes": {
            "report": {"recipe": "report"},
            "+ padding 1": {"recipe": "report", "padding": 1},
            "+ no dropout": {"recipe": "report", "padding": 1, "dropout": 0},
            "+ SGD, one cycle": {"batch_size": 128, "optimizer": "sgd", "label_smoothing": 0,
                                 "pixels": 28},
            "+ label smoothing 0.1": {"batch_size": 128, "optimizer": "sgd", "pixels": 28},
            "+ Muon, batches of 256": {"pixels": 28},
            "+ 16, then 28 pixels": {},  # now it is the modern recipe
            "modern − padding 1": {"padding": 4},
            "modern − no dropout": {"dropout": 0.3},
            "modern − label smoothing 0.1": {"label_smoothing": 0},
            "modern − Muon, batches of 256": {"batch_size": 128, "optimizer": "sgd"},
            "modern, padding 2": {"padding": 2},
            "modern, flips without crop": {"padding": 0},
            "modern, no augmentation": {"padding": 0, "flip": 0},
            "modern, label smoothing 0.2": {"label_smoothing": 0.2},
            "modern, mixup 0.2": {"mixup": 0.2},
            "modern, AdamW": {"optimizer": "adamw"},
        },
    },
}  # fmt: skip


def run(study, change, seed, options, args):
    """Train one network; return its row, or None if it failed."""
    name = re.sub(r"[^\w.+]+", "-", f"{study} {change} {seed}".replace("−", "minus"))
    command = [sys.executable, ROOT / "train.py", "--resume", "--no-test", "--seed", str(seed)]
    command += ["--runs", args.runs, "--name", name]
    command += ["--threads", str(args.threads), "--data-dir", args.data_dir]
    for key, value in options.items():
        command += ["--" + key.replace("_", "-"), str(value)]
    with open(Path(args.runs) / f"{name}.txt", "w", encoding="utf-8") as output:
        if subprocess.run(command, stdout=output, stderr=output, check=False).returncode:
            print(f"{name} failed; see {output.name}", file=sys.stderr, flush=True)
            return None
    folder = Path(args.runs) / name
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    # As in train.py, the best accuracy is that at the last resolution.
    last = [float(row["val_accuracy"]) for row in log if row["pixels"] == log[-1]["pixels"]]
    minutes = sum(float(row["seconds"]) for row in log) / 60
    place = [config[key] for key in ("device_name", "threads", "precision")]
    return study, change, seed, f"{max(last):.6f}", f"{minutes:.2f}", options["epochs"], *place


def list_jobs(args, done):
    """Return study, change, seed and options of the runs that are not done.

    Args:
        args: options of the command line.
        done: set of (study, change, seed); the seed is a string.
    """
    jobs = []
    for name in args.studies:
        study = STUDIES[name]
        # Runs of another length are a study of their own, in the folder names and in the CSV.
        shown = f"{name}-{args.epochs}epochs" if args.epochs else name
        for seed in range(args.seeds or study["seeds"]):  # the first seed of all changes first
            for change, new in study["changes"].items():
                options = {**study["base"], **new}
                if args.epochs:
                    options["epochs"] = args.epochs
                if args.only in change and (shown, change, str(seed)) not in done:
                    jobs.append((shown, change, seed, options))
    return jobs


def read_done(path):
    """Return (study, change, seed) of each row of an ablation.csv; none if there is no file."""
    if not path.exists():
        return set()
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:  # and Excel's BOM
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != HEADER:
            raise data.UserError(f"{path}: its first row is not {','.join(HEADER)}")
        return {(row["study"], row["change"], row["seed"]) for row in reader}


def average_seeds(file):
    """Read the rows of an ablation.csv and average them over the seeds.

    The interval is that of Student's t with the standard deviation pooled over all changes of a
    study: the few seeds of one change alone could not tell it. Minutes compare only where
    processor, threads and precision are the same: they are the median of the runs at the place
    where most runs of the study ran, NaN if none did.

    Returns:
        A list of dictionaries with study, change, accuracy, half (of the 95 % interval), minutes
        and seeds, in the file's order.
    """
    studies = {}  # study: change: list of (accuracy, minutes, place)
    for row in csv.DictReader(file):
        place = describe_place(row | {"device_name": row["processor"]})
        accuracy = float(row["val_accuracy"])
        if not 0 <= accuracy <= 1 or not row["change"]:
            raise ValueError(f"there is no change with a val_accuracy of {accuracy}")
        run_of_row = (accuracy, float(row["minutes"]), place)
        studies.setdefault(row["study"], {}).setdefault(row["change"], []).append(run_of_row)
    result = []
    for study, changes in studies.items():
        places = [place for runs in changes.values() for *_, place in runs]
        usual = max(places, key=places.count)
        accuracies = {change: [run[0] for run in runs] for change, runs in changes.items()}
        freedom = sum(len(a) - 1 for a in accuracies.values())
        deviation = np.nan
        if freedom:
            deviation = np.sqrt(sum(np.var(a) * len(a) for a in accuracies.values()) / freedom)
        for change, runs in changes.items():
            minutes = [minutes for _, minutes, place in runs if place == usual]
            row = {"study": study, "change": change, "accuracy": np.mean(accuracies[change])}
            row["half"] = stats.t.ppf(0.975, freedom) * deviation / np.sqrt(len(runs))
            row |= {"minutes": np.median(minutes) if minutes else np.nan, "seeds": len(runs)}
            result.append(row)
    return result


def tabulate(rows, folder, name):
    """Write a table with one row per change of a study."""
    table = []
    for row in rows:
        half = "" if np.isnan(row["half"]) else f" ± {100 * row['half']:.2f}"
        minutes = "–" if np.isnan(row["minutes"]) else f"{row['minutes']:.1f}"
        accuracy = f"{100 * row['accuracy']:.2f}{half} %"
        cells = {"change": row["change"], "validation accuracy": accuracy, "minutes": minutes}
        table.append(cells | {"seeds": row["seeds"]})
    write_table(table, folder, name)


def plot(rows, folder, name):
    """Show validation accuracy and training time of each change of a study, side by side."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 1.2 + 0.27 * len(rows)), sharey=True, width_ratios=[3, 1],
        layout="constrained",
    )  # fmt: skip
    for y, row in enumerate(rows):
        # Added to the report's recipe, taken out of the modern one, or tried on top of that.
        kind = 0 if row["change"][0] in "r+" else 1 if "−" in row["change"] else 2
        left.errorbar(100 * row["accuracy"], y, xerr=100 * row["half"], fmt="os^"[kind],
                      color=COLOURS[(0, 6, 2)[kind]], capsize=3)  # fmt: skip
    bars = right.barh(range(len(rows)), [row["minutes"] for row in rows], 0.6, color="lightgrey")
    right.bar_label(bars, fmt="%.1f", padding=3)
    right.margins(x=0.25)
    left.set_yticks(range(len(rows)), [row["change"] for row in rows])
    left.invert_yaxis()
    left.grid(alpha=0.3)
    left.set(xlabel="validation accuracy (%)")
    right.set(xlabel="minutes of training")
    seeds = max(row["seeds"] for row in rows)
    title = f"mean of {seeds} seeds and 95 % interval" if seeds > 1 else "one seed"
    figure.suptitle(f"{rows[0]['study']}: {title}")
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
    add("--studies", nargs="+", choices=STUDIES, default=list(STUDIES), help="what to measure")
    add("--only", default="", help="only changes whose name contains this")
    add("--seeds", type=number, help="seeds of each change (default: the study's own number)")
    add("--epochs", type=number, help="epochs of all runs (default: the study's own number)")
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
    jobs = list_jobs(args, done)
    print(f"{len(done)} runs are in {out}, {len(jobs)} are to be done", flush=True)
    if args.list:
        for study, change, seed, options in jobs:
            print(f"{study:10} {change:30} seed {seed}  {options}")
        return
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
            print(*row[:5], sep=", ", flush=True)
    if out.exists():
        draw(out, open_folder(args.figures))
    if failed:
        raise data.UserError(f"{failed} runs failed; the same command tries them again")


if __name__ == "__main__":
    data.run_script(main)
