"""Show what a trained network does: suspected label errors, where it looks, its features.

    python extras/explain.py --ckpt pretrained/resnet18.pt

Writes label_errors.png and label_errors.md (from the validation images, which the network was not
trained on) and, for a ResNet, cam.png (class activation maps of right and wrong shirts) and
features.png (t-SNE of the pixels beside that of the last features, of the same test images).
"""

import argparse
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.manifold import TSNE

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
import evaluate
from analyze import SHORT, save, scatter_classes, show, write_table

SHIRT = data.CLASSES.index("Shirt")


def suspect_labels(probabilities, labels):
    """Find images whose label is probably wrong, by confident learning (Northcutt, Jiang & Chuang
    2021, arXiv:1911.00068, equations 1 and 2, ranked by normalised margin).

    A class's threshold is the mean probability that images labelled so get for it. An image is
    suspected to belong to the likeliest class whose threshold it reaches, if that is not its label.

    Args:
        probabilities: tensor N×C of images that the network was not trained on.
        labels: int64 tensor N.

    Returns:
        indices of the suspected images, the surest first, and the class suspected for each.
    """
    counts = torch.bincount(labels, minlength=probabilities.shape[1])
    sums = torch.zeros(probabilities.shape[1], dtype=probabilities.dtype)
    own = probabilities.gather(1, labels[:, None])[:, 0]
    thresholds = sums.index_add(0, labels, own) / counts
    reached = probabilities.where(probabilities >= thresholds, 0.0)
    best, suspected = reached.max(1)
    indices = ((best > 0) & (suspected != labels)).nonzero().flatten()
    margin = own - probabilities.scatter(1, labels[:, None], 0.0).amax(1)
    indices = indices[margin[indices].argsort(stable=True)]
    return indices, suspected[indices]


def draw_label_errors(model, images, labels, folder):
    """The sheet of the surest suspected label errors, and how many there are of each pair."""
    probabilities = evaluate.predict(model, images).softmax(1).double()
    indices, suspected = suspect_labels(probabilities, labels)
    figure, axes = plt.subplots(4, 8, figsize=(11, 7.2), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, index, other in zip(axes.flat, indices, suspected, strict=False):
        title = f"{SHORT[labels[index]]}?\n{SHORT[other]} {100 * probabilities[index, other]:.0f} %"
        show(axis, images[index], title)
    figure.suptitle(
        f"{len(indices)} of {len(labels):,} validation labels are suspected to be wrong: "
        "label, and what the network says"
    )
    save(figure, folder, "label_errors.png")
    pairs = torch.bincount(10 * labels[indices] + suspected, minlength=100)
    table = [
        {"label": data.CLASSES[i // 10], "suspected": data.CLASSES[i % 10], "images": int(pairs[i])}
        for i in pairs.argsort(descending=True, stable=True)[:12].tolist()
        if pairs[i]
    ]
    write_table(table, folder, "label_errors")


@torch.no_grad()
def activation_maps(model, images, classes):
    """Class activation maps (Zhou et al. 2016, arXiv:1512.04150) of a ResNet, N×28×28.

    The head is linear in the average-pooled feature maps, so that a class's logit is the mean of
    the maps weighted by the head's row of that class: that weighted sum shows where it comes from.
    """
    features = model.features(data.normalize(images))  # N×512×4×4
    maps = torch.einsum("nchw,nc->nhw", features, model.fc.weight[classes])
    return F.interpolate(maps[:, None], size=28, mode="bilinear", align_corners=False)[:, 0]


def draw_activation_maps(model, images, labels, folder):
    """Where the evidence for the predicted class lies in right and in wrong shirts."""
    shirts = (labels == SHIRT).nonzero().flatten()
    predicted = evaluate.predict(model, images[shirts]).argmax(1)
    figure, axes = plt.subplots(2, 8, figsize=(12, 3.8), layout="constrained")
    for row, right in zip(axes, (True, False), strict=True):
        which = ((predicted == SHIRT) == right).nonzero().flatten()[:8]
        maps = activation_maps(model, images[shirts[which]], predicted[which])
        for axis, i, heat in zip(row, which, maps, strict=False):
            show(axis, images[shirts[i]], SHORT[predicted[i]])
            axis.imshow(heat, cmap="inferno", alpha=0.5)
        row[0].set_ylabel("right" if right else "wrong")
    figure.suptitle("Shirts: where the evidence for the predicted class lies (bright: most)")
    save(figure, folder, "cam.png")


@torch.no_grad()
def draw_features(model, images, labels, folder):
    """t-SNE of the pixels and of the features in front of the head, of the same images."""
    batches = images.split(250)
    features = torch.cat([model.features(data.normalize(b)).mean((2, 3)) for b in batches])
    figure, axes = plt.subplots(1, 2, figsize=(15, 6.5), layout="constrained")
    kinds = ((images.flatten(1) / 255, "pixels"), (features, "features in front of the head"))
    for axis, (points, name) in zip(axes, kinds, strict=True):
        tsne = TSNE(2, init="pca", perplexity=30, random_state=0)
        scatter_classes(axis, tsne.fit_transform(points.numpy()), labels.numpy())
        axis.set_title(f"t-SNE of the {name}")
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(f"{len(images):,} test images")
    save(figure, folder, "features.png")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--ckpt", required=True, help="checkpoint of train.py")
    parser.add_argument("--out", default="figures", help="folder of the figures")
    parser.add_argument("--tsne-images", type=int, default=3000, help="test images in the t-SNE")
    parser.add_argument("--data-dir", default="data", help="folder of the data set")
    args = parser.parse_args()
    mpl.use("Agg")
    model, checkpoint = evaluate.load_checkpoint(args.ckpt)
    config = checkpoint["config"]
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    if config.get("train_on") == "all":
        print("label errors: left out, the network was trained on the validation images, too")
    else:
        images, labels = data.load(args.data_dir, train=True)
        index = data.split_indices(seed=config["split_seed"])[1]
        draw_label_errors(model, images[index], labels[index], folder)
    if config["model"] == "mlp":
        print("activation maps and features: left out, the MLP has no feature maps")
        return
    images, labels = data.load(args.data_dir, train=False)
    draw_activation_maps(model, images, labels, folder)
    draw_features(model, images[: args.tsne_images], labels[: args.tsne_images], folder)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"explain.py: {error}")
