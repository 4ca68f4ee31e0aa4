"""Classify photographs: print the three most likely classes of each, and draw the first 20.

    python extras/predict.py --ckpt pretrained/resnet18-200epochs-all.pt shirt.jpg folder/

A photograph should show one article, in front of a plain background or cut out (a PNG with
transparency). It is turned into an image like those of the data set, by the steps of the data
set's paper: Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747, section 2.
"""

import argparse
import os
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import analyze
import data
import evaluate

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
SIDE = 512  # pixels; larger photographs are reduced to this side: enough to find the article
TOLERANCE = 24  # of 255: noise and JPEG change a plain background by less


# ---- From a file to an image like those of the data set


def read_photograph(path):
    """Read a picture of any of Pillow's modes, upright, reduced to at most 512×512 pixels.

    Returns:
        A Pillow image, RGB or (with transparency) RGBA.

    Raises:
        UserError: there is no such file, or it is no picture, is damaged or has too many pixels.
    """
    if not path.is_file():
        raise data.UserError("it is not a file" if path.exists() else "there is no such file")
    try:
        with Image.open(path, formats=FORMATS) as opened:
            opened.draft(None, (SIDE, SIDE))  # a JPEG can be decoded at ½, ¼ or ⅛ of its size
            image = ImageOps.exif_transpose(opened)
        if image.mode.startswith(("I", "F")):  # grey with 16 or 32 bits: the lightest becomes 255
            values = np.asarray(image, np.float32)
            values = (255 * values / (values.max() or 1)).clip(0, 255)
            image = Image.fromarray(values.astype(np.uint8))
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        image.thumbnail((SIDE, SIDE))
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        raise data.UserError(f"not readable as {', '.join(FORMATS)} ({error})") from None
    return image


