"""Download FashionMNIST as Debian's package ``dataset-fashion-mnist``, without root.

    python extras/debian_data.py

`make data` runs it where torchvision cannot reach its server. It needs apt-get and dpkg-deb, so
Debian or Ubuntu.
"""

import argparse
import gzip
import subprocess
import sys
import tempfile
from pathlib import Path

from torchvision.datasets import FashionMNIST

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data


def download_package(folder):
    """Download and unpack the package into ``folder``; return the folder with the four files.

    apt verifies the signature. Its lists and its cache are kept in ``folder``, too.

    Raises:
        UserError: it could not be downloaded.
    """
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
        raise data.UserError(f"Debian's package could not be downloaded ({error})") from None
    return folder / "usr/share/datasets/fashion-mnist"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data-dir", default="data", help="folder of the data (default: data)")
    args = parser.parse_args()
    target = Path(args.data_dir) / "FashionMNIST/raw"  # where torchvision looks
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        source = download_package(Path(folder).resolve())
        for name, _ in FashionMNIST.resources:
            content = gzip.decompress((source / name).read_bytes())
            data.write_file(target / name.removesuffix(".gz"), content)
    for train in (True, False):
        data.load(args.data_dir, train)
    print(f"FashionMNIST is complete and verified in {args.data_dir}")


if __name__ == "__main__":
    data.run_script(main)
