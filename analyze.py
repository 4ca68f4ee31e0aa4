"""Draw the report's figures and tables from the data and from what train.py and evaluate.py wrote.

    python analyze.py

Reads every run below --runs (config.json, log.csv, steps.csv, evaluation.json, predictions.csv;
no weights) and writes PNG figures and Markdown and CSV tables into --out. Runs in a subfolder
"trials" get a table of their own and a place in the figure of accuracy over time, no more.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

import data
from models import MODELS

# Class i has colour i in every figure; neighbours differ in lightness, too, for greyscale print.
COLOURS = (
    "#1f4e9c", "#f2b134", "#2e8b57", "#e58fb1", "#7a4fa3",
    "#9fd3e8", "#c0392b", "#a9c25d", "#5c4033", "#f08a4b",
)  # fmt: skip
SHORT = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
         "Boot")  # fmt: skip
LINES = ("-", "--", ":", "-.")
# What a config.json tells besides the recipe: the runs of one recipe share all the rest of it.
NOT_THE_RECIPE = ("name", "seed", "git", "python", "torch", "device", "device_name", "threads",
                  "processes", "resumed")  # fmt: skip

# What the report gives for each model: parameters, latency in ms, test accuracy.
REPORT = {
    "mlp": ("1.2 M", 0.8, 0.851),
    "resnet18": ("11.2 M", 3.2, 0.950),
    "resnet34": ("21.8 M", 1.6, 0.949),
}
# From the table "Benchmark" of github.com/zalandoresearch/fashion-mnist: test accuracies as their
# authors submitted them, not verified by the maintainers of the data set.
LEADERBOARD = (
    ("WRN40-4", 0.967),
    ("WRN-28-10 + Random Erasing", 0.963),
    ("WRN-28-10", 0.959),
    ("Dual path network", 0.957),
    ("DenseNet-BC", 0.954),
    ("DENSER", 0.953),
    ("MobileNet", 0.950),
    ("ResNet18", 0.949),
    ("CNN, optional shortcuts + random erasing", 0.947),
    ("2 Conv + 3 FC", 0.934),
    ("HOG + SVM", 0.926),
    ("2 Conv + pooling", 0.916),
    ("XGBoost", 0.898),
    ("MLP 256-128-100", 0.8833),
    ("Human performance", 0.835),
)


def find_runs(folders):
    """Read the runs below some folders; of two with one name the first counts.

    Returns:
        A list of dictionaries with name, config and log, and with steps, evaluation and
        predictions, each None where its file is missing; ordered by model, then by name.
    """
    runs = {}
    for config_path in (
        p for folder in folders for p in sorted(Path(folder).glob("*/config.json"))
    ):
        folder = config_path.parent
        try:
            run = {
                "name": folder.name,
                "config": json.loads(config_path.read_text()),
                "log": read_csv(folder / "log.csv"),
                "steps": read_csv(folder / "steps.csv"),
                "evaluation": None,
                "predictions": read_csv(folder / "predictions.csv"),
            }
            if (folder / "evaluation.json").exists():
                run["evaluation"] = json.loads((folder / "evaluation.json").read_text())
            run["model"] = run["config"]["model"]
        except (OSError, ValueError, KeyError) as error:
            print(f"{folder}: left out, its files cannot be read ({error})")
            continue
        if run["log"] is None:
            print(f"{folder}: left out, no epoch of it is finished")
            continue
        runs.setdefault(folder.name, run)
    return sorted(runs.values(), key=lambda run: (MODELS.index(run["model"]), run["name"]))


def group_seeds(runs):
    """Put the runs of one recipe together: they differ by the seed and where they ran, no more.

    Returns:
        A list of pairs: a label, such as "resnet18 (3 seeds)", and its runs, in their order.
    """
    groups = {}
    for run in runs:
        groups.setdefault(describe_recipe(run["config"]), []).append(run)
    return [
        (group[0]["name"] + (f" ({n} seeds)" if (n := count_seeds(group)) > 1 else ""), group)
        for group in groups.values()
    ]


def count_seeds(runs):
    """How many different seeds some runs have."""
    return len({run["config"]["seed"] for run in runs})


def read_csv(path):
    """A CSV file's columns as arrays by name, or None if there is no file or no row in it."""
    if not path.exists() or len(path.read_text().splitlines()) < 2:
        return None
    return np.atleast_1d(np.genfromtxt(path, delimiter=",", names=True))