def fit_background(pixels):
    """Estimate the colour of the background at each pixel from the pixels along the border.

    Light is seldom even, so the colour is a quadratic function of the position, fitted by least
    squares. The article may touch the border: each fit leaves out the pixels that were far from
    the fit before. The first is the median colour, then come two planes and two quadratics.

    Args:
        pixels: float array H×W×3, 0 to 255.

    Returns:
        background: float array H×W×3.
        noise: median distance of the border's pixels from it.
    """
    height, width, _ = pixels.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)  # H×W×6
    border = np.ones((height, width), bool)
    margin = max(1, min(height, width) // 50)
    border[margin:-margin, margin:-margin] = False
    at, colours = terms[border], pixels[border]  # B×6, B×3
    distance = abs(colours - np.median(colours, axis=0)).max(axis=1)
    for n in (3, 3, 6, 6):  # number of terms; the first three make a plane
        near = distance <= max(np.median(distance), TOLERANCE)
        coefficients = np.linalg.lstsq(at[near, :n], colours[near], rcond=None)[0]  # n×3
        distance = abs(colours - at[:, :n] @ coefficients).max(axis=1)
    return terms @ coefficients, np.median(distance)


def find_article(pixels, alpha):
    """Separate the article from the background: by transparency if there is any, else by colour.

    Args:
        pixels: float array H×W×3, 0 to 255.
        alpha: opacity, uint8 array H×W.

    Returns:
        mask: bool array H×W, true where the article is.
        background: float array H×W×3; mid-grey if it is transparent.

    Raises:
        UserError: nothing differs from the background.
    """
    mask, background = alpha > alpha.max() / 2, np.full_like(pixels, 128)
    if mask.mean() > 0.99:  # opaque, perhaps with rounded corners
        background, noise = fit_background(pixels)
        mask = abs(pixels - background).max(axis=2) > max(TOLERANCE, 5 * noise)
    # Of the connected regions keep those that are not much smaller than the largest. Two shoes
    # are two regions; a speck of dust is a small one.
    regions, _ = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(regions.ravel())
    areas[0] = 0  # the background
    mask &= (areas >= 0.05 * areas.max())[regions]
    if not mask.any():
        raise data.UserError("nothing in it differs from its background")
    return mask, background


def to_fashion(photograph):
    """Turn a photograph into an image like those of the data set, a light article on black.

    Args:
        photograph: Pillow image, RGB or RGBA.

    Returns:
        uint8 tensor 28×28.

    Raises:
        UserError: no article was found in it.
    """
    rgba = np.asarray(photograph.convert("RGBA"))
    if min(rgba.shape[:2]) < 3:
        raise data.UserError("it has fewer than 3×3 pixels")
    pixels = rgba[:, :, :3].astype(float)
    mask, background = find_article(pixels, rgba[:, :, 3])
    luma = (0.299, 0.587, 0.114)  # weights of red, green and blue in grey
    grey, behind = pixels @ luma, (background @ luma).clip(1)
    colour = np.median(background, axis=(0, 1))
    # The data set's photographs have a white background and are negated, so that it is black.
    if colour.max() < 64:  # dark: already like the data set's images
        light = 255 * (grey - behind) / (255 - behind)
    elif colour.min() >= 160 and np.median((grey / behind)[mask]) < 1:
        light = 255 - 255 * grey / behind  # light: taken for white, which also evens the light out
    else:  # cut out, and put on white; a white article, which would vanish there, on black
        light = np.where(mask, 255 - grey if np.median(grey[mask]) < 215 else grey, 0)
    light = light.clip(0, 255).round().astype(np.uint8)
    # Trim, subsample the longest side to 28 pixels, sharpen, and centre.
    image = Image.fromarray(light).crop(Image.fromarray(mask).getbbox())
    width, height = (max(1, round(side * 28 / max(image.size))) for side in image.size)
    image = image.resize((width, height), Image.Resampling.NEAREST)
    image = image.filter(ImageFilter.UnsharpMask(radius=1, percent=100, threshold=0))
    result = Image.new("L", (28, 28))
    result.paste(image, ((28 - width) // 2, (28 - height) // 2))
    return torch.tensor(np.asarray(result))


# ---- The script


def draw(predicted, folder):
    """Draw photographs, one per row, with their 28×28 images and most likely classes.

    Args:
        predicted: list of (name, photograph, image 28×28, [(class, probability), …]).
        folder: where to write predictions.png.
    """
    n = len(predicted)
    figure, axes = plt.subplots(n, 3, figsize=(8, 1.8 * n), squeeze=False, layout="constrained")
    for row, (name, photograph, image, answers) in zip(axes, predicted, strict=True):
        left, middle, right = row
        analyze.show(left, photograph, name)
        analyze.show(middle, image)
        names, probabilities = zip(*answers, strict=True)
        bars = right.barh(names, probabilities, color="tab:blue")
        right.bar_label(bars, fmt="{:.1%}", padding=3)
        right.set(xlim=(0, 1.3), xticks=[])
        right.invert_yaxis()
        right.spines[:].set_visible(False)
    analyze.save(figure, folder, "predictions.png")


def list_files(paths):
    """Return the files, and those in the folders, except hidden ones.

    Raises:
        UserError: a folder has none.
    """
    files = []
    for path in paths:
        if not os.path.isdir(path):  # unlike path.is_dir(), False where it may not look
            files.append(path)
            continue
        found = [p for p in sorted(path.iterdir()) if not p.name.startswith(".")]
        if not found:
            raise data.UserError(f"there are no photographs in the folder {path}")
        files += found
    return files


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--ckpt", required=True, help="checkpoint written by train.py")
    parser.add_argument("--out", default="figures", help="folder to write predictions.png into")
    parser.add_argument("photographs", type=Path, nargs="+", help="files, or folders of files")
    args = parser.parse_args(argv)

    # A file of some KB can claim billions of pixels. By default Pillow accepts 179 million; with
    # its warning as an error, 89 million. Its other warnings are about harmless defects.
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    files = list_files(args.photographs)
    folder = analyze.open_folder(args.out)
    model, _ = evaluate.load_model(args.ckpt)
    predicted, skipped = [], 0
    for path in files:
        try:
            photograph = read_photograph(path)
            image = to_fashion(photograph)
        except (data.UserError, OSError) as error:
            print(f"{path}: skipped, {error}", file=sys.stderr)
            skipped += 1
            continue
        logits = evaluate.predict(model, image[None])
        probabilities, classes = logits[0].softmax(0).topk(3)
        names = [data.CLASSES[i] for i in classes]
        answers = [*zip(names, probabilities.tolist(), strict=True)]
        print(f"{path}: {', '.join(f'{name} {100 * p:.1f} %' for name, p in answers)}", flush=True)
        if len(predicted) < 20:
            predicted.append((path.name, photograph, image, answers))
    if predicted:
        draw(predicted, folder)
    if skipped:
        raise data.UserError(f"{skipped} of {len(files)} files were skipped")


if __name__ == "__main__":
    data.run_script(main)
