"""FashionMNIST in memory: the 8:2 split, augmentation of batches, download and verification.

All 70,000 images are 55 MB as bytes, so they are read once and kept as tensors. A batch is
augmented by a few tensor operations on its device, without worker processes. The last section holds
the few functions that all scripts share: writing files, numeric options, messages to the user.

Run as a script, ``python data.py`` downloads the data set if it is missing, and verifies it.
"""

import argparse
import csv
import gzip
import hashlib
import io
import os
import sys
import tempfile
import zlib
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
# The pixels, scaled to [0, 1], are normalised by these two: as in the report, to [-1, 1].
MEAN, STD = 0.5, 0.5


class UserError(ValueError):
    """A mistake of the user: an option, a file or a folder. The scripts print it as one line."""


# ---- From bytes to a batch


def split_indices():
    """Split the 60,000 training images by a seeded random permutation.

    As in the report, the split is not stratified: each class has about 1,200 validation images,
    with a standard deviation of 30. It is the same for all runs on all machines.

    Returns:
        int64 tensors with the indices of 48,000 training and 12,000 validation images.
    """
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))
    return order[12_000:], order[:12_000]


def draw_crops(n, padding, flip, generator):
    """Draw the random numbers that ``crop_and_flip`` needs for n images.

    Args:
        n: number of images.
        padding: p, the pixels added on each side; 4 in the report, 0 for no random crop.
        flip: probability of a flip; ½ in the report.
        generator: CPU ``torch.Generator``; the numbers are the same whatever device trains.

    Returns:
        offsets: int64 tensor n×2, top row and left column of the crop in the padded image, each
            uniform in 0…2p. An offset of p, p leaves the image where it is.
        flips: bool tensor n.
    """
    offsets = torch.randint(0, 2 * padding + 1, (n, 2), generator=generator)
    flips = torch.rand(n, generator=generator) < flip
    return offsets, flips


def crop_and_flip(images, offsets, flips, padding):
    """Pad each image with zeros, crop 28×28 pixels at its offset, flip it where ``flips`` is true.

    The same as torchvision's RandomCrop(28, padding) and RandomHorizontalFlip(), for a batch at
    once. Instead of moving images, it looks up for each output pixel which row and which column
    of the padded image it comes from. An example with padding 1 and the offset (2, 0): output row
    0 is row 2 of the padded image, which is row 1 of the original; output column 0 is column 0 of
    the padded image, which is black. So the image moves up by one and right by one. With a flip
    the columns are looked up from right to left: 27, 26, … 0.

    Args:
        images: uint8 tensor B×28×28.
        offsets, flips: B of those that ``draw_crops`` returned, on the device of the images.
        padding: the padding that the offsets were drawn for.

    Returns:
        uint8 tensor B×28×28.
    """
    pixel = torch.arange(28, device=images.device)
    rows = offsets[:, 0, None] + pixel  # B×28: for each output row its row in the padded image
    columns = offsets[:, 1, None] + torch.where(flips[:, None], 27 - pixel, pixel)  # B×28
    padded = F.pad(images, [padding] * 4)  # B×(28+2p)×(28+2p)
    batch = torch.arange(len(images), device=images.device)
    # The three index tensors B×1×1, B×28×1 and B×1×28 broadcast to B×28×28.
    return padded[batch[:, None, None], rows[:, :, None], columns[:, None, :]]


def preprocess(images, pixels=28, mean=MEAN, std=STD):
    """Turn bytes into the input of a network, as torchvision's ToTensor, Normalize and Resize do.

    Args:
        images: uint8 tensor B×28×28, on any device.
        pixels: resolution of the result; if it is not 28, the images are resized bilinearly.
        mean, std: of the pixels scaled to [0, 1].

    Returns:
        float32 tensor B×1×pixels×pixels.
    """
    x = images[:, None].float().div(255).sub(mean).div(std)
    return x if pixels == 28 else F.interpolate(x, size=pixels, mode="bilinear", antialias=True)


def preprocessing(pixels=28):
    """Return the arguments of ``preprocess`` as a dictionary, which checkpoints contain."""
    return {"pixels": pixels, "mean": MEAN, "std": STD}