def describe_place(config):
    """Where a run ran and in which precision: times compare where all of it is the same."""
    # What a GPU does in a second hardly depends on the CPU's threads.
    threads = f"{config['threads']} threads, " if config.get("device", "cpu") == "cpu" else ""
    return f"{config['device_name']}, {threads}{config['precision']}"


def describe_recipe(config, without=()):
    """All that a config.json tells of a run's recipe, as text, but for some of its options."""
    left_out = (*NOT_THE_RECIPE, *without)
    return json.dumps({k: v for k, v in config.items() if k not in left_out}, sort_keys=True)


def best_validation(run):
    """A run's highest validation accuracy at its last resolution, that of the test; 0 if it was
    trained on the validation images, too."""
    log = run["log"]
    return np.nan_to_num(log["val_accuracy"][log["pixels"] == log["pixels"][-1]]).max()


def training_minutes(run):
    """Time of all epochs of a run, validation included."""
    return run["log"]["seconds"].sum() / 60


def save(figure, folder, name):
    figure.savefig(folder / name, dpi=110, bbox_inches="tight")
    plt.close(figure)
    print(f"drawn: {folder / name}")


def show(axis, image, title="", **options):
    axis.imshow(image, cmap="gray", **({"vmin": 0, "vmax": 255} | options))
    axis.set_title(title, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])


# ---- Figures 1 to 4: the data


def draw_samples(images, labels, folder):
    """Figure 1: eight training images of each class."""
    figure, axes = plt.subplots(10, 8, figsize=(8, 10))
    for i, row in enumerate(axes):
        for axis, image in zip(row, images[labels == i][:8], strict=True):
            show(axis, image)
        row[0].set_ylabel(f"{i} {data.CLASSES[i]}", rotation=0, ha="right", va="center")
    figure.subplots_adjust(wspace=0.05, hspace=0.05)
    save(figure, folder, "fig1_samples.png")


def scatter_classes(axis, points, labels):
    """Scatter points N×2 in the colours of their classes, each class named at its median."""
    for i in range(10):
        axis.scatter(*points[labels == i].T, s=5, color=COLOURS[i], alpha=0.6, linewidths=0)
    medians = np.array([np.median(points[labels == i], axis=0) for i in range(10)])
    width, height = np.ptp(points, axis=0)
    for k, i in enumerate(order := np.argsort(medians[:, 1])):
        for j in order[:k]:  # a name moves up where it would cover another one
            x, y = medians[i] - medians[j]
            if abs(x) < 0.12 * width and y < 0.045 * height:
                medians[i, 1] = medians[j, 1] + 0.045 * height
        box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": COLOURS[i], "lw": 1.5}
        axis.text(*medians[i], data.CLASSES[i], ha="center", va="center", fontsize=9, bbox=box)


def draw_pca(images, labels, folder, n=5000):
    """Figure 2: the first two principal components of the pixels."""
    pixels = images.flatten(1).numpy() / 255
    pca = PCA(2, svd_solver="randomized", random_state=0).fit(pixels)
    figure, axis = plt.subplots(figsize=(9, 6.5))
    scatter_classes(axis, pca.transform(pixels[:n]), labels[:n].numpy())
    share = 100 * pca.explained_variance_ratio_
    axis.set_xlabel(f"first principal component ({share[0]:.0f} % of the variance)")
    axis.set_ylabel(f"second principal component ({share[1]:.0f} %)")
    axis.set_title(f"PCA of {len(images):,} training images, {n:,} of them drawn")
    save(figure, folder, "fig2_pca.png")


def draw_tsne(images, labels, folder, n):
    """Figure 3: t-SNE (van der Maaten & Hinton 2008) of the pixels of the first n images."""
    pixels = images[:n].flatten(1).numpy() / 255
    points = TSNE(2, init="pca", perplexity=30, random_state=0).fit_transform(pixels)
    figure, axis = plt.subplots(figsize=(9, 6.5))
    scatter_classes(axis, points, labels[:n].numpy())
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(f"t-SNE of the first {n:,} training images (perplexity 30, seed 0)")
    save(figure, folder, "fig3_tsne.png")


