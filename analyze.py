"""Draw the report's figures and tabulate its networks, from what train.py and evaluate.py wrote.

    python analyze.py

Reads every run in the folders --runs (config.json, log.csv, steps.csv, evaluation.json,
predictions.csv; no weights) and writes figures (PNG) and a table (Markdown) into --out.

Each plot_… function draws one figure. To see how, read main(), at the end, the section on reading
runs, and one figure, such as plot_errors(); the others can be read when they are needed.
"""

import argparse
import io
import json
import re
import statistics
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle
from sklearn.calibration import calibration_curve
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

import data
from models import MODELS

RESULTS = Path(__file__).resolve().parent / "results"  # folder of the published runs
REPORT_ACCURACY = {"mlp": 0.851, "resnet18": 0.950, "resnet34": 0.949}  # on the test images
# Class i has colour i in every figure; neighbours also differ in lightness, for greyscale print.
COLOURS = (
    "#1f4e9c", "#f2b134", "#2e8b57", "#e58fb1", "#7a4fa3",
    "#9fd3e8", "#c0392b", "#a9c25d", "#5c4033", "#f08a4b",
)  # fmt: skip
SHORT = ("T-shirt", *data.CLASSES[1:-1], "Boot")  # where there is little room
# The networks in the order of models.py and two of your own; any further one is grey.
NETWORK_COLOURS = dict(zip(MODELS, ("#b5651d", "#16407f", "#7cc4d8", "#7a2f5d", "#8aa63f"),
                           strict=False))  # fmt: skip
BIN_EDGES = np.linspace(0, 1, 16)  # of the probabilities, for the calibration
# Entries of config.json that may differ between the seeds of a run.
NOT_SETTINGS = ("seed", "git", "python", "torch", "resumed", "device_name", "threads")


# ---- Reading runs


def read_csv(path, **columns):
    """Read columns of numbers as a structured array; None if there is no file. After ``log =
    read_csv(path, epoch=int)``, log["epoch"] is a column and log[0] a row."""
    if not path.exists():
        return None
    # utf-8-sig: Excel may put a byte-order mark before the text.
    header, *lines = path.read_text(encoding="utf-8-sig").splitlines()
    if not lines:
        raise ValueError(f"{path.name} has no row")
    wanted = [header.split(",").index(name) for name in columns]
    return np.loadtxt(lines, dtype=list(columns.items()), delimiter=",", usecols=wanted, ndmin=1)


