"""Draw the report's figures and tabulate the runs, from what train.py and evaluate.py wrote.

    python analyze.py

Reads every run below --runs (config.json, log.csv, steps.csv, evaluation.json, predictions.csv; no
weights) and writes figures (PNG) and tables (Markdown and CSV) into --out.
"""

import argparse
import csv
import itertools
import json
from collections import defaultdict
from pathlib import Path

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
# What the report gives for each network: parameters, latency, test accuracy.
REPORT = {
    "mlp": ("1.2 M", "0.8 ms", 0.851),
    "resnet18": ("11.2 M", "3.2 ms", 0.950),
    "resnet34": ("21.8 M", "1.6 ms", 0.949),
}
# Class i has colour i in every figure; neighbours differ in lightness, too, for greyscale print.
COLOURS = (
    "#1f4e9c", "#f2b134", "#2e8b57", "#e58fb1", "#7a4fa3",
    "#9fd3e8", "#c0392b", "#a9c25d", "#5c4033", "#f08a4b",
)  # fmt: skip
SHORT = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
         "Boot")  # fmt: skip
# A network that is not named here gets the next one of the other colours.
NETWORK_COLOURS = defaultdict(
    itertools.cycle(("#7a2f5d", "#8aa63f", "#c0392b", "#555555")).__next__,
    {"mlp": "#b5651d", "resnet18": "#16407f", "resnet34": "#7cc4d8"},
)
# The entries of a config.json that are needed here. In NOT_THE_RECIPE runs of one recipe on one
# processor may differ; all other entries, also those that are not known here, tell them apart.
CONFIG = {"model": str, "recipe": str, "width": int, "label_smoothing": float, "epochs": int,
          "seed": int, "parameters": int, "device_name": str, "threads": int,
          "precision": str}  # fmt: skip
NOT_THE_RECIPE = ("name", "seed", "git", "python", "torch", "resumed")
# The columns that are needed of the CSV files, with the highest value where there is one.
LOG = dict.fromkeys(("epoch", "pixels", "train_accuracy", "val_accuracy", "seconds"), np.inf)
STEPS = {"step": np.inf, "train_loss": np.inf}
PREDICTIONS = {"index": 9999, "true": 9, "predicted": 9, "probability": 1}


# ---- Reading runs


class Run:
    """One run, read from its folder; what is read from a missing file is None.

    Raises:
        UserError: a file is not what train.py or evaluate.py writes, or no epoch is finished.
    """

    def __init__(self, folder):
        self.folder, self.name = folder, folder.name
        self.own = folder.resolve().parent != RESULTS  # the user's own run, not a published one
        self.config = read(folder / "config.json", parse_config)
        self.model = self.config["model"]
        self.log = read(folder / "log.csv", parse_table, LOG)  # one row per epoch
        self.steps = read(folder / "steps.csv", parse_table, STEPS)
        self.evaluation = read(folder / "evaluation.json", parse_evaluation)
        self.predictions = read(folder / "predictions.csv", parse_table, PREDICTIONS)
        if self.log is None:
            raise data.UserError(f"{folder}: no epoch is finished")
        self.minutes = self.log["seconds"].sum() / 60  # with the validation
        # The highest accuracy at the last resolution, at which the network is tested; 0 if the
        # validation images were trained on, too.
        last = self.log["val_accuracy"][self.log["pixels"] == self.log["pixels"][-1]]
        self.best_validation = np.nan_to_num(last).max()


def find_runs(folders):
    """Read the runs in some folders; of two with the same name the first one counts.

    Returns:
        A list of ``Run`` in the order of MODELS, then by name.
    """
    runs = {}
    for path in (p for folder in folders for p in sorted(Path(folder).glob("*/config.json"))):
        try:
            runs.setdefault(path.parent.name, Run(path.parent))
        except (data.UserError, OSError) as error:
            print(f"left out: {error}")
    order = [*MODELS, *sorted(run.model for run in runs.values())]
    return sorted(runs.values(), key=lambda run: (order.index(run.model), run.name))


def read(path, parse, *args):
    """Return ``parse(file, *args)``, or None if there is no such file."""
    if not path.exists():
        return None
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # also with Excel's BOM
            return parse(file, *args)
    except KeyError as error:
        raise data.UserError(f"{path}: {error} is missing") from None
    except (ValueError, TypeError, OverflowError, csv.Error) as error:
        raise data.UserError(f"{path}: {error}") from None