def draw_augmentation(images, folder):
    """Figure 4: crop, flip and normalisation of one image, step by step."""
    image = images[:1]  # an ankle boot: its two sides differ
    row, column = 7, 1
    offsets, flips = torch.tensor([[row, column]]), torch.tensor([True])
    cropped = data.apply_augmentation(image, offsets, ~flips, padding=4)
    flipped = data.apply_augmentation(image, offsets, flips, padding=4)
    padded = torch.nn.functional.pad(image, [4] * 4)
    steps = (
        (image, "28×28, 0 … 255", {}),
        (padded, "pad by 4: 36×36,\nchoose one of 9×9 crops", {}),
        (cropped, "crop to 28×28", {}),
        (flipped, "flip (half of all images)", {}),
        (data.normalize(flipped)[0], "normalise: −1 … 1", {"vmin": -1, "vmax": 1}),
    )
    figure, axes = plt.subplots(1, 5, figsize=(12, 2.9), width_ratios=[28, 36, 28, 28, 28])
    for axis, (step, title, options) in zip(axes, steps, strict=True):
        show(axis, step[0], title, **options)
    crop = Rectangle((column - 0.5, row - 0.5), 28, 28, fill=False, ec=COLOURS[1], lw=2.5)
    axes[1].add_patch(crop)
    edge = Rectangle((3.5, 3.5), 28, 28, fill=False, ec="white", lw=1, ls=":")
    axes[1].add_patch(edge)
    bar = axes[4].inset_axes((1.05, 0, 0.06, 1))
    figure.colorbar(axes[4].images[0], cax=bar, ticks=[-1, 0, 1])
    for left in axes[:-1]:
        left.annotate("→", (1.03, 0.5), xycoords="axes fraction", fontsize=20, va="center")
    figure.subplots_adjust(wspace=0.25)
    save(figure, folder, "fig4_augmentation.png")


# ---- Figures 5 and 6: the training


def line_styles(runs):
    """Colour by model, line by recipe, so that they are told apart in greyscale, too.

    Yields:
        Each run, its style, and its label: empty but for the first run of a recipe.
    """
    colours = {"mlp": "#8a6d00", "resnet18": COLOURS[0], "resnet34": COLOURS[6]}
    recipes = dict.fromkeys(MODELS, 0)  # of each model, so far
    for label, group in group_seeds(runs):
        model = group[0]["model"]
        style = {"color": colours[model], "ls": LINES[recipes[model] % len(LINES)]}
        recipes[model] += 1
        for i, run in enumerate(group):
            yield run, style, "" if i else label