def read_run(folder):
    """Read the files of a run. What comes from a missing file is None; only config.json and log.csv
    must be there."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    path = folder / "evaluation.json"
    evaluation = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    log = read_csv(folder / "log.csv", epoch=int, train_accuracy=float, val_accuracy=float,
                   seconds=float)  # fmt: skip
    if log is None:
        raise ValueError("there is no log.csv; train.py writes it after the first epoch")
    latency = evaluation["latency"] if evaluation else None
    # A run may have been resumed on another machine.
    environments = [config, *config.get("resumed", [])]
    machines = dict.fromkeys(describe_machine(config | env) for env in environments)
    parent = folder.resolve().parent
    own = parent != RESULTS
    return SimpleNamespace(
        folder=folder,
        own=own,  # the user's own run, not a published one
        name=f"{parent.name}/{folder.name}" if own else folder.name,  # "runs/mlp" or "mlp"
        config=config,  # options and environment
        model=config["model"],
        recipe=config["recipe"],
        width=config["width"],
        label_smoothing=config["label_smoothing"],
        mixup=config.get("mixup") or 0,  # None, or missing in runs by earlier code: off
        seed=config["seed"],
        parameters=config["parameters"],
        # Equal for the seeds of the same options: NAME, NAME-seed1, NAME-seed2 …
        settings={k: v for k, v in config.items() if k not in NOT_SETTINGS}
        | {"name": re.sub(r"-seed\d+$", "", folder.name)},
        epochs=config["epochs"],  # planned; len(log) are done
        on_all=config["train_on"] == "all",  # also trained on the validation images
        machine=" then ".join(machines),  # processor, threads, precision
        colour=NETWORK_COLOURS.get(config["model"], "grey"),
        log=log,  # one row per epoch; log["seconds"] is a column
        minutes=log["seconds"].sum() / 60,  # with the validation
        # 0 if the run was also trained on the validation images.
        best_validation=np.nan_to_num(log["val_accuracy"]).max(),
        steps=read_csv(folder / "steps.csv", step=int, train_loss=float),
        evaluation=evaluation,
        accuracy=evaluation["accuracy"] if evaluation else None,
        interval=evaluation["accuracy_95"] if evaluation else None,
        latency=latency["batch_1_ms"] if latency else None,
        images_per_second=latency["large_batch_images_per_second"] if latency else None,
        latency_machine=describe_machine(latency) if latency else None,
        predictions=read_csv(folder / "predictions.csv", index=int, true=int, predicted=int,
                             probability=float),
    )  # fmt: skip


def describe_machine(facts):
    """Return processor, threads and precision as text. Times are comparable only if it is equal."""
    # What a GPU does in a second hardly depends on the CPU's threads.
    threads = f"{facts['threads']} threads, " if facts.get("device", "cpu") == "cpu" else ""
    precision = facts.get("precision", "float32")  # evaluate.py always computes in float32
    return f"{facts['device_name']}, {threads}{precision}"


def find_runs(folders):
    """Read the runs in some folders, sorted by network and name."""
    runs = []
    for folder in folders:
        for config in sorted(Path(folder).glob("*/config.json")):
            path = config.parent
            try:
                runs.append(read_run(path))
            except Exception as error:  # whatever a damaged file leads to
                print(f"left out: {path}: {type(error).__name__}: {error}")
    order = [*MODELS, *sorted(run.model for run in runs)]
    return sorted(runs, key=lambda run: (order.index(run.model), run.name))


def find_seeds(run, runs):
    """Return this run and its other seeds. They are named like it and differ from it at most in
    NOT_SETTINGS; all are the user's own, or all are published."""
    return [r for r in runs if r.settings == run.settings and r.own == run.own]


def list_accuracies(run, runs):
    """Return the test accuracies in percent of a run's seeds, one per seed. If this run's seed ran
    twice, this run counts."""
    tested = [r for r in (*find_seeds(run, runs), run) if r.evaluation]
    return [*{r.seed: 100 * r.accuracy for r in tested}.values()]


def pick_runs(runs):
    """Pick one run of each network and --recipe, those of the report's recipe last.

    Tested runs come before others, the user's own before published ones, then one that is named
    like its network, then the best.
    """

    def preference(run):
        return bool(run.evaluation), run.own, run.folder.name == run.model, run.best_validation

    groups = {}
    for run in runs:
        groups.setdefault((run.recipe == "report", run.model), []).append(run)
    picked = [max(group, key=preference) for group in groups.values()]
    return sorted(picked, key=lambda run: run.recipe == "report")  # False comes before True


# ---- Shared by the figures


def open_folder(path):
    """Create the folder of the figures and set matplotlib up to draw into it."""
    plt.switch_backend("Agg")  # needs no screen
    mpl.rcParams["text.parse_math"] = False  # a $ in a run's name is a dollar sign
    Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def save(figure, folder, name):
    png = io.BytesIO()
    figure.savefig(png, dpi=110, bbox_inches="tight")
    data.write_file(folder / name, png.getvalue())
    plt.close(figure)
    print(f"drawn: {folder / name}")


def show(axis, image, title="", low=0, high=255):
    """Show a grey image without ticks; low is black, high is white."""
    axis.imshow(np.asarray(image), cmap="gray", vmin=low, vmax=high)
    axis.set_title(title, fontsize=9)
    axis.set(xticks=[], yticks=[])