def parse_config(file):
    config = json.load(file)
    return config | {key: kind(config[key]) for key, kind in CONFIG.items()}


def parse_evaluation(file):
    """Return what the tables need: test accuracy and its interval, latency in ms, images/s."""
    result = json.load(file)
    low, high = result["accuracy_95"]
    ms, speed = (result["latency"][key] for key in ("batch_1_ms", "large_batch_images_per_second"))
    values = {"accuracy": result["accuracy"], "low": low, "high": high, "ms": ms, "speed": speed}
    return {key: float(value) for key, value in values.items()}


def parse_table(file, columns):
    """Return columns of numbers of a CSV file as a structured array, or None if it has no row.

    Args:
        columns: their names with the highest value that each may have (infinite: any).
    """
    rows = [tuple(float(row[name]) for name in columns) for row in csv.DictReader(file)]
    table = np.array(rows, [(name, float) for name in columns])
    for name, highest in columns.items():
        if highest < np.inf and not ((table[name] >= 0) & (table[name] <= highest)).all():
            raise ValueError(f"{name} is not always from 0 to {highest}")
    return table if rows else None


def group_seeds(runs):
    """Put the runs together that differ by their seed only: one recipe on one processor.

    Returns:
        A list of lists of runs, in their order.
    """
    groups = {}
    for run in runs:
        recipe = {k: str(v) for k, v in run.config.items() if k not in NOT_THE_RECIPE}
        groups.setdefault(tuple(sorted(recipe.items())), []).append(run)
    return list(groups.values())


def pick_runs(runs, report):
    """Pick one run of each network, of the report's recipe if ``report``, else of another one.

    The user's own runs come first, then one that is named like its network, then the best.

    Returns:
        A dictionary of runs by their network's name, in the order of the runs.
    """
    chosen = [run for run in runs if (run.config["recipe"] == "report") == report]
    chosen.sort(key=lambda run: (run.own, run.name == run.model, run.best_validation))
    last = {run.model: run for run in chosen}  # of each network the last one, the highest
    return {run.model: last[run.model] for run in runs if run.model in last}


def describe_place(config):
    """Where a run ran and in which precision: times compare where all of it is the same."""
    # What a GPU does in a second hardly depends on the CPU's threads.
    threads = f"{config['threads']} threads, " if config.get("device", "cpu") == "cpu" else ""
    return f"{config['device_name']}, {threads}{config['precision']}"


# ---- Shared by the figures


def open_folder(path):
    """Create the folder of the figures and set matplotlib up to draw into it."""
    plt.switch_backend("Agg")  # needs no screen
    mpl.rcParams["text.parse_math"] = False  # a $ in a run's name is a dollar sign
    Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def save(figure, folder, name):
    figure.savefig(folder / name, dpi=110, bbox_inches="tight")
    plt.close(figure)
    print(f"drawn: {folder / name}")


def show(axis, image, title="", **options):
    """Show a grey image of bytes 28×28, without ticks."""
    axis.imshow(image, cmap="gray", **({"vmin": 0, "vmax": 255} | options))
    axis.set_title(title, fontsize=9)
    axis.set(xticks=[], yticks=[])