def draw_loss(runs, folder):
    """Figure 5: training loss by step, all runs together."""
    figure, axis = plt.subplots(figsize=(9, 5))
    for run, style, label in line_styles([r for r in runs if r["steps"] is not None]):
        step, loss = run["steps"]["step"], run["steps"]["train_loss"]
        axis.plot(step, loss, color=style["color"], lw=0.5, alpha=0.25)
        window = max(1, len(loss) // 60)
        smooth = np.convolve(loss, np.ones(window) / window, "valid")
        axis.plot(step[window - 1 :], smooth, **style, lw=1.8, label=label)
    axis.set(xlabel="step", ylabel="training loss (nats)", xscale="log", yscale="log")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.set_title("Training loss by step (thin: mean of 25 steps; bold: moving average)")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    save(figure, folder, "fig5_loss.png")


def draw_accuracy(runs, folder):
    """Figure 6: training and validation accuracy by epoch, all runs together."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), sharey=True)
    for axis, kind in zip(axes, ("train", "val"), strict=True):
        for run, style, label in line_styles(runs):
            accuracy = 100 * run["log"][f"{kind}_accuracy"]
            mark = {"marker": "o", "ms": 3} if len(accuracy) < 30 else {}
            axis.plot(run["log"]["epoch"], accuracy, **style, **mark, label=label)
        title = {"train": "training", "val": "validation"}[kind]
        axis.set(xlabel="epoch", title=title, xscale="log")  # runs of 24 epochs beside 400
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
    lowest = min(100 * best_validation(run) or 100 for run in runs)
    axes[0].set(ylabel="accuracy (%)", ylim=(max(0, lowest - 10), 100))
    axes[1].legend(loc="lower right")
    figure.subplots_adjust(wspace=0.06)
    save(figure, folder, "fig6_accuracy.png")


# ---- Figures 7 and 8 and beyond: the errors


def count_confusion(predictions):
    """Confusion matrix 10×10 of a predictions.csv; rows are the true classes."""
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (predictions["true"].astype(int), predictions["predicted"].astype(int)), 1)
    return confusion


def draw_errors(run, folder):
    """Figure 7: the errors of each true class, stacked by the class predicted instead."""
    errors = count_confusion(run["predictions"])
    np.fill_diagonal(errors, 0)
    figure, axis = plt.subplots(figsize=(10, 5))
    bottom = np.zeros(10)
    for j in range(10):
        axis.bar(range(10), errors[:, j], 0.75, bottom, color=COLOURS[j], ec="white", lw=0.8,
                 label=f"{j} {data.CLASSES[j]}")  # fmt: skip
        for i in np.flatnonzero(errors[:, j] >= 0.035 * errors.sum(1).max()):
            light = mpl.colors.rgb_to_hsv(mpl.colors.to_rgb(COLOURS[j]))[2] > 0.8
            axis.text(i, bottom[i] + errors[i, j] / 2, str(j), ha="center", va="center",
                      fontsize=8, color="black" if light else "white")  # fmt: skip
        bottom += errors[:, j]
    for i, total in enumerate(bottom):
        axis.text(i, total, f"{total:.0f}", ha="center", va="bottom", fontsize=9)
    axis.set_xticks(range(10), [f"{i}\n{name}" for i, name in enumerate(SHORT)], fontsize=9)
    axis.set(xlabel="true class", ylabel="wrong test images")
    axis.set_ylim(0, 1.08 * max(bottom.max(), 1))
    axis.set_title(f"{run['name']}: errors of each true class by predicted class")
    axis.legend(title="predicted as", fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    save(figure, folder, "fig7_errors.png")


def draw_wrong(errors, images, heading, folder, name, *, name_classes=False):
    """Draw the 24 surest of some wrong predictions, each with the probability it was given."""
    errors = errors[np.argsort(-errors["probability"], kind="stable")][:24]
    rows = max(1, -(-len(errors) // 8))
    height = 1.6 if name_classes else 1.45
    figure, axes = plt.subplots(rows, 8, figsize=(10, height * rows + 0.5), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, error in zip(axes.flat, errors, strict=False):
        title = f"{100 * error['probability']:.0f} %"
        if name_classes:
            title = f"{SHORT[int(error['true'])]}?\n{SHORT[int(error['predicted'])]} {title}"
        show(axis, images[int(error["index"])], title)
    figure.suptitle(heading)
    figure.tight_layout()
    save(figure, folder, name)


def draw_misclassified(run, images, pair, folder):
    """Figure 8: test images of one class taken for another one, the surest errors first."""
    true, predicted = pair
    p = run["predictions"]
    wrong = p[(p["true"] == true) & (p["predicted"] == predicted)]
    heading = (
        f"{run['name']}: {data.CLASSES[true]} taken for {data.CLASSES[predicted]}, "
        f"{min(len(wrong), 24)} of {len(wrong)} (probability of the wrong class)"
    )
    draw_wrong(wrong, images, heading, folder, f"fig8_{true}_as_{predicted}.png")


def draw_surest_errors(run, images, folder):
    """The test images that the network gets wrong with the highest probability, of any class."""
    p = run["predictions"]
    wrong = p[p["true"] != p["predicted"]]
    heading = f"{run['name']}: the surest of {len(wrong)} errors (label? answer, probability)"
    draw_wrong(wrong, images, heading, folder, "surest_errors.png", name_classes=True)


def plot_confusion(confusion, name):
    """Figure of a confusion matrix 10×10 (rows: true classes), shaded by the count's logarithm."""
    confusion = np.asarray(confusion)
    figure, axis = plt.subplots(figsize=(8, 7))
    axis.imshow(np.log1p(confusion), cmap="Blues")
    for i in range(10):
        for j in range(10):
            colour = "white" if confusion[i, j] > 100 else "black"
            axis.text(j, i, confusion[i, j], ha="center", va="center", color=colour, fontsize=9)
    axis.set_xticks(range(10), SHORT, rotation=45, ha="right")
    axis.set_yticks(range(10), SHORT)
    accuracy = 100 * confusion.trace() / confusion.sum()
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.set_title(f"{name}: confusion on the test set, accuracy {accuracy:.2f} %")
    return figure


def calibration(predictions, bins=15):
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3).

    Returns:
        The error as a fraction, and arrays of each non-empty bin's mean probability, accuracy
        and number of images.
    """
    hit = predictions["true"] == predictions["predicted"]
    p = predictions["probability"]
    bin_of = np.minimum((p * bins).astype(int), bins - 1)
    used = np.unique(bin_of)
    mean = np.array([p[bin_of == b].mean() for b in used])
    accuracy = np.array([hit[bin_of == b].mean() for b in used])
    count = np.array([(bin_of == b).sum() for b in used])
    return (count * abs(mean - accuracy)).sum() / count.sum(), mean, accuracy, count


def draw_reliability(run, folder):
    """Reliability diagram: how often the network is right when it says p."""
    error, mean, accuracy, count = calibration(run["predictions"])
    figure, (top, low) = plt.subplots(
        2, 1, figsize=(6.5, 7), sharex=True, height_ratios=[3, 1], layout="constrained"
    )
    top.plot([0, 1], [0, 1], color="grey", ls="--", label="perfectly calibrated")
    top.plot(mean, accuracy, "o-", color=COLOURS[0], label=run["name"])
    top.set(ylabel="accuracy in the bin", xlim=(0, 1), ylim=(0, 1.02))
    top.set_title(f"{run['name']}: expected calibration error {100 * error:.2f} %")
    top.legend(loc="upper left")
    top.grid(alpha=0.3)
    low.bar(mean, count, 0.05, color=COLOURS[0])
    low.set(xlabel="probability of the predicted class", ylabel="test images", yscale="log")
    low.grid(alpha=0.3)
    save(figure, folder, "reliability.png")


# ---- Tables


def write_table(rows, folder, name):
    """Write a list of dictionaries with the same keys as Markdown and as CSV."""
    with open(folder / f"{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(str(cell) for cell in row.values()) + " |" for row in rows]
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n")
    print(f"written: {folder / name}.md and .csv")


def tabulate_models(runs, folder, name="models"):
    """The report's table of models beside what the runs measured."""
    rows = []
    for run in runs:
        config, evaluation = run["config"], run["evaluation"]
        parameters, latency, accuracy = REPORT[run["model"]]
        given = (f" ({parameters})", f" ({latency} ms)", f" ({100 * accuracy:.1f} %)")
        # The report has no networks of another width.
        parameters, latency, accuracy = given if config["width"] == 64 else ("", "", "")
        row = {
            "run": run["name"],
            "parameters (report)": f"{config['parameters']:,}{parameters}",
            "epochs": f"{len(run['log'])} of {config['epochs']}",
            "training minutes": f"{training_minutes(run):.1f}",
            "validation accuracy": f"{100 * best_validation(run):.2f} %"
            if best_validation(run)
            else "– (trained on all)",
            "test accuracy (report)": "not evaluated",
            "95 % interval": "",
            "batch-1 latency (report)": "",
            "images/s at batch 256": "",
            "processor": describe_place(config),
        }
        if evaluation:
            low, high = (100 * x for x in evaluation["accuracy_95"])
            speed = evaluation["latency"]
            row |= {
                "test accuracy (report)": f"{100 * evaluation['accuracy']:.2f} %{accuracy}",
                "95 % interval": f"{low:.2f} to {high:.2f}",
                "batch-1 latency (report)": f"{speed['batch_1_ms']:.2f} ms{latency}",
                "images/s at batch 256": f"{speed['large_batch_images_per_second']:,.0f}",
            }
        rows.append(row)
    write_table(rows, folder, name)


