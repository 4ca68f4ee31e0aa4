"""FashionMNIST in memory: download and verification, the 8:2 split, and batch augmentation.

The whole set is 55 MB of uint8, so it is read once and kept as tensors; a batch is augmented by a
few tensor operations on the device it lives on, without worker processes or per-image work.

Run as a script (``python data.py``), it fetches the set if need be and verifies it.
"""

import argparse
import gzip
import hashlib
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip

# MD5 of the uncompressed files: the same wherever they come from, unlike that of the .gz files.
MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


def raw_folder(data_dir):
    """Where torchvision keeps the files below ``data_dir``; an earlier download is found there."""
    return Path(data_dir) / "FashionMNIST" / "raw"


def is_missing(data_dir, names):
    """Whether one of the files, or its .gz, is not there."""
    folder = raw_folder(data_dir)
    return not all((folder / n).exists() or (folder / f"{n}.gz").exists() for n in names)


def read_verified(folder, name):
    """Return the bytes of one of the four files, read from ``name`` or else from ``name.gz``.

    Raises:
        FileNotFoundError: neither is in ``folder``.
        ValueError: the content is not that of FashionMNIST (truncated, altered, not gzip).
    """
    path = Path(folder) / name
    if not path.exists():
        path = path.with_name(name + ".gz")
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it and run again") from None
    if hashlib.md5(content).hexdigest() != MD5[name]:
        raise ValueError(f"{path} is truncated or altered (wrong MD5); delete it and run again")
    return content


def download(data_dir, from_debian=False):
    """Put the four verified files below ``data_dir``.

    They are fetched into a temporary folder, verified there and renamed into place one by one, so
    that an interrupted download leaves nothing that a later run could take for the data.

    Args:
        data_dir: folder of the data set, created if need be.
        from_debian: if torchvision cannot fetch the set, try Debian's package of it as well.

    Raises:
        OSError: no source could be reached; the message says which files to put where.
    """
    from torchvision.datasets import FashionMNIST  # noqa: PLC0415 (takes seconds, and only here)

    target = raw_folder(data_dir)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="download-", dir=data_dir) as tmp:
        print(f"downloading FashionMNIST to {target}", file=sys.stderr)
        try:
            FashionMNIST(tmp, download=True)
            source = raw_folder(tmp)
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[-1]
            print(f"torchvision could not fetch it ({reason})", file=sys.stderr)
            source = debian_package(tmp) if from_debian else None
        if source is None:
            hint = "" if from_debian else "run `make data`, which also tries Debian's package, or "
            raise OSError(
                f"FashionMNIST is not in {data_dir} and could not be downloaded; {hint}put "
                f"{', '.join(name + '.gz' for name in MD5)} "
                f"(from github.com/zalandoresearch/fashion-mnist) into {target}"
            )
        for name in MD5:
            content = read_verified(source, name)
            (Path(tmp) / name).write_bytes(content)
            (Path(tmp) / name).replace(target / name)