def use_log_scale(axis, subs=(1,)):
    """Make ``axes.xaxis`` or ``axes.yaxis`` logarithmic, with the ticks 1, 10, 100 … times subs."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(mpl.ticker.LogLocator(subs=subs))
    axis.set_major_formatter("{x:,g}")  # the default writes 10² as mathematics
    axis.set_minor_formatter("")


def line_style(run):
    """A run's curve has the colour of its network and is dashed for the report's recipe."""
    dashes = "--" if run.config["recipe"] == "report" else "-"
    return {"color": NETWORK_COLOURS[run.model], "ls": dashes, "label": run.name}


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


def plot_pca(images, labels, folder, n=5000):
    """Figure 2: the first two principal components of the pixels."""
    pixels = images.flatten(1).numpy() / 255
    pca = PCA(2, svd_solver="covariance_eigh").fit(pixels)
    figure, axis = plt.subplots(figsize=(9, 6.5))
    scatter_classes(axis, pca.transform(pixels[:n]), labels[:n].numpy())
    share = 100 * pca.explained_variance_ratio_
    axis.set_xlabel(f"first principal component ({share[0]:.0f} % of the variance)")
    axis.set_ylabel(f"second principal component ({share[1]:.0f} %)")
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
    """Figure 4: crop, flip and normalisation of one image, step by step."""
    image = images[:1]  # an ankle boot: its two sides differ
    row, column = 7, 1
    offsets, flips = torch.tensor([[row, column]]), torch.tensor([True])
    cropped = data.crop_and_flip(image, offsets, ~flips, padding=4)
    flipped = data.crop_and_flip(image, offsets, flips, padding=4)
    padded = torch.nn.functional.pad(image, [4] * 4)
    steps = (
        (image, "28×28, 0 … 255", {}),
        (padded, "pad by 4: 36×36,\nchoose one of 9×9 crops", {}),
        (cropped, "crop to 28×28", {}),
        (flipped, "flip (half of all images)", {}),
        (data.preprocess(flipped)[0], "normalise: −1 … 1", {"vmin": -1, "vmax": 1}),
    )
    figure, axes = plt.subplots(1, 5, figsize=(12, 2.9), width_ratios=[28, 36, 28, 28, 28])
    for axis, (step, title, options) in zip(axes, steps, strict=True):
        show(axis, step[0], title, **options)
    for left in axes[:-1]:
        left.annotate("→", (1.03, 0.5), xycoords="axes fraction", fontsize=20, va="center")
    crop, whole = (column - 0.5, row - 0.5), (3.5, 3.5)
    axes[1].add_patch(Rectangle(crop, 28, 28, fill=False, ec=COLOURS[1], lw=2.5))
    axes[1].add_patch(Rectangle(whole, 28, 28, fill=False, ec="white", lw=1, ls=":"))
    bar = axes[4].inset_axes((1.05, 0, 0.06, 1))
    figure.colorbar(axes[4].images[0], cax=bar, ticks=[-1, 0, 1])
    figure.subplots_adjust(wspace=0.25)
    save(figure, folder, "fig4_augmentation.png")


# ---- Figures 5 and 6, and accuracy over minutes: the training


def plot_loss(runs, folder):
    """Figure 5: training loss by step. Losses with another label smoothing do not compare, so that
    each amount of it has its own panel."""
    amounts = sorted({run.config["label_smoothing"] for run in runs})
    figure, axes = plt.subplots(1, len(amounts), figsize=(1 + 5 * len(amounts), 4.8), sharex=True,
                                squeeze=False, layout="constrained")  # fmt: skip
    for run in runs:
        axis = axes[0, amounts.index(run.config["label_smoothing"])]
        step, loss = run.steps["step"], run.steps["train_loss"]
        smooth = [loss[i - i // 10 : i + 1].mean() for i in range(len(loss))]
        axis.plot(step, loss, color=NETWORK_COLOURS[run.model], lw=0.5, alpha=0.25)
        axis.plot(step, smooth, lw=1.8, **line_style(run))
    for axis, amount in zip(axes[0], amounts, strict=True):
        axis.set_title(f"label smoothing {amount:g}" if amount else "no label smoothing")
        axis.set(xlabel="step", ylabel="cross-entropy (nats)")
        use_log_scale(axis.xaxis)
        use_log_scale(axis.yaxis, (1, 2, 3, 5, 7))
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
        axis.set(xlabel="epoch")
        use_log_scale(axis.xaxis, (1, 2, 5))  # 24 epochs beside 400
        axis.grid(alpha=0.3)
    lowest = min(100 * run.best_validation or 100 for run in runs)
    axes[0].set(title="training (augmented images)", ylabel="accuracy (%)")
    axes[1].set(title="validation", ylim=(max(0, lowest - 10), 100))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    save(figure, folder, "fig6_accuracy.png")


def points_over_minutes(runs):
    """Choose what is compared in time: the ten best recipes, each with the mean of its seeds.

    Times compare within one processor only. So these are the recipes that ran where most recipes
    did, and the user's own ones wherever they ran.

    Returns:
        A list of (minutes, test accuracy in percent, processor, first run).
    """
    groups = group_seeds([run for run in runs if run.evaluation])
    places = [describe_place(group[0].config) for group in groups]
    points = []
    for group, place in zip(groups, places, strict=True):
        if group[0].own or place == max(places, key=places.count):
            minutes = np.mean([run.minutes for run in group])
            accuracy = 100 * np.mean([run.evaluation["accuracy"] for run in group])
            points.append((minutes, accuracy, place, group[0]))
    return sorted(points, key=lambda point: (point[3].own, point[1]))[-10:]


def plot_accuracy_over_minutes(points, folder):
    """Test accuracy over training time, with a marker for each processor."""
    markers = dict(zip(dict.fromkeys(point[2] for point in points), "oDs^vPX<>d", strict=False))
    figure, axis = plt.subplots(figsize=(8, 5.5), layout="constrained")
    for place, marker in markers.items():
        axis.plot([], [], marker, color="grey", label=place)
    for minutes, accuracy, place, run in points:
        axis.plot(minutes, accuracy, markers[place], ms=7, color=NETWORK_COLOURS[run.model])
        axis.annotate(run.name, (minutes, accuracy), (0, 8), textcoords="offset points",
                      ha="center", fontsize=9, bbox={"fc": "w", "ec": "w", "pad": 0})  # fmt: skip
    for model in dict.fromkeys(run.model for *_, run in points if run.model in REPORT):
        accuracy = 100 * REPORT[model][2]
        label = f"the report's {model}: {accuracy:.1f} %"
        axis.axhline(accuracy, color=NETWORK_COLOURS[model], ls=":", lw=1.2, label=label)
    use_log_scale(axis.xaxis, (1, 2, 5))
    axis.margins(x=0.12, y=0.1)
    axis.set(xlabel="minutes of training", ylabel="test accuracy (%)")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    save(figure, folder, "accuracy_over_minutes.png")


# ---- Figures 7 and 8 and more: the errors


def count_confusion(predictions):
    """Confusion matrix 10×10 of a predictions.csv; rows are the true classes."""
    return confusion_matrix(predictions["true"], predictions["predicted"], labels=range(10))


def count_errors(predictions):
    """The confusion matrix with a diagonal of zeros."""
    return count_confusion(predictions) * (1 - np.eye(10, dtype=int))


def plot_errors(run, folder):
    """Figure 7: the errors of each true class, stacked by the class predicted instead."""
    errors = count_errors(run.predictions)
    total = errors.sum(1)
    figure, axis = plt.subplots(figsize=(10, 5))
    for j, colour in enumerate(COLOURS):
        bars = axis.bar(range(10), errors[:, j], 0.75, errors[:, :j].sum(1), color=colour,
                        ec="white", lw=0.8, label=f"{j} {data.CLASSES[j]}")  # fmt: skip
        numbers = np.where(errors[:, j] > 0.035 * total.max(), str(j), "")  # where there is room
        brightness = np.dot(mpl.colors.to_rgb(colour), (0.2, 0.7, 0.1))
        axis.bar_label(bars, numbers, label_type="center", fontsize=8,
                       color="black" if brightness > 0.5 else "white")  # fmt: skip
    axis.bar_label(bars, total)  # above the last part, which ends where the stack does
    axis.set_xticks(range(10), [f"{i}\n{name}" for i, name in enumerate(SHORT)], fontsize=9)
    axis.set(xlabel="true class", ylabel="wrong test images", ylim=(0, 1.08 * max(total.max(), 1)))
    axis.set_title(f"{run.name}: errors of each true class by predicted class")
    axis.legend(title="predicted as", fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    save(figure, folder, "fig7_errors.png")


def plot_wrong(run, images, pair, folder):
    """The 24 most confident of the wrong predictions, with their probabilities.

    Args:
        pair: true and predicted class for figure 8, or None for all errors.
    """
    p = run.predictions
    if pair:
        wrong = p[(p["true"] == pair[0]) & (p["predicted"] == pair[1])]
        kind = f"{data.CLASSES[pair[0]]} predicted as {data.CLASSES[pair[1]]}"
        file = f"fig8_{pair[0]}_as_{pair[1]}.png"
    else:
        wrong = p[p["true"] != p["predicted"]]
        kind, file = "label? prediction and its probability", "most_confident_errors.png"
    shown = wrong[np.argsort(-wrong["probability"], kind="stable")][:24]
    rows = max(1, -(-len(shown) // 8))
    figure, axes = plt.subplots(rows, 8, figsize=(10, 1.6 * rows + 0.5), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, row in zip(axes.flat, shown, strict=False):
        names = f"{SHORT[int(row['true'])]}?\n{SHORT[int(row['predicted'])]} "
        title = f"{'' if pair else names}{100 * row['probability']:.0f} %"
        show(axis, images[int(row["index"])], title)
    figure.suptitle(f"{run.name}: {len(shown)} most confident of {len(wrong)} errors: {kind}")
    figure.tight_layout()
    save(figure, folder, file)


def plot_confusion(run, folder):
    """Confusion matrix of the test images, shaded by the square root of the count."""
    confusion = count_confusion(run.predictions)
    figure, axis = plt.subplots(figsize=(8, 7))
    ConfusionMatrixDisplay(confusion, display_labels=SHORT).plot(
        ax=axis, cmap="Blues", colorbar=False, xticks_rotation=45,
        im_kw={"norm": mpl.colors.PowerNorm(0.5)},
    )  # fmt: skip
    accuracy = 100 * confusion.trace() / confusion.sum()
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.set_title(f"{run.name}: confusion on the test set, accuracy {accuracy:.2f} %")
    save(figure, folder, "confusion.png")


def calibration(predictions, bins=15):
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3).

    Returns:
        The error as a fraction, and arrays of each non-empty bin's mean probability, accuracy
        and number of images.
    """
    p = predictions["probability"]
    correct = predictions["true"] == predictions["predicted"]
    accuracy, mean = calibration_curve(correct, p, n_bins=bins)  # without the empty bins
    # It does not return the counts. As there, an upper edge belongs to its bin.
    count = np.bincount(np.digitize(p, np.linspace(0, 1, bins + 1)[1:-1], right=True))
    count = count[count > 0]
    return (count * abs(mean - accuracy)).sum() / count.sum(), mean, accuracy, count