def tabulate_seeds(runs, folder):
    """What recipes that were run with several seeds reach: mean, lowest and highest."""
    rows = []
    for label, group in group_seeds([run for run in runs if run["evaluation"]]):
        if count_seeds(group) < 2:
            continue
        tests = [100 * run["evaluation"]["accuracy"] for run in group]
        values = {
            "training minutes": ([training_minutes(run) for run in group], "{:.1f}"),
            "validation accuracy": ([100 * best_validation(run) for run in group], "{:.2f} %"),
            "test accuracy": (tests, "{:.2f} %"),
        }
        row = {"recipe of": label}
        for name, (numbers, form) in values.items():
            mean, low, high = (form.format(f(numbers)) for f in (np.mean, min, max))
            row[name] = f"{mean} ({low} to {high})"
        rows.append(row)
    if rows:
        write_table(rows, folder, "seeds")


def rank_in_leaderboard(runs, folder):
    """The official leaderboard with the tested runs in their places, as table and chart."""
    ours = [(r["name"], r["evaluation"]) for r in runs if r["evaluation"]]
    entries = [(name, accuracy, "official") for name, accuracy in LEADERBOARD]
    entries += [(name, evaluation["accuracy"], "ours") for name, evaluation in ours]
    entries.sort(key=lambda entry: -entry[1])
    rows = [
        {"place": i + 1, "model": name, "test accuracy": f"{100 * accuracy:.2f} %", "from": source}
        for i, (name, accuracy, source) in enumerate(entries)
    ]
    write_table(rows, folder, "leaderboard")
    figure, axis = plt.subplots(figsize=(9, 0.32 * len(entries) + 1))
    left = min(82, int(100 * entries[-1][1]) - 1)
    for y, (_, accuracy, source) in enumerate(entries):
        mine = source == "ours"
        axis.hlines(y, left, 100 * accuracy, color="lightgrey", lw=1)
        axis.plot(100 * accuracy, y, "D" if mine else "o", color=COLOURS[6 if mine else 0], ms=7)
        axis.text(100 * accuracy + 0.25, y, f"{100 * accuracy:.2f}", va="center", fontsize=8)
    axis.set_yticks(range(len(entries)), [name for name, _, _ in entries], fontsize=9)
    for tick, (_, _, source) in zip(axis.get_yticklabels(), entries, strict=True):
        tick.set_fontweight("bold" if source == "ours" else "normal")
    axis.invert_yaxis()
    axis.set(xlabel="test accuracy (%)", xlim=(left, 98))
    axis.set_title("The data set's leaderboard (dots, unverified) and our runs (diamonds)")
    save(figure, folder, "leaderboard.png")