def debian_package(folder):
    """Fetch Debian's package ``dataset-fashion-mnist`` without root; return where its files are.

    apt verifies the package's signature; its lists and cache are kept in ``folder``, so that
    neither root nor the system's own lists are needed. Returns None where that does not work.
    """
    print("trying Debian's package dataset-fashion-mnist", file=sys.stderr)
    folder = Path(folder).resolve()
    apt = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root"]
    for option in ("State::Lists", "Cache"):
        (folder / option / "partial").mkdir(parents=True)
        apt += ["-o", f"Dir::{option}={folder / option}"]
    try:
        subprocess.run([*apt, "update"], check=True)
        subprocess.run([*apt, "download", "dataset-fashion-mnist"], check=True, cwd=folder)
        (package,) = folder.glob("dataset-fashion-mnist*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        print(f"Debian's package could not be fetched ({error})", file=sys.stderr)
        return None
    return folder / "usr/share/datasets/fashion-mnist"


def load(data_dir, train):
    """Load the 60,000 training or the 10,000 test images, downloading the set if it is missing.

    Args:
        data_dir: folder of the data set.
        train: True for the training images, False for the test images.

    Returns:
        images: uint8 tensor N×28×28, 0 the background and 255 the brightest.
        labels: int64 tensor N, indices into ``CLASSES``.

    Raises:
        OSError: the set is missing and could not be downloaded.
        ValueError: a file is there but is truncated or altered.
    """
    folder = raw_folder(data_dir)
    prefix = "train" if train else "t10k"
    names = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    if is_missing(data_dir, names):
        download(data_dir)
    # The IDX header is 4 bytes and 4 more for each dimension; the MD5 vouches for its content.
    images = np.frombuffer(read_verified(folder, names[0]), np.uint8, offset=16)
    labels = np.frombuffer(read_verified(folder, names[1]), np.uint8, offset=8)
    return torch.tensor(images).view(-1, 28, 28), torch.tensor(labels).long()


def split_indices(n=60_000, seed=0, val_fraction=0.2):
    """Split ``range(n)`` into training and validation indices by a seeded random permutation.

    The split is not stratified (neither is the report's): with 12,000 validation images a class
    has 1,200 of them give or take about 30. It depends on the seed alone, never on the machine.

    Returns:
        Two int64 tensors without a common element: 48,000 and 12,000 indices by default.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    n_val = round(n * val_fraction)
    return order[n_val:], order[:n_val]


def draw_augmentation(n, augment, padding, generator):
    """Draw the random numbers that ``apply_augmentation`` needs for n images.

    Args:
        n: number of images.
        augment: "crop-flip", "flip" or "none".
        padding: pixels of padding p of the crop; 4 in the report.
        generator: CPU ``torch.Generator``; the draws are the same whatever device trains.

    Returns:
        offsets: int64 tensor n×2, row and column of the crop's corner in the padded image, each
            uniform in 0…2p; p, the image itself, without crops.
        flips: bool tensor n, True with probability ½; all False without flips.
    """
    offsets = torch.full((n, 2), padding)
    flips = torch.zeros(n, dtype=torch.bool)
    if augment == "crop-flip":
        offsets = torch.randint(0, 2 * padding + 1, (n, 2), generator=generator)
    if augment != "none":
        flips = torch.rand(n, generator=generator) < 0.5
    return offsets, flips


def apply_augmentation(images, offsets, flips, padding):
    """Pad each image with zeros, crop 28×28 at its offset, then flip it left-right if told so.

    This is RandomCrop(28, padding) and RandomHorizontalFlip() of torchvision for a whole batch,
    done by a single indexing operation.

    Args:
        images: uint8 tensor B×28×28.
        offsets, flips: as drawn by ``draw_augmentation``, on the images' device.
        padding: the padding that the offsets were drawn for.

    Returns:
        uint8 tensor B×28×28.
    """
    batch = torch.arange(len(images), device=images.device)
    pixel = torch.arange(28, device=images.device)
    rows = offsets[:, 0, None] + pixel  # B×28
    columns = offsets[:, 1, None] + torch.where(flips[:, None], 27 - pixel, pixel)  # B×28
    padded = F.pad(images, [padding] * 4)  # B×(28+2p)×(28+2p)
    return padded[batch[:, None, None], rows[:, :, None], columns[:, None, :]]


def draw_boxes(n, probability, generator):
    """Draw the rectangles that ``erase`` fills: Random Erasing (Zhong et al. 2017,
    arXiv:1708.04896, algorithm 1) with torchvision's limits, 2 to 33 % of the area and sides of
    3:10 to 10:3, except that a side is cut to 28 instead of drawn again.

    Args:
        n: number of images.
        probability: share of the images that get a box at all.
        generator: CPU ``torch.Generator``.

    Returns:
        int64 tensor n×2×2: first and one-past-last row, first and one-past-last column.
    """
    u = torch.rand(n, 5, generator=generator)
    area = 28 * 28 * (0.02 + 0.31 * u[:, 0])
    ratio = (10 / 3) ** (2 * u[:, 1] - 1)
    sides = torch.stack([area * ratio, area / ratio], 1).sqrt().round().clamp(max=28)
    first = (u[:, 2:4] * (29 - sides)).floor()
    last = first + sides * (u[:, 4:] < probability)
    return torch.stack([first, last], 2).long()


def erase(images, boxes):
    """Fill the box of each image, uint8 B×28×28, with noise of PyTorch's global generator."""
    pixel = torch.arange(28, device=images.device)
    inside = (boxes[:, :, :1] <= pixel) & (pixel < boxes[:, :, 1:])  # B×2×28
    noise = torch.randint_like(images, 256)
    return torch.where(inside[:, 0, :, None] & inside[:, 1, None, :], noise, images)


def draw_jitter(n, degrees, brightness, generator):
    """Draw what ``jitter`` needs for n images with a CPU ``torch.Generator``.

    Returns:
        float tensor n×2: angles in radians, uniform within ± ``degrees``, and factors of
        brightness, uniform within 1 ± ``brightness``.
    """
    u = 2 * torch.rand(n, 2, generator=generator) - 1
    return torch.stack([u[:, 0] * math.radians(degrees), 1 + u[:, 1] * brightness], 1)


def jitter(x, draws):
    """Rotate normalised images, float B×1×28×28, about their centre and change their brightness:
    the two further augmentations that the report tried."""
    angles, factors = draws.T
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrices, x.shape, align_corners=False)
    x = (x + 1) * factors[:, None, None, None]  # 0 is black, also outside the image
    return F.grid_sample(x, grid, align_corners=False).clamp(max=2) - 1


def normalize(images):
    """Scale uint8 B×28×28 to float32 B×1×28×28 in [-1, 1]: ToTensor and Normalize(0.5, 0.5)."""
    return images[:, None].float().div(255).sub(0.5).div(0.5)


def resize(x, pixels):
    """Bring float images B×1×28×28 to another resolution, bilinearly and without aliasing."""
    return x if pixels == 28 else F.interpolate(x, size=pixels, mode="bilinear", antialias=True)


def main():
    parser = argparse.ArgumentParser(description="Fetch FashionMNIST if need be and verify it.")
    parser.add_argument("--data-dir", default="data", help="folder of the data (default: data)")
    args = parser.parse_args()
    try:
        if is_missing(args.data_dir, MD5):
            download(args.data_dir, from_debian=True)
        for name in MD5:
            read_verified(raw_folder(args.data_dir), name)
    except (OSError, ValueError) as error:
        sys.exit(f"data.py: {error}")
    print(f"FashionMNIST is complete and verified in {raw_folder(args.data_dir)}")


if __name__ == "__main__":
    main()