def plot_reliability(run, folder):
    """Reliability diagram: how often a prediction of some probability is correct."""
    error, mean, accuracy, _ = calibration(run.predictions)
    figure, (top, low) = plt.subplots(
        2, 1, figsize=(6.5, 7), sharex=True, height_ratios=[3, 1], layout="constrained"
    )
    top.plot([0, 1], [0, 1], color="grey", ls="--", label="perfectly calibrated")
    top.plot(mean, accuracy, "o-", color=COLOURS[0], label=run.name)
    top.set(ylabel="accuracy in the bin", xlim=(0, 1), ylim=(0, 1.02))
    top.set_title(f"{run.name}: expected calibration error {100 * error:.2f} %")
    top.legend(loc="upper left")
    low.hist(run.predictions["probability"], np.linspace(0, 1, 16), color=COLOURS[0], ec="white")
    low.set(xlabel="probability of the predicted class", ylabel="test images")
    use_log_scale(low.yaxis)
    top.grid(alpha=0.3)
    low.grid(alpha=0.3)
    save(figure, folder, "reliability.png")


# ---- Tables


def write_table(rows, folder, name):
    """Write a list of dictionaries with the same keys as Markdown and as CSV."""
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    cells = [list(rows[0]), ["---"] * len(rows[0])]
    cells += [[str(cell).replace("|", r"\|") for cell in row.values()] for row in rows]
    text = "".join(f"| {' | '.join(row)} |\n" for row in cells)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    print(f"written: {folder / name}.md and .csv")


