"""Judge a checkpoint: accuracy, errors and speed on the test (or validation) images.

    python evaluate.py --ckpt runs/mlp/best.pt

Writes ``evaluation.json`` and ``predictions.csv`` next to the checkpoint.
"""

import argparse
import csv
import json
import math
import os
import pickle
import platform
import statistics
import sys
import time
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F

import data
from models import build_model, count_parameters

# float32 shall mean float32: by default NVIDIA GPUs round the operands of convolutions to 10 bits.
torch.backends.cudnn.allow_tf32 = False


def pick_device(name):
    """Return the ``torch.device`` of that name; "auto" takes CUDA, else MPS, else the CPU.

    Raises:
        ValueError: there is no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {reason}") from None
    return device


def synchronize(device):
    """Wait until an accelerator has done what it was given, so that a clock reads the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def describe_device(device):
    """The name of the processor that computes: "NVIDIA H100", "AMD EPYC (family 26, model 2)".

    Virtual machines give processors of very different speed one name; family and model do not.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
        if "model name" in cpu:
            family, model = cpu.get("cpu family", "?"), cpu.get("model", "?")
            return f"{cpu['model name']} (family {family}, model {model})"
    return platform.processor() or platform.machine()


def load_checkpoint(path):
    """Rebuild the model of a checkpoint, on the CPU and in evaluation mode.

    Only tensors and plain values are unpickled (``weights_only=True``): a file that would run
    code is refused.

    Returns:
        model: the network with the checkpoint's weights.
        checkpoint: the whole dictionary, with the training options under "config".

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a checkpoint of train.py, or its weights do not fit its model.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not in PyTorch's file format, or is truncated")
        with zipfile.ZipFile(path) as archive:  # PyTorch itself neither compresses nor checks CRCs
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise ValueError("it is compressed, which PyTorch's files never are")
            if damaged := archive.testzip():
                raise ValueError(f"its part {damaged} is damaged (wrong CRC-32)")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        config = checkpoint["config"]
        model = build_model(config["model"], config["width"], config["dropout"])
        model.load_state_dict(checkpoint["model"])
    except pickle.UnpicklingError:  # PyTorch's message would advise to load it unsafely
        raise ValueError(
            f"{path} is refused: it holds more than tensors and plain values"
        ) from None
    except OSError:
        raise
    except Exception as error:  # a hostile file can make torch.load raise nearly anything
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a usable checkpoint of train.py: {reason}") from None
    return model.eval(), checkpoint


