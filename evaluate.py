"""Evaluate a checkpoint: accuracy, errors and latency on the test (or validation) images.

    python evaluate.py --ckpt runs/mlp/best.pt

Writes ``evaluation.json`` and ``predictions.csv`` beside best.pt. Other checkpoints and splits get
a prefix: ``last-evaluation.json``, ``val-evaluation.json``.
"""

import argparse
import json
import pickle
import platform
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import data
from models import build_model, count_parameters


@torch.no_grad()
def predict(model, images):
    """Return the logits of images, in evaluation mode and without augmentation. It computes in
    float32, or in bfloat16 where the caller has switched autocast on.

    Args:
        model: network on any device; it is put into evaluation mode.
        images: uint8 tensor N×28×28.

    Returns:
        float32 tensor N×10 on the CPU.
    """
    device = next(model.parameters()).device
    model.eval()
    logits = []
    for batch in images.split(500):
        logits.append(model(data.preprocess(batch.to(device))).float().cpu())
    return torch.cat(logits)


def accuracy(scores, labels):
    """Return the accuracy of scores N×10, such as logits, given the labels N."""
    return (scores.argmax(1) == labels).double().mean().item()


def score(logits, labels):
    """Compare logits N×10 with labels N.

    Returns:
        A dictionary: n, accuracy, accuracy_95 (its 95 % confidence interval, by Wilson's method:
        the true accuracies that are compatible with this result) and loss (mean cross-entropy).
    """
    from scipy.stats import binomtest  # here, because the import takes a second

    n, correct = len(labels), int((logits.argmax(1) == labels).sum())
    return {
        "n": n,
        "accuracy": correct / n,
        "accuracy_95": list(binomtest(correct, n).proportion_ci(method="wilson")),
        "loss": F.cross_entropy(logits, labels).item(),
    }


def evaluate(path, split, device, data_dir):
    """Evaluate a checkpoint, print the result and write it beside the checkpoint.

    Args:
        path: ``Path`` of the checkpoint.
        split: "test", or "val" for the validation images, 12,000 of the 60,000 training images.
        device: the ``torch.device`` that computes.
        data_dir: folder of the data set.

    Raises:
        UserError: the checkpoint cannot be used, or it was trained on the images of the split; the
            data cannot be loaded, or the result cannot be written.
    """
    model, checkpoint = load_model(path)
    model.to(device)
    images, labels = data.load(data_dir, train=(split == "val"))
    index = torch.arange(len(images))  # the images' numbers in the data set
    if split == "val":
        if checkpoint["config"].get("train_on") == "all":
            raise data.UserError(f"{path} was also trained on the validation images")
        _, index = data.split_indices()
        images, labels = images[index], labels[index]

    logits = predict(model, images)
    result = {
        "model": checkpoint["config"]["model"],
        "epoch": checkpoint["epoch"],
        "split": split,
        "parameters": count_parameters(model),
        **score(logits, labels),
        "latency": measure_latency(model, images),
    }
    probability, predicted = logits.softmax(1).max(1)
    print(f"{path}: {result['model']}, {result['parameters']:,} parameters")
    print_report(result, labels, predicted)
    rows = [
        {"index": int(i), "true": int(y), "predicted": int(p), "probability": f"{q:.4f}"}
        for i, y, p, q in zip(index, labels, predicted, probability, strict=True)
    ]
    prefix = "" if path.stem == "best" else f"{path.stem}-"
    prefix += "" if split == "test" else f"{split}-"
    result_path = path.with_name(f"{prefix}evaluation.json")
    predictions_path = path.with_name(f"{prefix}predictions.csv")
    data.write_file(result_path, (json.dumps(result, indent=1) + "\n").encode())
    data.write_csv(predictions_path, rows)
    print(f"written: {result_path} and {predictions_path}")