def percent(accuracies):
    """The mean of some accuracies as text; a dash if they were not measured."""
    return f"{100 * np.mean(accuracies):.2f} %" if np.any(accuracies) else "–"


def summarize(runs):
    """What both tables tell of the runs of one recipe on one processor: means, as text."""
    tested = [run.evaluation for run in runs if run.evaluation]
    done, planned = len(runs[0].log), runs[0].config["epochs"]
    return {
        "test accuracy": percent([evaluation["accuracy"] for evaluation in tested]),
        "validation": percent([run.best_validation for run in runs]),
        "epochs": str(done) if done == planned else f"{done} of {planned}",
        "minutes": f"{np.mean([run.minutes for run in runs]):.1f}",
        "batch-1 latency": f"{np.median([e['ms'] for e in tested]):.2f} ms" if tested else "–",
        "processor": describe_place(runs[0].config),
    }


def tabulate_models(runs, folder):
    """The report's table of models beside ours: one row per network, the mean of its seeds."""
    rows, groups = [], group_seeds(runs)
    for model, run in (pick_runs(runs, report=True) | pick_runs(runs, report=False)).items():
        group = next(group for group in groups if run in group)
        ours = summarize(group)
        tests = {r.config["seed"]: 100 * r.evaluation["accuracy"] for r in group if r.evaluation}
        if len(tests) > 1:
            low, high = min(tests.values()), max(tests.values())
            ours["test accuracy"] += f" ({low:.2f}–{high:.2f}, {len(tests)} seeds)"
        parameters, latency, accuracy = "–", "–", 0
        if model in REPORT and run.config["width"] == 64:  # the report has no other width
            parameters, latency, accuracy = REPORT[model]
        row = {
            "network": model,
            "parameters (report)": f"{run.config['parameters']:,} ({parameters})",
            "report's accuracy": f"{100 * accuracy:.1f} %" if accuracy else "–",
            **{key: ours[key] for key in ("test accuracy", "validation", "epochs", "minutes")},
            "batch-1 latency (report)": f"{ours['batch-1 latency']} ({latency})",
            "processor": ours["processor"],
        }
        rows.append(row)
    write_table(rows, folder, "models")


