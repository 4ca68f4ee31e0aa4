"""Classify photographs: print the three most likely classes of each, and draw them on a sheet.

    python extras/predict.py --ckpt pretrained/resnet18-200epochs-all.pt shirt.jpg folder/

A photograph should show one article, in front of a plain background or cut out (a PNG with
transparency). It is turned into an image like those of the data set, by the steps of the data
set's paper: Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747, section 2.
"""

import argparse
import io
import math
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps, PngImagePlugin
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
import evaluate

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
SIDE = 512  # pixels; larger photographs are reduced to this side: enough to find the article
TOLERANCE = 24  # of 255: noise and JPEG change a plain background by less
SOFTWARE = "FashionMNIST extras/predict.py"  # marks the sheets, in the metadata of the PNG
MAX_CELLS = 300  # photographs drawn on a sheet


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
    if is_sheet(path):
        raise data.UserError("it is a sheet of this script")
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


# ---- The sheet


def draw_cell(name, photograph, image, answers):
    """Draw a photograph, its 28×28 image and its classes: a Pillow image of 400×140 pixels."""
    cell = Image.new("RGB", (400, 140), "gainsboro")
    pen, font = ImageDraw.Draw(cell), ImageFont.load_default(13)
    # Pillow's font draws a box for a Chinese character; cells are in the order of the output.
    pen.text((8, 4), name.encode("utf-8", "replace").decode(), "black", font)
    small = ImageOps.contain(photograph, (112, 112))
    cell.paste(small, (8, 22), small if small.mode == "RGBA" else None)
    seen = Image.fromarray(image.numpy()).resize((112, 112), Image.Resampling.NEAREST)
    cell.paste(seen, (128, 22))
    for i, (answer, probability) in enumerate(answers):
        pen.text((248, 24 + 36 * i), answer, "black", font)
        pen.rectangle((248, 42 + 36 * i, 248 + 140 * probability, 48 + 36 * i), "navy")
    return cell


def write_sheet(cells, path):
    """Write the cells, column by column, as one PNG that ``is_sheet`` recognises."""
    columns = max(1, round(math.sqrt(len(cells) / 3)))  # about as wide as high
    rows = math.ceil(len(cells) / columns)
    sheet = Image.new("RGB", (400 * columns, 140 * rows), "gainsboro")
    for i, cell in enumerate(cells):
        sheet.paste(cell, (400 * (i // rows), 140 * (i % rows)))
    metadata = PngImagePlugin.PngInfo()
    metadata.add_text("Software", SOFTWARE)
    content = io.BytesIO()
    sheet.save(content, "PNG", pnginfo=metadata)
    data.write_file(path, content.getvalue())


def is_sheet(path):
    """Return whether a file is a sheet that this script wrote."""
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            return False
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get("Software") == SOFTWARE
    except Exception:  # it is no PNG, it is damaged, or it may not be read
        return False


def check_out(path):
    """Raise a UserError if no sheet can be written to ``path`` or it would replace another file."""
    if path.suffix.lower() != ".png":
        raise data.UserError(f"--out {path} must end in .png")
    if not path.parent.is_dir():
        raise data.UserError(f"--out: there is no folder {path.parent}")
    if path.exists() and not is_sheet(path):
        raise data.UserError(f"--out {path} exists, and is not a sheet of this script")


# ---- The script


def list_files(paths):
    """Return the files, and those in the folders, except sheets and hidden files in a folder.

    Raises:
        UserError: a folder has none.
    """
    files = []
    for path in paths:
        if not os.path.isdir(path):  # unlike path.is_dir(), False where it may not look
            files.append(path)
            continue
        found = [p for p in sorted(path.iterdir()) if not (p.name.startswith(".") or is_sheet(p))]
        if not found:
            raise data.UserError(f"there are no photographs in the folder {path}")
        files += found
    return files


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--ckpt", required=True, help="checkpoint written by train.py")
    parser.add_argument("--out", type=Path, default="predictions.png", help="PNG of the sheet")
    parser.add_argument("photographs", type=Path, nargs="+", help="files, or folders of files")
    args = parser.parse_args(argv)

    # A file of some KB can claim billions of pixels. By default Pillow accepts 179 million; with
    # its warning as an error, 89 million. Its other warnings are about harmless defects.
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    files = list_files(args.photographs)
    check_out(args.out)
    model, _ = evaluate.load_model(args.ckpt)
    cells, skipped = [], 0
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
        answers = [
            (f"{data.CLASSES[i]} {100 * p:.1f} %", p)
            for i, p in zip(classes.tolist(), probabilities.tolist(), strict=True)
        ]
        print(f"{path}: {', '.join(answer for answer, _ in answers)}", flush=True)
        if len(cells) < MAX_CELLS:
            cells.append(draw_cell(path.name, photograph, image, answers))
    if cells:
        write_sheet(cells, args.out)
        print(f"written: {args.out}, with {len(cells)} of {len(files) - skipped} photographs")
    if skipped:
        raise data.UserError(f"{skipped} of {len(files)} files were skipped")


if __name__ == "__main__":
    data.run_script(main)
