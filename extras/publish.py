"""Publish a finished run: its small files, and its weights rounded to float16.

    python extras/publish.py --run runs/resnet18 --weights

Copies config.json, log.csv, steps.csv, evaluation.json and predictions.csv into results/NAME. With
--weights it also writes pretrained/NAME.pt, tests the rounded weights, and lists the file with its
accuracy and SHA-256 in pretrained/README.md.
"""

import argparse
import hashlib
import io
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
import evaluate
from analyze import read_run
from train import folder_name

FILES = ("config.json", "log.csv", "steps.csv", "evaluation.json", "predictions.csv")
HEADER = """# Trained weights

Evaluate them with `python evaluate.py --ckpt pretrained/FILE`. Kernels and matrices are rounded to
float16. The test accuracy is that of the rounded weights, of one seed; where there are three, the
main README has their mean.

| file | test accuracy | MB | SHA-256 |
| --- | --- | --- | --- |
"""


def round_weights(checkpoint):
    """Return the bytes of a checkpoint file with kernels and matrices in float16."""
    # BatchNorm's vectors stay in float32: they are few, and small variances would become 0.
    weights = {
        name: tensor.half() if tensor.ndim > 1 else tensor
        for name, tensor in checkpoint["model"].items()
    }
    # Without the logs, which are in FILES.
    published = {"config": checkpoint["config"], "epoch": checkpoint["epoch"], "model": weights}
    buffer = io.BytesIO()
    torch.save(published, buffer)
    return buffer.getvalue()


def measure_accuracy(content, data_dir):
    """Return the test accuracy of a checkpoint, given as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rounded.pt"
        path.write_bytes(content)
        model, _ = evaluate.load_model(path)
    images, labels = data.load(data_dir, train=False)
    return evaluate.accuracy(evaluate.predict(model, images), labels)


def list_weights(path, accuracy):
    """Write the row of a file of weights into the table of the README beside it."""
    listing, content = path.with_name("README.md"), path.read_bytes()
    old = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    rows = [line for line in old if ".pt |" in line and not line.startswith(f"| {path.name} |")]
    digest = hashlib.sha256(content).hexdigest()
    rows.append(f"| {path.name} | {100 * accuracy:.2f} % | {len(content) / 1e6:.1f} | {digest} |")
    data.write_file(listing, (HEADER + "\n".join(sorted(rows)) + "\n").encode())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--run", required=True, help="folder of a run that was tested")
    add("--name", type=folder_name, help="name to publish it under; None: the folder's name")
    add("--weights", action="store_true", help="publish the weights, too")
    add("--data-dir", default="data", help="folder of the data set")
    add("--out", default=".", help="folder that holds results and pretrained")
    args = parser.parse_args()
    run, out = Path(args.run), Path(args.out)
    name = args.name or run.resolve().name

    missing = [file for file in FILES if not (run / file).is_file()]
    if missing:
        raise data.UserError(f"{run} has no {missing[0]}: train and evaluate first")
    try:
        epoch = read_run(run).evaluation["epoch"]  # of the checkpoint that was tested
    except Exception as error:  # whatever a damaged file leads to
        raise data.UserError(f"{run} cannot be published: {error!r}") from None
    if args.weights:
        _, checkpoint = evaluate.load_model(run / "best.pt")
        if epoch != checkpoint["epoch"]:
            raise data.UserError(f"{run}: evaluation.json is not of best.pt: evaluate it again")
        content = round_weights(checkpoint)
        accuracy = measure_accuracy(content, args.data_dir)
    results = out / "results" / name
    results.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        data.write_file(results / file, (run / file).read_bytes())
    print(f"copied to {results}")
    if args.weights:
        path = out / "pretrained" / f"{name}.pt"
        path.parent.mkdir(exist_ok=True)
        data.write_file(path, content)
        list_weights(path, accuracy)
        print(f"written: {path}, {100 * accuracy:.2f} % on the test images")


if __name__ == "__main__":
    data.run_script(main)