def tabulate_runs(runs, folder):
    """One row per run, with all that was measured."""
    rows = []
    for run in runs:
        row = {"run": run.name, "network": run.model}
        row |= {key: run.config[key] for key in ("recipe", "width", "seed")}
        row |= {"test accuracy": "", "95 % interval": "–"} | summarize([run])
        row["images/s at batch 256"] = "–"
        if run.evaluation:
            low, high = 100 * run.evaluation["low"], 100 * run.evaluation["high"]
            row["95 % interval"] = f"{low:.2f}–{high:.2f}"
            row["images/s at batch 256"] = f"{run.evaluation['speed']:,.0f}"
        rows.append(row)
    write_table(rows, folder, "runs")


# ---- The script


def parse_pairs(text):
    """Read "6:0,2:4" as [(6, 0), (2, 4)]: true class and predicted class."""
    pairs = [tuple(pair.split(":")) for pair in text.split(",")]
    if not all(len(p) == 2 and p[0] != p[1] and set(p) <= set("0123456789") for p in pairs):
        raise data.UserError(f"--pairs {text} is not like 6:0,2:4 (true class:predicted class)")
    return [(int(true), int(predicted)) for true, predicted in pairs]


def frequent_pairs(predictions):
    """The report's pair, shirts predicted as T-shirts, and the three most frequent others."""
    frequent = count_errors(predictions).argsort(axis=None)[::-1][:4]
    pairs = [divmod(int(i), 10) for i in frequent]
    return [(6, 0), *[pair for pair in pairs if pair != (6, 0)][:3]]


def parse_options():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--runs", nargs="+", default=["runs", "results"], help="folders of runs, first one first")
    add("--out", default="figures", help="folder of the figures and tables")
    add("--run", help="run whose errors are drawn (default: your run with the best validation "
        "accuracy, else the published one)")  # fmt: skip
    add("--pairs", help="true:predicted classes of figure 8 (default: 6:0 and the 3 most frequent)")
    add("--tsne-images", type=int, default=5000, help="number of training images in the t-SNE")
    add("--data-dir", default="data", help="folder of the data set, downloaded if missing")
    args = parser.parse_args()
    if not 100 <= args.tsne_images <= 60_000:
        raise data.UserError("--tsne-images must be from 100 to 60000")
    args.pairs = None if args.pairs is None else parse_pairs(args.pairs)
    return args


def main():
    args = parse_options()
    runs = find_runs(args.runs)
    tested = [r for r in runs if r.predictions is not None and args.run in (None, r.name)]
    if args.run is not None and not tested:
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
        curves = [*pick_runs(runs, report=False).values(), *pick_runs(runs, report=True).values()]
        plot_accuracy(curves, folder)
        if curves := [run for run in curves if run.steps is not None]:
            plot_loss(curves, folder)
        tabulate_models(runs, folder)
        tabulate_runs(runs, folder)
    if any(run.evaluation for run in runs):
        plot_accuracy_over_minutes(points_over_minutes(runs), folder)

    if not tested:
        print("errors: not drawn, no run has a predictions.csv (evaluate.py writes it)")
        return
    run = max(tested, key=lambda run: (run.own, run.best_validation))
    print(f"errors: those of {run.folder}")
    images, _ = data.load(args.data_dir, train=False)
    plot_errors(run, folder)
    plot_confusion(run, folder)
    plot_reliability(run, folder)
    for pair in [None, *(args.pairs or frequent_pairs(run.predictions))]:
        plot_wrong(run, images, pair, folder)


if __name__ == "__main__":
    data.run_script(main)