def draw_front(runs, folder):
    """Test error over training time of all tested runs, MLPs beside ResNets; a marker for each
    processor, a line through what differs in nothing but the number of epochs (means of the seeds).
    """
    runs = [run for run in runs if run["evaluation"]]
    places = dict.fromkeys(describe_place(run["config"]) for run in runs)
    markers = {place: "oDs^v"[i % 5] for i, place in enumerate(places)}
    mlps = [run for run in runs if run["model"] == "mlp"]
    resnets = [run for run in runs if run["model"] != "mlp"]
    panels = [panel for panel in (mlps, resnets) if panel]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(11 if len(panels) == 2 else 8, 7.5), squeeze=False,
        width_ratios=[1, 2.2][-len(panels) :], layout="constrained",
    )  # fmt: skip
    last = axes.flat[-1]
    for place, marker in markers.items():
        last.plot([], [], marker, color="grey", label=place)
    if resnets:
        others = (("leaderboard", dict(LEADERBOARD)["ResNet18"]), ("report", REPORT["resnet18"][2]))
        for (name, accuracy), line in zip(others, ("--", ":"), strict=True):
            label = f"{name}: ResNet18, {100 * accuracy:.1f} %"
            last.axhline(100 - 100 * accuracy, color="grey", ls=line, lw=1, label=label)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    for axis, panel in zip(axes.flat, panels, strict=True):
        draw_front_panel(panel, markers, axis)
    figure.suptitle("Test error over training time (times compare within a processor only)")
    save(figure, folder, "front.png")