def set_log_ticks(axis, factors=(1,)):
    """Give a logarithmic x or y axis the ticks 1, 10, 100 … times factors, without exponents."""
    axis.set_major_locator(mpl.ticker.LogLocator(subs=factors))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter("")


def line_style(run):
    """A run's curve has the colour of its network and is dashed for the report's recipe."""
    dashes = "--" if run.recipe == "report" else "-"
    marker = "." if len(run.log) == 1 else ""  # one point has no line
    return {"color": run.colour, "ls": dashes, "marker": marker, "label": run.name}


# ---- Figures 1 to 4: the data


def plot_samples(images, labels, folder):
    """Figure 1: eight training images of each class."""
    figure, axes = plt.subplots(10, 8, figsize=(8, 10))
    for i, row in enumerate(axes):
        for axis, image in zip(row, images[labels == i][:8], strict=True):
            show(axis, image)
        row[0].set_ylabel(f"{i} {data.CLASSES[i]}", rotation=0, ha="right", va="center")
    figure.subplots_adjust(wspace=0.05, hspace=0.05)
    save(figure, folder, "fig1_samples.png")


def scatter_classes(axis, points, labels):
    """Scatter points N×2 in the colours of their classes, each class's number at its median."""
    for i in range(10):
        mine = points[labels == i]
        axis.plot(*mine.T, ".", ms=3, color=COLOURS[i], alpha=0.7, label=f"{i} {data.CLASSES[i]}")
        box = {"boxstyle": "circle,pad=0.2", "fc": "white", "ec": COLOURS[i], "lw": 1.5}
        axis.text(*np.median(mine, axis=0), str(i), ha="center", va="center", fontsize=9, bbox=box)
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), markerscale=5, fontsize=9)


def plot_pca(images, labels, folder):
    """Figure 2: the first two principal components of the pixels."""
    n = 5000  # drawn, so that single points can be seen
    pixels = images.flatten(1).numpy() / 255
    pca = PCA(2, svd_solver="covariance_eigh").fit(pixels)
    figure, axis = plt.subplots(figsize=(9, 6.5))
    scatter_classes(axis, pca.transform(pixels[:n]), labels[:n].numpy())
    first, second = 100 * pca.explained_variance_ratio_
    axis.set_xlabel(f"first principal component ({first:.0f} % of the variance)")
    axis.set_ylabel(f"second principal component ({second:.0f} %)")
    axis.set_title(f"PCA of {len(images):,} training images, {n:,} of them drawn")
    save(figure, folder, "fig2_pca.png")


def plot_tsne(images, labels, folder, n):
    """Figure 3: t-SNE (van der Maaten & Hinton 2008) of the pixels of the first n images."""
    pixels = images[:n].flatten(1).numpy() / 255
    points = TSNE(2, init="pca", perplexity=30, random_state=0).fit_transform(pixels)
    figure, axis = plt.subplots(figsize=(9, 6.5))
    scatter_classes(axis, points, labels[:n].numpy())
    axis.set(xticks=[], yticks=[])
    axis.set_title(f"t-SNE of the first {n:,} training images (perplexity 30, seed 0)")
    save(figure, folder, "fig3_tsne.png")