def load(data_dir, train):
    """Load the 60,000 training or the 10,000 test images; download the data set if it is missing.

    Returns:
        images: uint8 tensor N×28×28, from 0 (background) to 255.
        labels: int64 tensor N, indices into ``CLASSES``.

    Raises:
        UserError: the data set is missing and cannot be downloaded, or a file is damaged.
    """
    prefix = "train" if train else "t10k"
    names = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    if not all_present(data_dir, names):
        download(data_dir)
    image_bytes, label_bytes = (read_verified(raw_folder(data_dir), name) for name in names)
    # An IDX file has a header of 4 bytes and 4 more per dimension: N×28×28 and N.
    images = torch.tensor(np.frombuffer(image_bytes, np.uint8, offset=4 + 3 * 4))
    labels = torch.tensor(np.frombuffer(label_bytes, np.uint8, offset=4 + 4))
    return images.view(-1, 28, 28), labels.long()


# ---- Verification and download

# MD5 of the uncompressed files, which are the same wherever they were downloaded from.
MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


def raw_folder(data_dir):
    """Return where torchvision keeps the files in ``data_dir``; its downloads are found there."""
    return Path(data_dir) / "FashionMNIST" / "raw"


def all_present(data_dir, names):
    """Return whether each of the files is there, as it is or as .gz."""
    folder = raw_folder(data_dir)
    return all((folder / n).exists() or (folder / f"{n}.gz").exists() for n in names)


def read_verified(folder, name):
    """Return the bytes of one of the four files, read from ``name`` or else from ``name.gz``.

    Raises:
        UserError: the file cannot be read, or its content is not that of FashionMNIST.
    """
    path = Path(folder) / name
    if not path.exists():
        path = path.with_name(name + ".gz")
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            raise OSError("it is not a file")
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and run again") from None
    if hashlib.md5(content).hexdigest() != MD5[name]:
        raise UserError(f"{path} is truncated or altered (wrong MD5); delete it and run again")
    return content


def download(data_dir):
    """Download the four files into ``data_dir``.

    They are downloaded into a temporary folder and verified there, so that an interrupted download
    leaves nothing behind that a later run could take for the data.

    Raises:
        UserError: they could not be downloaded; the message says which files to put where.
    """
    from torchvision.datasets import FashionMNIST  # noqa: PLC0415 (slow, and needed only here)

    target = raw_folder(data_dir)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="download-", dir=Path(data_dir).absolute()) as folder:
        print(f"downloading FashionMNIST to {target}", file=sys.stderr)
        try:
            FashionMNIST(folder, download=True)
        except (RuntimeError, OSError, HTTPException) as error:
            reason = (str(error).strip() or repr(error)).splitlines()[-1]
            raise UserError(
                f"FashionMNIST is not in {data_dir} and could not be downloaded ({reason}); run "
                f"`make data`, which also tries Debian's package, or put "
                f"{', '.join(name + '.gz' for name in MD5)} "
                f"(from github.com/zalandoresearch/fashion-mnist) into {target}"
            ) from None
        for name in MD5:
            content = read_verified(raw_folder(folder), name)
            write_file(target / name, content)


# ---- Shared by the scripts


def write_file(path, content):
    """Replace a file by new bytes. At every moment ``path`` is either the old or the new file.

    Raises:
        UserError: it cannot be written (the disk is full, say), or the old file begins with other
            bytes, so it is of another kind and not an earlier output; it is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        if path.exists():
            with open(path, "rb") as file:
                start = file.read(11).removeprefix(b"\xef\xbb\xbf")[:8]  # without Excel's mark
            if start and start != bytes(content[:8]):
                raise UserError(f"{path} was not written by this script: move it away")
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} could not be written ({error}); it is as it was before") from None


def write_csv(path, rows):
    """Write a list of dictionaries with the same keys; floats get six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0].keys())
    for row in rows:
        writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in row.values()])
    write_file(path, text.getvalue().encode())


def number(kind, low, high):
    """Return an argparse type: an int or a float from low to high."""

    def parse(text):
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not from {low} to {high}")
        return value

    parse.__name__ = kind.__name__  # for argparse's message: invalid int value: 'x'
    return parse


def run_script(main, stopped="stopped"):
    """Run the ``main`` of a script. A user's mistake is printed as one line, other errors keep
    their traceback. After Ctrl-C the line is ``stopped``."""
    # Python sets a closed stream to None.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # they may not be able to show × or Chinese characters
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
    if not all_present(args.data_dir, MD5):
        download(args.data_dir)
    for name in MD5:
        read_verified(raw_folder(args.data_dir), name)
    print(f"FashionMNIST is complete and verified in {raw_folder(args.data_dir)}")


if __name__ == "__main__":
    run_script(main)
