"""Measure what each change of the recipe gives: from the report's to the modern one and back.

    make ablation

Each study adds the changes to the report's recipe one by one, then takes each of them alone out of
the modern recipe, then tries others on top of it. Every run is a train.py of its own, evaluated on
the validation images only, with some seeds; each is one row of ablation.csv. A run that the CSV
already has is not repeated, one that was interrupted is resumed. At the end a table and a figure of
each study are drawn from ablation.csv; `--draw` does nothing else.

The ResNet18 of these studies has 16 channels instead of 64 (0.7 M parameters), so that a run takes
minutes on one thread; all runs of a study have the same number of epochs.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
from analyze import COLOURS, describe_place, open_folder, read, save, write_table

ROOT = Path(__file__).resolve().parent.parent
HEADER = (
    "study", "change", "seed", "val_accuracy", "minutes", "epochs", "processor", "threads",
    "precision",
)  # fmt: skip
SGD = {"optimizer": "sgd", "lr": 0.1, "schedule": "triangle", "weight_decay": 5e-4}
MUON = ("optimizer", "lr", "muon_lr", "batch_size")

# Study: model, number of epochs, seeds; the changes in their order as (name, options that it sets,
# options that undo it: those of the report if None, not tried if {}); and what else is tried.
STUDIES = {
    "mlp": (
        {"model": "mlp", "epochs": 60},
        range(5),
        [
            ("padding 1", ("padding",), None),
            ("weight decay 0.1", ("weight_decay",), None),
            ("batch 256, lr 0.002", ("batch_size", "lr"), None),
        ],
        {
            "padding 2": {"padding": 2},
            "flips without crop": {"augment": "flip"},
            "no augmentation": {"augment": "none"},
            "label smoothing 0.1": {"label_smoothing": 0.1},
            "random erasing 0.25": {"erase": 0.25},
            "weight average 0.999": {"ema": 0.999},
        },
    ),
    "resnet18": (
        {"model": "resnet18", "width": 16, "epochs": 8},
        range(3),
        [
            ("padding 1", ("padding",), None),
            ("no dropout", ("dropout",), None),
            ("SGD, one cycle", SGD, {}),
            ("label smoothing 0.1", ("label_smoothing",), None),
            ("random erasing 0.5", ("erase",), None),
            ("Muon", MUON, SGD | {"batch_size": 128, "muon_lr": 0.0}),
            ("resolution from 16 to 28", ("pixels",), None),
            ("pruning", ("prune",), None),
        ],
        {
            "padding 2": {"padding": 2},
            "flips without crop": {"augment": "flip"},
            "rotation by up to 10°": {"rotate": 10},
            "brightness ± 20 %": {"brightness": 0.2},
            "random erasing 0.25": {"erase": 0.25},
            "label smoothing 0.2": {"label_smoothing": 0.2},
            "weight average 0.99": {"ema": 0.99},
        },
    ),
}


def configurations(study):
    """Return the options of each run of a study by the name of its change, in order."""
    from train import RECIPES, REPORT  # noqa: PLC0415 (not needed to draw)

    fixed, _, changes, extras = STUDIES[study]
    modern = RECIPES["modern"][fixed["model"]] | fixed
    options = REPORT | fixed
    result = {"report": options}
    for name, sets, _ in changes:
        new = sets if isinstance(sets, dict) else {key: modern[key] for key in sets}
        options = options | new
        result[f"+ {name}"] = options
    if options != modern:
        raise ValueError(f"the changes of {study} do not lead to its modern recipe")
    for name, sets, undo in changes[:-1]:  # without the last one it is the line before it
        if undo != {}:
            result[f"modern − {name}"] = modern | (undo or {key: REPORT[key] for key in sets})
    return result | {f"modern, {name}": modern | new for name, new in extras.items()}


def run(study, change, seed, options, args):
    """Train one network; return its row, or None if it failed."""
    name = f"{study}-{list(configurations(study)).index(change)}-{seed}"
    command = [sys.executable, ROOT / "train.py", "--recipe", "report", "--resume", "--no-test"]
    command += ["--runs", args.runs, "--name", name, "--seed", str(seed)]
    command += ["--threads", str(args.threads), "--data-dir", args.data_dir]
    for key, value in options.items():
        command += ["--" + key.replace("_", "-"), str(value)]
    with open(Path(args.runs) / f"{name}.txt", "w") as output:
        if subprocess.run(command, stdout=output, stderr=output, check=False).returncode:
            print(f"{name} ({change}) failed; see {output.name}", file=sys.stderr)
            return None
    config = json.loads((Path(args.runs) / name / "config.json").read_text())
    with open(Path(args.runs) / name / "log.csv") as file:
        log = list(csv.DictReader(file))
    final = [epoch for epoch in log if epoch["pixels"] == log[-1]["pixels"]]
    best = max(float(epoch["val_accuracy"]) for epoch in final)
    minutes = sum(float(epoch["seconds"]) for epoch in log) / 60
    where = (config["device_name"], config["threads"], config["precision"])
    return (study, change, seed, f"{best:.6f}", f"{minutes:.2f}", options["epochs"], *where)


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
        run_of_row = (float(row["val_accuracy"]), float(row["minutes"]), place)
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
    rows = read(Path(path), average_seeds)
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
    parser.add_argument(
        "--studies", nargs="+", choices=STUDIES, default=list(STUDIES), help="which"
    )
    parser.add_argument("--only", default="", help="changes whose name contains this")
    parser.add_argument("--seeds", type=int, help="number of seeds (default: the study's own)")
    parser.add_argument("--epochs", type=int, help="of each run, for a quick look (default: the "
        "study's own; --out should then be another file)")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at the same time")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--list", action="store_true", help="show the runs, start none")
    parser.add_argument("--runs", default="runs/ablation", help="folder of the runs")
    parser.add_argument("--data-dir", default="data", help="folder of the data set")
    parser.add_argument("--out", default="results/ablation.csv", help="file to add the rows to")
    parser.add_argument("--figures", default="figures", help="folder of the tables and figures")
    parser.add_argument("--draw", action="store_true", help="draw what --out has, start no run")
    args = parser.parse_args()
    if args.draw:
        draw(args.out, open_folder(args.figures))
        return

    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    Path(args.runs).mkdir(parents=True, exist_ok=True)
    done = set()
    if out.exists():
        with open(out, newline="", encoding="utf-8-sig") as file:
            done = {(row["study"], row["change"], row["seed"]) for row in csv.DictReader(file)}
    todo = []
    for study in args.studies:
        seeds = range(args.seeds) if args.seeds else STUDIES[study][1]
        for seed in seeds:  # all changes with the first seed first: an early look at the whole
            for change, options in configurations(study).items():
                if args.only in change and (study, change, str(seed)) not in done:
                    shorter = {"epochs": args.epochs} if args.epochs else {}
                    todo.append((study, change, seed, options | shorter))
    print(f"{len(done)} runs are in {out}, {len(todo)} are to be done", flush=True)
    if args.list:
        for study, change, seed, options in todo:
            report = configurations(study)["report"]
            differs = {k: v for k, v in options.items() if report.get(k) != v}
            print(f"{study:10} {change:40} seed {seed}  {differs}")
        return
    failed = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        for row in pool.map(lambda job: run(*job, args), todo):
            if row is None:
                failed += 1
                continue
            new = not out.exists()
            with open(out, "a", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows([HEADER, row] if new else [row])
            print(*row[:5], sep=", ", flush=True)
    if out.exists():
        draw(out, open_folder(args.figures))
    if failed:
        sys.exit(f"ablation.py: {failed} runs failed")


if __name__ == "__main__":
    data.run_script(main)