def plot_augmentation(images, folder):
    """Figure 4: the report's crop, flip and normalisation of one image, step by step."""
    image = images[:1]  # an ankle boot: its two sides differ
    row, column = 7, 1
    offset = torch.tensor([[row, column]])
    cropped = data.crop_and_flip(image, offset, torch.tensor([False]), padding=4)
    flipped = data.crop_and_flip(image, offset, torch.tensor([True]), padding=4)
    figure, axes = plt.subplots(1, 5, figsize=(12, 2.9), width_ratios=[28, 36, 28, 28, 28])
    show(axes[0], image[0], "28×28, 0 … 255")
    show(axes[1], np.pad(image[0], 4), "pad by 4: 36×36,\nchoose one of 9×9 crops")
    show(axes[2], cropped[0], "crop to 28×28")
    show(axes[3], flipped[0], "flip (half of all images)")
    show(axes[4], data.preprocess(flipped)[0, 0], "normalise: −1 … 1", -1, 1)
    for axis in axes[:-1]:
        axis.annotate("→", (1.03, 0.5), xycoords="axes fraction", fontsize=20, va="center")
    crop, whole = (column - 0.5, row - 0.5), (3.5, 3.5)
    axes[1].add_patch(Rectangle(crop, 28, 28, fill=False, ec=COLOURS[1], lw=2.5))
    axes[1].add_patch(Rectangle(whole, 28, 28, fill=False, ec="white", ls=":"))
    bar = axes[4].inset_axes((1.05, 0, 0.06, 1))
    figure.colorbar(axes[4].images[0], cax=bar, ticks=[-1, 0, 1])
    figure.subplots_adjust(wspace=0.25)
    save(figure, folder, "fig4_augmentation.png")


# ---- Figures 5 and 6, and accuracy over minutes: the training


