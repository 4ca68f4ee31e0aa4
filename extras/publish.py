"""Publish a finished run: its small files, and its weights rounded to half precision.

    python extras/publish.py --run runs/resnet18 --weights

Copies config.json, log.csv, steps.csv, evaluation.json and predictions.csv into results/<name>.
With --weights it also writes pretrained/<name>.pt: the weights alone, kernels and matrices in
float16, judges what was written on the whole test set again by evaluate.py, and lists the file
with its accuracy and SHA-256 in pretrained/README.md.
"""

import argparse
import hashlib
import io
import json
import shutil
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import evaluate
import train

FILES = ("config.json", "log.csv", "steps.csv", "evaluation.json", "predictions.csv")
HEADER = """# Trained weights

`python evaluate.py --ckpt pretrained/FILE` judges them. Kernels and matrices are rounded to
float16, and the accuracy is that of the rounded weights.

| file | test accuracy | MB | SHA-256 |
| --- | --- | --- | --- |
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--run", required=True, help="folder of a run that was tested")
    parser.add_argument("--name", default=None, help="its published name (default: the folder's)")
    parser.add_argument("--weights", action="store_true", help="publish the weights, too")
    parser.add_argument("--data-dir", default="data", help="folder of the data set")
    parser.add_argument("--out", default=".", help="folder that holds results and pretrained")
    args = parser.parse_args()
    run, out = Path(args.run), Path(args.out)
    name = args.name or run.name

    missing = [file for file in FILES if not (run / file).is_file()]
    if missing:
        raise ValueError(f"{run} has no {missing[0]}: train and evaluate first")
    folder = out / "results" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        shutil.copyfile(run / file, folder / file)
    print(f"copied to {folder}")
    if not args.weights:
        return

    _, checkpoint = evaluate.load_checkpoint(run / "best.pt")
    # BatchNorm's vectors stay in float32: they are few, and small variances would underflow.
    weights = {
        key: value.half() if value.ndim > 1 else value for key, value in checkpoint["model"].items()
    }
    buffer = io.BytesIO()
    torch.save({**checkpoint, "model": weights}, buffer)
    path = out / "pretrained" / f"{name}.pt"
    path.parent.mkdir(exist_ok=True)
    train.write(path, buffer.getbuffer())
    evaluate.main(["--ckpt", str(path), "--data-dir", args.data_dir])
    judged = path.with_name(f"{name}-evaluation.json")
    accuracy = json.loads(judged.read_text())["accuracy"]
    path.with_name(f"{name}-predictions.csv").unlink()
    judged.unlink()

    listing = path.with_name("README.md")
    old = listing.read_text().splitlines()[len(HEADER.splitlines()) :] if listing.exists() else []
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    row = f"| {path.name} | {100 * accuracy:.2f} % | {path.stat().st_size / 1e6:.1f} | {digest} |"
    rows = sorted([line for line in old if not line.startswith(f"| {path.name} ")] + [row])
    listing.write_text(HEADER + "\n".join(rows) + "\n")
    print(f"written: {path}, {100 * accuracy:.2f} % on the test set")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"publish.py: {error}")