def draw_front_panel(runs, markers, axis):
    """One panel of the figure of error over time: points, lines, and the names beside them.

    Args:
        runs: tested runs.
        markers: the marker of each place that ``describe_place`` names.
        axis: axes without points, in the figure in which they stay: names are placed by pixels.
    """
    axis.set(xscale="log", xlabel="minutes of training", ylabel="test error (%)")
    labels, series = [], {}
    for run, style, label in line_styles(runs):
        minutes, error = training_minutes(run), 100 - 100 * run["evaluation"]["accuracy"]
        place = describe_place(run["config"])
        lengths = series.setdefault((describe_recipe(run["config"], ["epochs"]), place), {})
        points = lengths.setdefault(run["config"]["epochs"], [])
        # The first run of a recipe bears the recipe's name, the first on another processor its own.
        if not points:
            labels.append((label or run["name"], (minutes, error)))
        points.append((minutes, error))
        axis.plot(minutes, error, markers[place], color=style["color"], ms=6, alpha=0.8)
    for lengths in series.values():
        means = [np.mean(points, axis=0) for _, points in sorted(lengths.items())]
        axis.plot(*np.array(means).T, color="grey", lw=0.8, zorder=1)
    axis.margins(x=0.5, y=0.1)  # room for names
    axis.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
    axis.grid(alpha=0.3, which="both")
    # Names from the lowest error up, each moved up as far as those below it need.
    axis.figure.draw_without_rendering()  # the layout, which the positions on the screen depend on
    to_screen, from_screen = axis.transData.transform, axis.transData.inverted().transform
    taken = []
    for name, point in sorted(labels, key=lambda item: item[1][1]):
        x, y = to_screen(point)
        while any(-6 * len(name) < x - x2 < 6 * n2 and abs(y - y2) < 13 for x2, y2, n2 in taken):
            y += 1
        taken.append((x, y, len(name)))
        axis.annotate(name, point, from_screen((x + 12, y - 3)), fontsize=8,
                      bbox={"fc": "white", "ec": "none", "pad": 0.5, "alpha": 0.8},
                      arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "grey"})  # fmt: skip


def read_ablation(path):
    """Average the rows of an ablation.csv over the seeds.

    The interval is that of Student's t with the standard deviation pooled over all changes of a
    study, which a few seeds of one change alone could not tell. Minutes compare only where
    processor, threads and precision are the same: they are the median of those of the study's most
    frequent such place, NaN where nothing ran there.

    Returns:
        A list of dictionaries with study, change, accuracy, half (of the 95 % interval), minutes
        and seeds, in the file's order.
    """
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    groups, places = {}, {}
    for row in rows:
        row["place"] = describe_place(row | {"device_name": row["processor"]})
        groups.setdefault((row["study"], row["change"]), []).append(row)
        places.setdefault(row["study"], []).append(row["place"])
    result = []
    for (study, change), mine in groups.items():
        accuracy = np.array([float(row["val_accuracy"]) for row in mine])
        place = max(places[study], key=places[study].count)
        minutes = [float(row["minutes"]) for row in mine if row["place"] == place]
        others = [
            [float(row["val_accuracy"]) for row in g] for (s, _), g in groups.items() if s == study
        ]
        freedom = sum(len(a) - 1 for a in others)
        half = np.nan
        if freedom:
            variance = sum(np.var(a) * len(a) for a in others) / freedom
            half = stats.t.ppf(0.975, freedom) * np.sqrt(variance / len(accuracy))
        row = {"study": study, "change": change, "accuracy": accuracy.mean(), "half": half}
        minutes = np.median(minutes) if minutes else np.nan
        result.append(row | {"minutes": minutes, "seeds": len(accuracy)})
    return result


def draw_ablation(rows, folder):
    """Table and figure, one for each study, of what each change of the recipe gives."""

    def interval(row):
        return "" if np.isnan(row["half"]) else f" ± {100 * row['half']:.2f}"

    for study in dict.fromkeys(row["study"] for row in rows):
        mine = [row for row in rows if row["study"] == study]
        table = [
            {
                "": i,
                "change": row["change"],
                "validation accuracy": f"{100 * row['accuracy']:.2f}{interval(row)} %",
                "minutes": f"{row['minutes']:.1f}",
                "seeds": row["seeds"],
            }
            for i, row in enumerate(mine, 1)
        ]
        write_table(table, folder, f"ablation_{study}")
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(12, 1.2 + 0.27 * len(mine)), width_ratios=[3, 2], layout="constrained"
        )
        for i, row in enumerate(mine, 1):
            kind = 0 if row["change"][0] in "r+" else 1 if "−" in row["change"] else 2
            style = {"fmt": "os^"[kind], "color": COLOURS[(0, 6, 2)[kind]], "ms": 6, "capsize": 3}
            accuracy, half = 100 * row["accuracy"], 100 * row["half"]
            left.errorbar(accuracy, i, xerr=half, **style)
            right.errorbar(row["minutes"], accuracy, yerr=half, **style)
            right.annotate(i, (row["minutes"], accuracy), (5, 3), textcoords="offset points")
        left.set_yticks(
            range(1, len(mine) + 1), [f"{r['change']}  {i}" for i, r in enumerate(mine, 1)]
        )
        left.invert_yaxis()
        left.set(xlabel="validation accuracy (%)")
        right.set(xlabel="minutes of training, one thread", ylabel="validation accuracy (%)")
        left.grid(alpha=0.3)
        right.grid(alpha=0.3)
        seeds = max(row["seeds"] for row in mine)
        title = f"mean of {seeds} seeds and 95 % interval" if seeds > 1 else "one seed"
        figure.suptitle(f"{study}: {title}")
        save(figure, folder, f"ablation_{study}.png")