@torch.no_grad()
def predict(model, images, batch_size=256, autocast_dtype=None, pixels=28):
    """Return the logits (float32, N×10, on the CPU) of uint8 images N×28×28.

    Args:
        model: network on any device; put into evaluation mode, left in the mode it was in.
        images: uint8 tensor N×28×28, never augmented here.
        batch_size: images per forward pass; does not change the result but for rounding.
        autocast_dtype: run the network in this type (float32 if None).
        pixels: resolution that the images are brought to.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    logits = []
    for batch in images.split(batch_size):
        with torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype is not None):
            x = data.resize(data.normalize(batch.to(device)), pixels)
            logits.append(model(x).float().cpu())
    model.train(was_training)
    return torch.cat(logits)


def wilson_interval(correct, n, z=1.96):
    """95 % confidence interval of a proportion (Wilson 1927), as two numbers in [0, 1]."""
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def score(logits, labels):
    """Compare logits N×10 with labels N.

    Returns:
        A dictionary: n, accuracy, its 95 % interval, loss (mean cross-entropy, nats), per_class
        (precision, recall, f1, support by class name) and confusion (rows are the true class).
    """
    predicted = logits.argmax(1)
    confusion = torch.bincount(10 * labels + predicted, minlength=100).view(10, 10)
    hits = confusion.diag().double()
    support, claimed = confusion.sum(1), confusion.sum(0)
    precision = hits / claimed.clamp(min=1)
    recall = hits / support.clamp(min=1)
    f1 = 2 * hits / (support + claimed).clamp(min=1)
    correct, n = int(hits.sum()), len(labels)
    return {
        "n": n,
        "accuracy": correct / n,
        "accuracy_95": wilson_interval(correct, n),
        "loss": F.cross_entropy(logits, labels).item(),
        "per_class": {
            name: {
                "precision": precision[i].item(),
                "recall": recall[i].item(),
                "f1": f1[i].item(),
                "support": support[i].item(),
            }
            for i, name in enumerate(data.CLASSES)
        },
        "confusion": confusion.tolist(),
    }


@torch.no_grad()
def measure_latency(model, images, batch_size=256):
    """Time inference from uint8 images on the model's device to logits.

    Each figure comes after a warm-up. Batch 1 is timed 100 times, the large batch as often as
    fits into a second but at least three times.

    Returns:
        A dictionary: batch-1 median, 25th and 75th percentile in milliseconds, the median
        images/s at ``batch_size``, and the device, its name and the number of CPU threads.
    """
    device = next(model.parameters()).device

    def run(n):
        synchronize(device)
        start = time.perf_counter()
        model(data.normalize(images[:n]))
        synchronize(device)
        return time.perf_counter() - start

    images = images[:batch_size].to(device)
    for _ in range(20):
        run(1)
    single = [run(1) for _ in range(100)]
    run(batch_size)
    batched = [run(batch_size) for _ in range(3)]
    while sum(batched) < 1:
        batched.append(run(batch_size))
    q1, median, q3 = statistics.quantiles(single, n=4)
    return {
        "batch_1_ms": 1000 * median,
        "batch_1_ms_quartiles": (1000 * q1, 1000 * q3),
        "large_batch": len(images),
        "large_batch_images_per_second": len(images) / statistics.median(batched),
        "device": device.type,
        "device_name": describe_device(device),
        "threads": torch.get_num_threads(),
    }


def print_report(result):
    """Print an evaluation as a person reads it."""
    low, high = result["accuracy_95"]
    print(f"{result['checkpoint']}: {result['model']}, {result['parameters']:,} parameters")
    print(
        f"{result['split']} accuracy {100 * result['accuracy']:.2f} % (95 % interval "
        f"{100 * low:.2f} to {100 * high:.2f}), loss {result['loss']:.4f}, {result['n']:,} images"
    )
    if "accuracy_flip_tta" in result:
        print(f"with the mirror images, too: {100 * result['accuracy_flip_tta']:.2f} %")
    print(f"\n{'class':12} precision  recall      F1  support")
    for name, c in result["per_class"].items():
        print(
            f"{name:12} {c['precision']:9.4f} {c['recall']:7.4f} {c['f1']:7.4f} {c['support']:8d}"
        )
    print("\nconfusion matrix (a row is a true class, a column a predicted one)")
    for name, row in zip(data.CLASSES, result["confusion"], strict=True):
        print(f"{name:12}" + "".join(f"{count:6d}" for count in row))
    t = result["latency"]
    print(
        f"\nlatency at batch 1: {t['batch_1_ms']:.2f} ms (quartiles "
        f"{t['batch_1_ms_quartiles'][0]:.2f} to {t['batch_1_ms_quartiles'][1]:.2f}); "
        f"at batch {t['large_batch']}: {t['large_batch_images_per_second']:,.0f} images/s "
        f"({t['device_name']}, {t['threads']} threads)"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description="Judge a checkpoint on the test or validation images.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--ckpt", required=True, help="checkpoint written by train.py")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="images to use")
    parser.add_argument("--flip-tta", action="store_true", help="also give the accuracy of the "
        "mean of an image's and its mirror image's probabilities")  # fmt: skip
    parser.add_argument("--images", nargs="+", help="judge these photographs, or the pictures in "
        "these folders, instead of the data set")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=256, help="images per forward pass")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps …")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument("--data-dir", default="data", help="folder of the data set")
    args = parser.parse_args(argv)
    if args.batch_size < 1 or args.threads < 0:
        parser.error("--batch-size must be at least 1 and --threads at least 0")

    if args.threads:
        torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    model, checkpoint = load_checkpoint(args.ckpt)
    model.to(device)
    if args.images:
        from extras import photographs  # noqa: PLC0415 (needed by nobody else)

        if failed := photographs.judge(model, args.images):
            sys.exit(f"evaluate.py: {failed} of the photographs could not be judged")
        return None
    images, labels = data.load(args.data_dir, train=args.split == "val")
    index = torch.arange(len(images))
    if args.split == "val":
        if checkpoint["config"].get("train_on") == "all":
            raise ValueError(f"{args.ckpt} was trained on the validation images, too")
        index = data.split_indices(seed=checkpoint["config"]["split_seed"])[1]
        images, labels = images[index], labels[index]

    # float32 throughout, so that the published accuracy does not depend on the machine's types.
    logits = predict(model, images, args.batch_size)
    if args.flip_tta:
        other = predict(model, images.flip(2), args.batch_size).softmax(1)
        mirrored = ((logits.softmax(1) + other).argmax(1) == labels).double().mean().item()
    result = {
        "checkpoint": str(args.ckpt),
        "model": checkpoint["config"]["model"],
        "epoch": checkpoint["epoch"],
        "split": args.split,
        "parameters": count_parameters(model),
        **score(logits, labels),
        **({"accuracy_flip_tta": mirrored} if args.flip_tta else {}),
        "latency": measure_latency(model, images),
    }
    print_report(result)

    # best.pt gives evaluation.json; other checkpoints and splits do not overwrite it.
    path = Path(args.ckpt)
    prefix = "" if path.stem == "best" else f"{path.stem}-"
    prefix += "" if args.split == "test" else f"{args.split}-"
    result_path = path.with_name(f"{prefix}evaluation.json")
    predictions_path = path.with_name(f"{prefix}predictions.csv")
    result_path.write_text(json.dumps(result, indent=1) + "\n")
    confidence, predicted = logits.softmax(1).max(1)
    with open(predictions_path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("index", "true", "predicted", "probability"))
        for row in zip(index, labels, predicted, confidence, strict=True):
            writer.writerow((*(int(x) for x in row[:3]), f"{row[3]:.4f}"))
    print(f"written: {result_path} and {predictions_path}")
    return result


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"evaluate.py: {error}")
