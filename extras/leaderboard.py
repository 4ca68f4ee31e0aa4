"""Tabulate all runs, and show our networks beside the data set's leaderboard.

    python extras/leaderboard.py

Writes a table of all runs (runs.md) and a table of the leaderboard (leaderboard.md).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
from analyze import find_runs, open_folder, pick_runs, write_table

# 15 of the 38 rows of the table "Benchmark" of github.com/zalandoresearch/fashion-mnist: the test
# accuracies that their authors submitted, not verified by the maintainers of the data set. So they
# give a scale, but no places.
LEADERBOARD = (
    ("WRN40-4", 0.967),
    ("WRN-28-10 + Random Erasing", 0.963),
    ("WRN-28-10", 0.959),
    ("Dual path network", 0.957),
    ("DenseNet-BC", 0.954),
    ("DENSER", 0.953),
    ("MobileNet", 0.950),
    # In its code, github.com/kefth/fashion-mnist, layer4 is commented out.
    ("ResNet18 (without layer4: 2.8 M parameters)", 0.949),
    ("CNN, optional shortcuts + random erasing", 0.947),
    ("2 Conv + 3 FC", 0.934),
    ("HOG + SVM", 0.926),
    ("2 Conv + pooling", 0.916),
    ("XGBoost", 0.898),
    ("MLP 256-128-100", 0.8833),
    ("Human performance", 0.835),
)


def tabulate_runs(runs, folder):
    """One row per run, with all that was measured."""
    rows = []
    for run in runs:
        accuracy = interval = latency = speed = latency_machine = "–"
        if run.evaluation:
            low, high = run.interval
            accuracy, interval = f"{100 * run.accuracy:.2f} %", f"{100 * low:.2f}–{100 * high:.2f}"
            latency, latency_machine = f"{run.latency:.2f} ms", run.latency_machine
            speed = f"{run.images_per_second:,.0f}"
        done = len(run.log)
        row = {
            "run": run.name,
            "network": run.model,
            "recipe": run.recipe,
            "width": run.width,
            "seed": run.seed,
            "test accuracy": accuracy,
            "95 % interval": interval,
            # The validation images may have been trained on, too.
            "validation": f"{100 * run.best_validation:.2f} %" if run.best_validation else "–",
            "epochs": str(done) if done == run.epochs else f"{done} of {run.epochs}",
            "minutes": f"{run.minutes:.1f}",
            "trained on": run.machine,
            "latency, batch 1": latency,
            "images/s at batch 256": speed,
            "evaluated on": latency_machine,
        }
        rows.append(row)
    write_table(rows, folder / "runs.md")


def collect_entries(runs):
    """Return name, test accuracy and source of the leaderboard's entries, of each network with the
    report's recipe and with ours, and of runs on all training images; the highest accuracy first.
    """
    tested = [run for run in runs if run.evaluation]
    on_all = [run for run in tested if run.on_all]
    ours = {run.name: run.accuracy for run in (*pick_runs(tested), *on_all)}
    entries = [(name, accuracy, "ours") for name, accuracy in ours.items()]
    entries += [(name, accuracy, "leaderboard") for name, accuracy in LEADERBOARD]
    return sorted(entries, key=lambda entry: -entry[1])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--runs", nargs="+", default=["runs", "results"], help="folders of runs")
    add("--out", default="figures", help="folder of the tables")
    args = parser.parse_args()
    runs = find_runs(args.runs)
    folder = open_folder(args.out)
    if runs:
        tabulate_runs(runs, folder)
    else:
        print(f"there is no run in {' or '.join(args.runs)}")
    entries = collect_entries(runs)
    rows = [
        {"network": name, "test accuracy": f"{100 * accuracy:.2f} %", "from": source}
        for name, accuracy, source in entries
    ]
    write_table(rows, folder / "leaderboard.md")


if __name__ == "__main__":
    data.run_script(main)