def parse_pairs(text):
    """Read "6:0,2:4" as [(6, 0), (2, 4)]: true class and predicted class.

    Raises:
        ValueError: it is not of that form.
    """
    try:
        pairs = [tuple(int(part) for part in pair.split(":")) for pair in text.split(",")]
        if all(len(p) == 2 and min(p) >= 0 and max(p) <= 9 and p[0] != p[1] for p in pairs):
            return pairs
    except ValueError:
        pass
    raise ValueError(f"--pairs {text} is not of the form 6:0,2:4 (true class:predicted class)")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--runs", nargs="+", default=["runs", "results"], help="folders of runs, first one first")
    add("--out", default="figures", help="folder of the figures and tables")
    add("--run", help="run whose errors are drawn (default: the best validation accuracy)")
    add("--pairs", help="true:predicted classes of figure 8 (default: 6:0 and the 3 most frequent)")
    add("--tsne-images", type=int, default=5000, help="training images in the t-SNE")
    add("--data-dir", default="data", help="folder of the data set, downloaded if missing")
    args = parser.parse_args(argv)
    if not 100 <= args.tsne_images <= 60_000:
        parser.error("--tsne-images must be from 100 to 60000")
    pairs = parse_pairs(args.pairs) if args.pairs else None
    mpl.use("Agg")
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)

    images, labels = data.load(args.data_dir, train=True)
    draw_samples(images, labels, folder)
    draw_pca(images, labels, folder)
    draw_tsne(images, labels, folder, args.tsne_images)
    draw_augmentation(images, folder)

    for path in (p for f in args.runs if (p := Path(f) / "ablation.csv").exists()):
        draw_ablation(read_ablation(path), folder)
    runs = find_runs(args.runs)
    trials = find_runs([Path(folder) / "trials" for folder in args.runs])
    for model in MODELS:
        if not any(run["model"] == model for run in runs):
            print(f"{model}: left out, there is no run of it in {' or '.join(args.runs)}")
    if not runs:
        return
    draw_loss(runs, folder)
    draw_accuracy(runs, folder)
    tabulate_models(runs, folder)
    tabulate_seeds(runs, folder)
    rank_in_leaderboard(runs, folder)
    if trials:
        tabulate_models(trials, folder, "trials")
    if any(run["evaluation"] for run in runs + trials):
        draw_front(runs + trials, folder)

    judged = [r for r in runs if r["predictions"] is not None and args.run in (None, r["name"])]
    if not judged:
        wanted = args.run or "any run"
        print(f"errors: left out, evaluate.py has written no predictions.csv for {wanted}")
        return
    run = max(judged, key=best_validation)
    test_images, _ = data.load(args.data_dir, train=False)
    draw_errors(run, folder)
    save(plot_confusion(count_confusion(run["predictions"]), run["name"]), folder, "confusion.png")
    draw_reliability(run, folder)
    draw_surest_errors(run, test_images, folder)
    if pairs is None:
        errors = count_confusion(run["predictions"])
        np.fill_diagonal(errors, 0)
        frequent = [divmod(int(i), 10) for i in errors.argsort(axis=None)[::-1][:4]]
        pairs = [(6, 0), *[pair for pair in frequent if pair != (6, 0)][:3]]
    for pair in pairs:
        draw_misclassified(run, test_images, pair, folder)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"analyze.py: {error}")
