"""Turn photographs into FashionMNIST images and judge them: evaluate.py --images.

    python evaluate.py --ckpt pretrained/resnet18.pt --images shirt.jpg folder/

The recipe is that of the data set (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747, section 2).
"""

import sys
import warnings
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps

import data
import evaluate

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
TOLERANCE = 24  # grey levels by which the object differs from the background, beyond JPEG's noise


def read_grey(path):
    """Read a picture of any of Pillow's modes, upright, as grey values (uint8 H×W).

    Transparent parts become white.

    Raises:
        OSError, ValueError, SyntaxError: Pillow cannot read it, or it has too many pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened)
                image.load()
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ValueError(f"it is too large ({error})") from None
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits a pixel: Pillow would cut them off
        values = np.asarray(image, np.float64)
        return (values * 255 / max(65535 if values.max() > 255 else 255, values.max())).astype("u1")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB").convert("L"))


def to_fashion(grey):
    """Make a FashionMNIST image (uint8 28×28, light on black) of a picture of one object.

    Trimmed to the object, its longest side subsampled to 28 pixels, sharpened, negated if the
    background is light, and centred. The background is the median of the picture's border.

    Raises:
        ValueError: the picture is too small, or nothing in it differs from the background.
    """
    if min(grey.shape) < 3:
        raise ValueError("it has less than 3×3 pixels")
    grey = grey.astype(np.float64)
    border = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    object_ = abs(grey - border) > TOLERANCE
    if not object_.any():
        raise ValueError("nothing in it differs from its background")
    rows, columns = (np.flatnonzero(object_.any(axis)) for axis in (1, 0))
    grey = grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # The background becomes the set's black, 0, also where the photograph's is not quite white.
    light = (border - grey) / border if border >= 128 else (grey - border) / (255 - border)
    image = Image.fromarray((255 * light.clip(0, 1)).round().astype(np.uint8))
    scale = 28 / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    image = image.resize(size, Image.Resampling.NEAREST)
    image = image.filter(ImageFilter.UnsharpMask(radius=1, percent=100, threshold=0))
    result = Image.new("L", (28, 28))
    result.paste(image, ((28 - size[0]) // 2, (28 - size[1]) // 2))
    return torch.tensor(np.asarray(result))


def draw_sheet(judged, path):
    """Draw each photograph, what the network saw, and its three most likely classes."""
    mpl.use("Agg")
    figure, axes = plt.subplots(
        len(judged), 3, figsize=(9, 2.2 * len(judged)), squeeze=False, layout="constrained"
    )
    for (name, grey, image, probabilities), (left, middle, right) in zip(judged, axes, strict=True):
        left.imshow(grey, cmap="gray", vmin=0, vmax=255)
        left.set_title(name, fontsize=8)
        middle.imshow(image, cmap="gray", vmin=0, vmax=255)
        top = probabilities.topk(3)
        right.barh([data.CLASSES[i] for i in top.indices], top.values, color="#1f4e9c")
        right.invert_yaxis()
        right.set_xlim(0, 1)
        for axis in (left, middle):
            axis.set_axis_off()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def judge(model, paths, sheet="photographs.png"):
    """Print the three most likely classes of each photograph and draw a sheet of all.

    Args:
        model: network in evaluation mode.
        paths: files, and folders whose pictures are taken.
        sheet: PNG to write.

    Returns:
        Number of photographs that could not be judged; each is named on the error output.
    """
    files = []
    for path in map(Path, paths):
        inside = sorted(p for p in path.glob("*") if p.suffix.lower() in ENDINGS)
        files += inside if path.is_dir() else [path]
    judged, failed = [], 0
    for path in files:
        try:
            grey = read_grey(path)
            image = to_fashion(grey)
        except (OSError, ValueError, SyntaxError) as error:  # broken PNGs raise SyntaxError
            print(f"{path}: skipped, {error}", file=sys.stderr)
            failed += 1
            continue
        probabilities = evaluate.predict(model, image[None]).softmax(1)[0]
        top = probabilities.topk(3)
        said = ", ".join(f"{data.CLASSES[i]} {100 * p:.1f} %" for p, i in zip(*top, strict=True))
        print(f"{path}: {said}")
        judged.append((path.name, grey, image, probabilities))
    if judged:
        draw_sheet(judged, sheet)
        print(f"written: {sheet}")
    elif not failed:
        raise ValueError(f"there are no pictures in {', '.join(map(str, paths))}")
    return failed
