"""Show what a trained network does: suspected label errors, where it looks, its features.

    python extras/explain.py --ckpt pretrained/resnet18.pt

Writes label_errors.png and label_errors.md, from the validation images, which the network was not
trained on. For a ResNet it also writes cam.png, class activation maps of correct and wrong shirts,
and features.png, t-SNE of the pixels beside t-SNE of the last features of the same test images.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.manifold import TSNE

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
import evaluate
from analyze import SHORT, open_folder, save, scatter_classes, show, write_table
from models import ResNet

SHIRT = data.CLASSES.index("Shirt")


def suspect_labels(probabilities, labels):
    """Find images whose label is probably wrong, by confident learning (Northcutt, Jiang & Chuang
    2021, arXiv:1911.00068, equations 1 and 2, ranked by normalised margin).

    The threshold of a class is the mean probability of the class over the images with its label.
    Among the classes whose threshold an image reaches, the most probable is suspected, if it is
    not the label.

    Args:
        probabilities: tensor N×C of images that the network was not trained on.
        labels: int64 tensor N.

    Returns:
        indices of the suspected images, most confident first, and the class suspected for each.
    """
    classes = probabilities.shape[1]
    own = probabilities.gather(1, labels[:, None])[:, 0]
    thresholds = labels.bincount(own, classes) / labels.bincount(minlength=classes)
    reached = probabilities.where(probabilities >= thresholds, 0.0)
    best, suspected = reached.max(1)
    indices = ((best > 0) & (suspected != labels)).nonzero().flatten()
    margin = own - probabilities.scatter(1, labels[:, None], 0.0).amax(1)
    indices = indices[margin[indices].argsort(stable=True)]
    return indices, suspected[indices]


def draw_label_errors(model, images, labels, folder):
    """Draw the most confident suspected label errors, and count them by pair of classes."""
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
        "label and suspected class"
    )
    save(figure, folder, "label_errors.png")
    # Sorted, so that equally frequent pairs stay in the order of the classes.
    pairs = Counter(sorted(zip(labels[indices].tolist(), suspected.tolist(), strict=True)))
    table = [
        {"label": data.CLASSES[label], "suspected": data.CLASSES[other], "images": n}
        for (label, other), n in pairs.most_common(12)
    ]
    if table:
        write_table(table, folder / "label_errors.md")


@torch.no_grad()
def activation_maps(model, images, classes):
    """Return class activation maps (Zhou et al. 2016, arXiv:1512.04150), N×28×28.

    The logit of a class is a weighted sum of the averages of the feature maps, plus a bias. So the
    weighted sum of the maps themselves shows which places of the image the logit comes from.
    """
    features = model.features(data.preprocess(images))  # N×512×4×4
    maps = torch.einsum("nchw,nc->nhw", features, model.fc.weight[classes])
    return F.interpolate(maps[:, None], size=28, mode="bilinear", align_corners=False)[:, 0]


def draw_activation_maps(model, images, labels, folder):
    """Draw shirts, classified correctly and wrongly, with the map of the predicted class."""
    shirts = (labels == SHIRT).nonzero().flatten()
    predicted = evaluate.predict(model, images[shirts]).argmax(1)
    figure, axes = plt.subplots(2, 8, figsize=(12, 3.8), layout="constrained")
    for row, correct in zip(axes, (True, False), strict=True):
        which = ((predicted == SHIRT) == correct).nonzero().flatten()[:8]
        maps = activation_maps(model, images[shirts[which]], predicted[which])
        for axis, i, heat in zip(row, which, maps, strict=False):
            show(axis, images[shirts[i]], SHORT[predicted[i]])
            axis.imshow(heat, cmap="inferno", alpha=0.5)
        row[0].set_ylabel("correct" if correct else "wrong")
    figure.suptitle("Shirts and the predicted class: the logit comes from the bright places")
    save(figure, folder, "cam.png")


@torch.no_grad()
def draw_features(model, images, labels, folder):
    """Draw t-SNE of the pixels, and of the features before the last layer, of the same images."""
    batches = (data.preprocess(batch) for batch in images.split(250))
    features = torch.cat([model.features(x).mean((2, 3)) for x in batches])
    figure, axes = plt.subplots(1, 2, figsize=(15, 6.5), layout="constrained")
    kinds = ((images.flatten(1) / 255, "pixels"), (features, "features before the last layer"))
    for axis, (points, name) in zip(axes, kinds, strict=True):
        tsne = TSNE(2, init="pca", perplexity=30, random_state=0)
        scatter_classes(axis, tsne.fit_transform(points.numpy()), labels.numpy())
        axis.set(title=f"t-SNE of the {name}", xticks=[], yticks=[])
    figure.suptitle(f"{len(images):,} test images")
    save(figure, folder, "features.png")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--ckpt", required=True, help="checkpoint of train.py")
    add("--out", default="figures", help="folder of the figures")
    add("--tsne-images", type=data.number(int, 31, 10_000), default=3000,
        help="test images in the t-SNE")  # fmt: skip
    add("--data-dir", default="data", help="folder of the data set")
    args = parser.parse_args()

    model, checkpoint = evaluate.load_model(args.ckpt)
    folder = open_folder(args.out)
    if checkpoint["config"].get("train_on") == "all":
        print("label errors are left out: the network was also trained on the validation images")
    else:
        images, labels = data.load(args.data_dir, train=True)
        _, index = data.split_indices()
        draw_label_errors(model, images[index], labels[index], folder)
    if not isinstance(model, ResNet):
        print("activation maps and features are left out: they need a ResNet")
        return
    images, labels = data.load(args.data_dir, train=False)
    draw_activation_maps(model, images, labels, folder)
    n = args.tsne_images
    draw_features(model, images[:n], labels[:n], folder)


if __name__ == "__main__":
    data.run_script(main)