def print_report(result, labels, predicted):
    """Print an evaluation as text."""
    from sklearn.metrics import classification_report, confusion_matrix

    low, high = result["accuracy_95"]
    print(
        f"{result['split']} accuracy {100 * result['accuracy']:.2f} % (95 % interval "
        f"{100 * low:.2f} to {100 * high:.2f}), loss {result['loss']:.4f}, {result['n']:,} images\n"
    )
    names = data.CLASSES
    print(classification_report(labels, predicted, target_names=names, digits=4, zero_division=0.0))
    print("confusion matrix (one row per true class, one column per predicted class)")
    print(confusion_matrix(labels, predicted))
    speed = result["latency"]
    low, high = speed["batch_1_ms_quartiles"]
    print(
        f"\nlatency at batch 1: {speed['batch_1_ms']:.2f} ms (quartiles {low:.2f} to {high:.2f}); "
        f"at batch {speed['large_batch']}: {speed['large_batch_images_per_second']:,.0f} images/s "
        f"({speed['device_name']}, {speed['threads']} threads)"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    count = data.number(int, 0, 1024)
    add("--ckpt", type=Path, required=True, help="checkpoint written by train.py")
    add("--split", choices=("test", "val"), default="test", help="images to evaluate on")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps …")
    add("--threads", type=count, default=0, help="CPU threads; 0: PyTorch's choice")
    add("--data-dir", default="data", help="folder of the data set")
    args = parser.parse_args()
    evaluate(args.ckpt, args.split, use_device(args.device, args.threads), args.data_dir)


# ---- Latency, checkpoints and devices: this can wait for a second reading


@torch.no_grad()
def measure_latency(model, images):
    """Time inference on the model's device, from bytes to logits.

    Returns:
        A dictionary: median and quartiles at batch 1 in milliseconds, images per second in a
        batch of up to 256 images, and the device, its name and the number of CPU threads.
    """
    from torch.utils.benchmark import Timer  # it warms up and waits for a GPU to finish

    device, threads = next(model.parameters()).device, torch.get_num_threads()

    def measure(batch):
        # Timer repeats a statement with these variables for at least half a second. Its times are
        # in seconds, each the mean over a block of repetitions.
        names = {"model": model, "preprocess": data.preprocess, "x": batch}
        timer = Timer("model(preprocess(x))", globals=names, num_threads=threads)
        return timer.blocked_autorange(min_run_time=0.5).times

    images = images[:256].to(device)
    one, many = measure(images[:1]), measure(images)
    q1, median, q3 = np.percentile(one, (25, 50, 75)).tolist()
    return {
        "batch_1_ms": 1000 * median,
        "batch_1_ms_quartiles": (1000 * q1, 1000 * q3),
        "large_batch": len(images),
        "large_batch_images_per_second": len(images) / np.median(many).item(),
        "device": device.type,
        "device_name": describe_device(device),
        "threads": threads,
    }


def load_model(path):
    """Rebuild the network of a checkpoint.

    Returns:
        model: the network with its weights, on the CPU and in evaluation mode.
        checkpoint: the dictionary that was saved. "config" has the training options, "epoch" the
            number of finished epochs.

    Raises:
        UserError: as ``read_checkpoint``, or the network cannot be rebuilt from it.
    """
    checkpoint = read_checkpoint(path)
    config = checkpoint["config"]
    try:
        model = build_model(config["model"], config["width"], config["dropout"])
        model.load_state_dict(checkpoint["model"])
        if not all(weight.isfinite().all() for weight in model.state_dict().values()):
            raise ValueError("a weight is not finite")
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {data.last_line(error)}"
        raise data.UserError(f"{path} does not fit models.py: {reason}") from None
    return model.eval(), checkpoint


def read_checkpoint(path):
    """Read a checkpoint file. Only tensors and plain values are unpickled: no code in it is run.

    Raises:
        UserError: it cannot be read, is damaged, or is not a checkpoint of train.py.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # PyTorch itself does not verify the CRCs
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"wrong CRC-32 in {damaged}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # PyTorch's own message recommends loading it unsafely
        raise data.UserError(f"{path} holds more than tensors and plain values") from None
    except Exception as error:  # a damaged file can make both of them raise nearly anything
        raise data.UserError(f"{path} cannot be read as a checkpoint ({error!r})") from None
    if not isinstance(checkpoint, dict) or not {"config", "epoch", "model"} <= checkpoint.keys():
        raise data.UserError(
            f'{path} was not written by train.py: it lacks "config", "epoch" or "model"'
        )
    return checkpoint


def use_device(name, threads=0):
    """Return the device of that name, and set what holds for the whole process: the number of CPU
    threads, and that float32 is not rounded to TF32. "auto" prefers an accelerator to the CPU.

    Args:
        name: "auto", "cpu", "cuda", "cuda:1", "mps" …
        threads: CPU threads; 0 for PyTorch's choice.

    Raises:
        UserError: there is no such device on this machine.
    """
    # By default NVIDIA GPUs round the operands of float32 convolutions to TF32: 10 bits, not 23.
    torch.backends.cudnn.allow_tf32 = False
    if threads:
        torch.set_num_threads(threads)
    if name == "auto":
        name = str(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).tolist()  # fails if the device does not work
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise data.UserError(
            f"device {name!r} cannot be used here ({reason}); use --device cpu"
        ) from None
    if device.type == "cuda":  # Timer and is_bf16_supported() use the current GPU
        torch.cuda.set_device(device.index or 0)
    return device


def describe_device(device):
    """Return the name of the processor: "NVIDIA H100", "AMD EPYC (family 26, model 2)".

    Virtual machines give processors of very different speed one name; family and model differ.
    Without them, on a Mac or on Windows, it is what Python knows, such as "arm".
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        cpu = {}
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            cpu[key.strip()] = value.strip()
        return f"{cpu['model name']} (family {cpu['cpu family']}, model {cpu['model']})"
    except (OSError, KeyError):  # not Linux, or not x86
        return platform.processor() or platform.machine()


def has_native_bfloat16(device):
    """Return whether an x86 CPU or a CUDA GPU multiplies bfloat16 matrices in hardware, not by
    emulation. Of other devices this is not known: False."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return False


if __name__ == "__main__":
    data.run_script(main)
