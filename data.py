"""FashionMNIST in memory: loading, the 8:2 split, augmentation, normalisation.

All 70,000 images are 55 MB as bytes, so they are read whole and kept as tensors. At the start of
each epoch, the training images are augmented by a few tensor operations on their device, without
worker processes. The last section holds the few functions that all scripts share: writing files,
numeric options, messages to the user.

Run as a script, ``python data.py`` downloads the data set if it is missing, and verifies it.
"""

import argparse
import contextlib
import csv
import hashlib
import io
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torchvision.datasets import FashionMNIST

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
# The pixels, scaled to [0, 1], are normalised by these two: as in the report, to [-1, 1]. (The mean
# and standard deviation of the training pixels are 0.286 and 0.353.)
# Checkpoints do not record them: after a change, train anew.
MEAN, STD = 0.5, 0.5


class UserError(ValueError):
    """An error in the user's input: an option, a file, a folder. Scripts print it as one line."""


# ---- From files to a batch

# MD5 of the images and labels as bytes, by ``train``. torchvision verifies only what it downloads.
MD5 = {True: "819d6ae9214abbc30bd601cb4ad304c0", False: "2bdc83e1b78e813df8547ccd14b70d8f"}


def load(data_dir, train):
    """Load the 60,000 training or the 10,000 test images; download the data set if it is missing.

    Returns:
        images: uint8 tensor N×28×28, from 0 (background) to 255.
        labels: int64 tensor N, indices into ``CLASSES``.

    Raises:
        UserError: the data set is missing and cannot be downloaded, or is damaged.
    """
    try:
        dataset = FashionMNIST(data_dir, train, download=True)  # if a file is missing
        digest = hashlib.md5(dataset.data.numpy(), usedforsecurity=False)
        digest.update(dataset.targets.byte().numpy())
        if digest.hexdigest() != MD5[train]:
            raise ValueError("wrong MD5")
    except Exception as error:  # any, without a connection or with a damaged file
        folder = Path(data_dir) / "FashionMNIST/raw"
        raise UserError(
            f"FashionMNIST is not complete in {folder}, or could not be downloaded "
            f"({last_line(error)}). "
            f"Delete that folder. Then run `make data DATA={data_dir}`, which also tries Debian's "
            "package, or put the four .gz files of github.com/zalandoresearch/fashion-mnist into it"
        ) from None
    return dataset.data, dataset.targets


def split_indices():
    """Split the 60,000 training images by a seeded random permutation.

    The split is not stratified: each class has about 1,200 validation images, with a standard
    deviation of 30. It is the same for all runs on all machines.

    Returns:
        int64 tensors with the indices of 48,000 training and 12,000 validation images.
    """
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))
    return order[12_000:], order[:12_000]


def crop_and_flip(images, offsets, flips, padding):
    """Pad each image with zeros, crop 28×28 pixels at its offset, flip it where ``flips`` is true.

    Without flips, crop i is ``padded[i, row : row + 28, column : column + 28]``, with ``row, column
    = offsets[i]``. Given the random numbers, which train.py draws, it does for N images what
    torchvision's RandomCrop(28, padding) and RandomHorizontalFlip() do for one.

    Args:
        images: uint8 tensor N×28×28.
        offsets: int64 tensor N×2, top row and left column of the crop in the padded image, from 0
            to twice the padding. An offset of (padding, padding) leaves the image where it is.
        flips: bool tensor N.
        padding: pixels added on each side; 4 in the report.

    Returns:
        uint8 tensor N×28×28.
    """
    padded = F.pad(images, [padding] * 4)  # left, right, top, bottom
    window = torch.arange(28, device=images.device)
    rows = offsets[:, :1] + window  # N×1 + 28 → N×28: the rows of each crop in its padded image
    columns = offsets[:, 1:] + window  # N×28
    columns = torch.where(flips[:, None], columns.flip(1), columns)  # a flip: from right to left
    i = torch.arange(len(images), device=images.device)
    # N×1×1, N×28×1 and N×1×28 broadcast to N×28×28: pixel (i, r, c) of the result is
    # padded[i, rows[i, r], columns[i, c]].
    return padded[i[:, None, None], rows[:, :, None], columns[:, None, :]]


def preprocess(images):
    """Turn bytes into the input of a network, as torchvision's ToTensor and Normalize do.

    Args:
        images: tensor B×28×28, uint8 or float, from 0 to 255, on any device.

    Returns:
        float32 tensor B×1×28×28.
    """
    return images[:, None].float().div(255).sub(MEAN).div(STD)


# ---- Shared by the scripts: this can wait for a second reading


def last_line(error):
    """Return what a UserError quotes of another error: the last line of its message."""
    return (str(error).strip() or repr(error)).splitlines()[-1].strip()


def write_file(path, content):
    """Replace the contents of a file atomically: at every moment it is the old or the new file.

    Raises:
        UserError: it cannot be written, for example because the disk is full.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # on the disk before it gets its name
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"{path} could not be written ({error}); an old file is unchanged"
        ) from None


def write_csv(path, rows):
    """Write a list of dictionaries with the same keys; floats get six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0].keys())
    for row in rows:
        writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in row.values()])
    write_file(path, text.getvalue().encode())


def number(kind, low, high):
    """Return a function for argparse's ``type``: it turns a text into an int or a float, and
    refuses one that is not from low to high."""

    def parse(text):
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not between {low} and {high}")
        return value

    parse.__name__ = kind.__name__  # for argparse's message: invalid int value: 'x'
    return parse


def run_script(main, stopped="stopped"):
    """Run the ``main`` of a script. A user's mistake and what the operating system refuses are
    printed as one line, other errors keep their traceback. After Ctrl-C the line is ``stopped``."""
    for stream in (sys.stdout, sys.stderr):  # they may not be able to show × or Chinese characters
        if hasattr(stream, "reconfigure"):  # those of a notebook have and need no such method
            stream.reconfigure(errors="replace")
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(f"{Path(sys.argv[0]).name}: {stopped}")
    except (UserError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def main():
    parser = argparse.ArgumentParser(description="Download FashionMNIST if missing, and verify it.")
    parser.add_argument("--data-dir", default="data", help="folder of the data (default: data)")
    args = parser.parse_args()
    for train in (True, False):
        load(args.data_dir, train)
    print(f"FashionMNIST is complete and verified in {args.data_dir}")


if __name__ == "__main__":
    run_script(main)