def plot_loss(runs, folder):
    """Figure 5: training loss by step.

    Losses with different label smoothing or mixup are not comparable: each pair of amounts has its
    own panel.
    """
    pairs = sorted({(run.label_smoothing, run.mixup) for run in runs})
    figure, axes = plt.subplots(1, len(pairs), figsize=(1 + 5 * len(pairs), 4.8), sharex=True,
                                squeeze=False, layout="constrained")  # fmt: skip
    for axis, (smoothing, mixup) in zip(axes[0], pairs, strict=True):
        for run in runs:
            if (run.label_smoothing, run.mixup) == (smoothing, mixup):
                step, loss = run.steps["step"], run.steps["train_loss"]
                # At i, the mean of the last tenth of the values up to it.
                smooth = [loss[i - i // 10 : i + 1].mean() for i in range(len(loss))]
                axis.plot(step, loss, color=run.colour, lw=0.5, alpha=0.25)
                axis.plot(step, smooth, lw=1.8, **line_style(run))
        axis.set_title(f"label smoothing {smoothing:g}, mixup {mixup:g}")
        axis.set(xlabel="step", ylabel="cross-entropy (nats)", xscale="log", yscale="log")
        axis.margins(y=0.15)  # so that ticks are in view
        set_log_ticks(axis.xaxis)
        set_log_ticks(axis.yaxis, (1, 2, 5))
        axis.grid(alpha=0.3)
    figure.suptitle("Training loss by step (bold: mean of the last tenth of all steps so far)")
    figure.legend(loc="outside lower center", ncols=6)
    save(figure, folder, "fig5_loss.png")


def plot_accuracy(runs, folder):
    """Figure 6: training and validation accuracy by epoch."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), sharey=True, layout="constrained")
    for axis, column in zip(axes, ("train_accuracy", "val_accuracy"), strict=True):
        for run in runs:
            axis.plot(run.log["epoch"], 100 * run.log[column], **line_style(run))
        axis.set(xlabel="epoch", xscale="log")  # 10 epochs beside 133
        set_log_ticks(axis.xaxis, (1, 2, 5))
        axis.grid(alpha=0.3)
    # The y axis begins 10 points below the lowest of the curves' highest points, so that all of
    # these are in view. A best_validation of 0: there was no validation.
    highest = [min(run.log["train_accuracy"].max(), run.best_validation or 1) for run in runs]
    axes[0].set(title="training (augmented images)", ylabel="accuracy (%)")
    axes[1].set(title="validation", ylim=(max(0, 100 * min(highest) - 10), 100))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    save(figure, folder, "fig6_accuracy.png")


def points_over_minutes(runs):
    """Choose up to ten sets of options: the user's own, and the best of the published ones that ran
    on the same machine as most of them, because only their times are comparable.

    Returns:
        A list of (minutes of the run, mean test accuracy of its seeds in percent, run); the run is
        the first by name of the seeds whose times compare.
    """
    tested = [run for run in runs if run.evaluation]
    published = [run for run in tested if not run.own]
    usual = statistics.mode(run.machine for run in published or tested)
    comparable = [run for run in tested if run.own or run.machine == usual]
    points = []
    for run in comparable:
        if run is find_seeds(run, comparable)[0]:  # each set of options once
            points.append((run.minutes, np.mean(list_accuracies(run, tested)), run))
    return sorted(points, key=lambda point: (point[2].own, point[1]))[-10:]


def plot_accuracy_over_minutes(points, folder):
    """Test accuracy over training time, with a marker for each machine."""
    machines = dict.fromkeys(run.machine for _, _, run in points)
    markers = dict(zip(machines, "oDs^vPX<>d", strict=False))
    figure, axis = plt.subplots(figsize=(8, 5.5), layout="constrained")
    for machine, marker in markers.items():
        axis.plot([], [], marker, color="grey", label=machine)  # for the legend
    for minutes, accuracy, run in points:
        axis.plot(minutes, accuracy, markers[run.machine], ms=7, color=run.colour)
        # The names of the user's own runs stand above their points, the others below.
        y, va = (7, "bottom") if run.own else (-7, "top")
        axis.annotate(run.name, (minutes, accuracy), (0, y), textcoords="offset points",
                      rotation=90, ha="center", va=va, fontsize=9)  # fmt: skip
    colours = {run.model: run.colour for _, _, run in points}
    for model, accuracy in REPORT_ACCURACY.items():
        if model in colours:
            label = f"the report's {model}: {100 * accuracy:.1f} %"
            axis.axhline(100 * accuracy, color=colours[model], ls=":", label=label)
    axis.set(xlabel="minutes of training", ylabel="test accuracy (%)", xscale="log")
    set_log_ticks(axis.xaxis, (1, 2, 5))
    axis.margins(x=0.12, y=0.2)  # room for the names
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    save(figure, folder, "accuracy_over_minutes.png")


# ---- Errors: figures 7, 8 and others


def count_confusion(predictions):
    """Confusion matrix 10×10 of a predictions.csv; rows are the true classes."""
    return confusion_matrix(predictions["true"], predictions["predicted"], labels=range(10))


def plot_errors(run, folder):
    """Figure 7: the errors of each true class, stacked by the class predicted instead."""
    errors = count_confusion(run.predictions)
    np.fill_diagonal(errors, 0)  # the correct predictions
    total = errors.sum(1)
    figure, axis = plt.subplots(figsize=(10, 5))
    for j, colour in enumerate(COLOURS):
        below = errors[:, :j].sum(1)
        # One call for each predicted class, on top of the classes before it.
        bars = axis.bar(range(10), errors[:, j], width=0.75, bottom=below, color=colour,
                        ec="white", lw=0.8, label=f"{j} {data.CLASSES[j]}")  # fmt: skip
        numbers = np.where(errors[:, j] > 0.035 * total.max(), str(j), "")  # where there is room
        box = {"fc": "white", "ec": "none", "pad": 1}
        axis.bar_label(bars, numbers, label_type="center", fontsize=8, bbox=box)
    axis.bar_label(bars, total)  # above the last bars, those of class 9, where the stacks end
    axis.set_xticks(range(10), [f"{i}\n{name}" for i, name in enumerate(SHORT)], fontsize=9)
    axis.set(xlabel="true class", ylabel="wrong test images", ylim=(0, 1.08 * max(total.max(), 1)))
    axis.set_title(f"{run.name}: errors of each true class by predicted class")
    axis.legend(title="predicted as", fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    save(figure, folder, "fig7_errors.png")


def plot_wrong(run, images, wrong, folder, name):
    """The 24 most confident of some wrong predictions, given as rows of predictions.csv."""
    shown = wrong[np.argsort(-wrong["probability"], kind="stable")][:24]
    figure, axes = plt.subplots(3, 8, figsize=(10, 5.3))
    for axis in axes.flat:
        axis.axis("off")
    for axis, row in zip(axes.flat, shown, strict=False):
        title = f"{SHORT[row['true']]}?\n{SHORT[row['predicted']]} {100 * row['probability']:.0f} %"
        show(axis, images[row["index"]], title)
    figure.suptitle(
        f"{run.name}: {len(shown)} most confident of {len(wrong)} errors: "
        "label? prediction and its probability"
    )
    figure.tight_layout()
    save(figure, folder, name)


def plot_confusion(run, folder):
    """Confusion matrix of the test images, shaded by the square root of the count."""
    confusion = count_confusion(run.predictions)
    figure, axis = plt.subplots(figsize=(8, 7))
    shades = {"norm": mpl.colors.PowerNorm(0.5)}
    ConfusionMatrixDisplay(confusion, display_labels=SHORT).plot(
        ax=axis, cmap="Blues", colorbar=False, xticks_rotation=45, im_kw=shades
    )
    accuracy = 100 * confusion.trace() / confusion.sum()
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.set_title(f"{run.name}: confusion on the test set, accuracy {accuracy:.2f} %")
    save(figure, folder, "confusion.png")


def calibration(predictions):
    """Expected calibration error: how far the mean probability and the accuracy of a bin are apart,
    averaged over all images (Guo et al. 2017, arXiv:1706.04599, equation 3).

    Returns:
        The error as a fraction, and arrays of each non-empty bin's mean probability and accuracy.
    """
    p = predictions["probability"]
    correct = predictions["true"] == predictions["predicted"]
    accuracy, mean = calibration_curve(correct, p, n_bins=len(BIN_EDGES) - 1)
    # It returns no counts, so the bins are made again; in both, an upper edge belongs to its bin.
    # The sum of (correct − p) in a bin is its count times (accuracy − mean).
    bin_of = np.digitize(p, BIN_EDGES[1:-1], right=True)
    return abs(np.bincount(bin_of, correct - p)).sum() / len(p), mean, accuracy


def plot_reliability(run, folder):
    """Reliability diagram: how often a prediction of some probability is correct."""
    error, mean, accuracy = calibration(run.predictions)
    figure, (top, low) = plt.subplots(2, 1, figsize=(6.5, 7), sharex=True, height_ratios=[3, 1],
                                      layout="constrained")  # fmt: skip
    top.plot([0, 1], [0, 1], color="grey", ls="--", label="perfectly calibrated")
    top.plot(mean, accuracy, "o-", color=COLOURS[0], label=run.name)
    top.set(ylabel="accuracy in the bin", xlim=(0, 1), ylim=(0, 1.02))
    top.set_title(f"{run.name}: expected calibration error {100 * error:.2f} %")
    top.legend(loc="lower right")
    low.hist(run.predictions["probability"], BIN_EDGES, color=COLOURS[0], ec="white")
    low.set(xlabel="probability of the predicted class", ylabel="test images", yscale="log")
    set_log_ticks(low.yaxis)
    top.grid(alpha=0.3)
    low.grid(alpha=0.3)
    save(figure, folder, "reliability.png")


# ---- The table


def write_table(rows, path, notes=()):
    """Write dictionaries with the same keys as a table in Markdown, with notes below."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    cells = [[str(cell).replace("|", r"\|") for cell in line] for line in lines]
    text = "".join(f"| {' | '.join(line)} |\n" for line in cells)
    text += "".join(f"\n{note}\n" for note in notes)
    data.write_file(path, text.encode(errors="replace"))
    print(f"written: {path}")


def tabulate_models(runs, folder):
    """One row per network: the report's accuracy, and ours as the mean of the seeds."""
    picked = {}
    for run in pick_runs(runs):  # the report's recipe only where there is no other
        picked.setdefault(run.model, run)
    rows, notes = [], {"Minutes": {}, "Latency": {}}  # notes: networks, by quantity and machine
    for model, run in picked.items():
        report = accuracy = latency = "–"
        if model in REPORT_ACCURACY and run.width == 64:  # the report has no other width
            report = f"{100 * REPORT_ACCURACY[model]:.1f} %"
        if run.evaluation:
            accuracies = list_accuracies(run, runs)
            accuracy = f"{np.mean(accuracies):.2f} %"
            if (n := len(accuracies)) > 1:
                accuracy += f" ({min(accuracies):.2f}–{max(accuracies):.2f}, {n} seeds)"
            latency = f"{run.latency:.2f} ms"
            notes["Latency"].setdefault(run.latency_machine, []).append(model)
        row = {
            "network": model,
            "parameters": f"{run.parameters:,}",
            "report's accuracy": report,
            "test accuracy": accuracy,
            "minutes": f"{run.minutes:.1f}",
            "latency, batch 1": latency,
        }
        rows.append(row)
        notes["Minutes"].setdefault(run.machine, []).append(model)
    lines = []
    for what, machines in notes.items():
        where = [f"{', '.join(models)} on {machine}" for machine, models in machines.items()]
        if where:
            lines.append(f"{what}: {'; '.join(where)}.")
    write_table(rows, folder / "models.md", lines)


# ---- The script


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--runs", nargs="+", default=["runs", "results"], help="folders of runs")
    add("--out", default="figures", help="folder of the figures and the table")
    add("--run", help="run whose errors are drawn; None: your run with the best validation "
        "accuracy, else the best published one")  # fmt: skip
    add("--tsne-images", type=data.number(int, 100, 60_000), default=5000,
        help="number of training images in the t-SNE")  # fmt: skip
    add("--data-dir", default="data", help="folder of the data set, downloaded if missing")
    args = parser.parse_args()
    runs = find_runs(args.runs)
    wanted = [run for run in runs if args.run is None or run.folder.name == args.run]
    with_predictions = [run for run in wanted if run.predictions is not None]
    if args.run is not None and not with_predictions:
        raise data.UserError(f"--run {args.run}: no run of that name has a predictions.csv")
    folder = open_folder(args.out)

    images, labels = data.load(args.data_dir, train=True)
    plot_samples(images, labels, folder)
    plot_pca(images, labels, folder)
    plot_tsne(images, labels, folder, args.tsne_images)
    plot_augmentation(images, folder)

    for model in MODELS:
        if not any(run.model == model for run in runs):
            print(f"{model}: there is no run of it in {' or '.join(args.runs)}")
    if runs:
        curves = pick_runs(runs)
        plot_accuracy(curves, folder)
        if with_steps := [run for run in curves if run.steps is not None]:
            plot_loss(with_steps, folder)
        tabulate_models(runs, folder)
    if any(run.evaluation for run in runs):
        plot_accuracy_over_minutes(points_over_minutes(runs), folder)

    if not with_predictions:
        print("errors: not drawn, no run has a predictions.csv (evaluate.py writes it)")
        return
    # The user's own before published ones, then the best validation accuracy.
    run = max(with_predictions, key=lambda run: (run.own, run.best_validation))
    print(f"errors: those of {run.folder}")
    images, _ = data.load(args.data_dir, train=False)
    plot_errors(run, folder)
    plot_confusion(run, folder)
    plot_reliability(run, folder)
    true, predicted = run.predictions["true"], run.predictions["predicted"]
    wrong = run.predictions[true != predicted]
    plot_wrong(run, images, wrong, folder, "most_confident_errors.png")
    # Figure 8 shows the report's pair, shirts (6) predicted as T-shirts (0).
    shirts = run.predictions[(true == 6) & (predicted == 0)]
    plot_wrong(run, images, shirts, folder, "fig8_6_as_0.png")


if __name__ == "__main__":
    data.run_script(main)
