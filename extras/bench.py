"""Measure the speed of this machine and of this code on it: training, data, inference.

    make bench

All measurements are made by one run, interleaved, each one repeated after a warm-up, so that they
may be compared with one another (and with those of no other machine). "Plain" is the textbook's
loop: float32, channels outermost (NCHW), torchvision's transforms in a DataLoader without workers.
"Ours" is what train.py does, with "default malloc" without its ``keep_freed_memory``. Writes
bench.csv and bench.md.
"""

import argparse
import csv
import itertools
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision import datasets, transforms

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
import evaluate
from models import MODELS, Conv3x3, build_model
from train import Muon, has_native_bfloat16, keep_freed_memory

BATCH = 128


def textbook_batches(data_dir, workers):
    """Endless batches of torchvision's transforms in a DataLoader."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(28, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.5,), (0.5,)),
        ]
    )
    dataset = datasets.FashionMNIST(data_dir, train=True, transform=transform)
    loader = DataLoader(dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def our_batches(images, labels):
    """Endless batches as train.py makes them."""
    for seed in itertools.count():
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(images), generator=generator).to(images.device)
        draws = data.draw_augmentation(len(images), "crop-flip", 4, generator)
        offsets, flips = (t.to(images.device) for t in draws)
        for index in order[: len(order) // BATCH * BATCH].split(BATCH):
            x = data.apply_augmentation(images[index], offsets[index], flips[index], 4)
            yield data.normalize(x), labels[index]


def take(batches, count):
    """Return a case that takes some batches and nothing else."""

    def run():
        for x, _ in itertools.islice(batches, count):
            x.sum()
        return count * BATCH

    return run


def train(name, batches, count, device, *, layout, dtype):
    """Return a case that makes some training steps with Adam."""
    model = build_model(name).to(device, memory_format=layout)
    for module in model.modules():
        if isinstance(module, Conv3x3) and layout == torch.contiguous_format:
            module.__class__ = nn.Conv2d  # the textbook's
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def run():
        for x, y in itertools.islice(batches, count):
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                logits = model(x.to(device))
            loss = F.cross_entropy(logits.float(), y.to(device))
            model.zero_grad()
            loss.backward()
            optimizer.step()
        return count * BATCH

    return run


def orthogonalize(matrix, count, *, by_gram):
    """Return a case that orthogonalises a matrix by Muon's iteration some times."""
    muon = Muon([torch.zeros(1)], lr=0.1)

    def run():
        for _ in range(count):
            if by_gram:
                muon.orthogonalize(matrix)
                continue
            x = matrix / matrix.norm()  # as published
            for _ in range(3):
                gram = x @ x.T
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        return count

    return run


def infer(name, x, count, *, layout, dtype):
    """Return a case that classifies a batch some times."""
    model = build_model(name).eval().to(x.device, memory_format=layout)

    @torch.no_grad()
    def run():
        for _ in range(count):
            with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
                model(x)
        return count * len(x)

    return run


def multiply(size, dtype, device):
    """Return a case that multiplies two square matrices; it counts operations, not images."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def run():
        a @ b
        return 2 * size**3

    return run


def default_malloc(run):
    """The same case without train.py's ``keep_freed_memory``."""

    def run_so():
        keep_freed_memory(False)
        count = run()
        keep_freed_memory()
        return count

    return run_so


def count_flops(name):
    """Floating-point operations of a training step, forward and backward, per image."""
    with FlopCounterMode(display=False) as counter:
        build_model(name)(torch.zeros(2, 1, 28, 28)).sum().backward()
    return counter.get_total_flops() / 2


def measure(cases, repeats, device):
    """Time all cases in turn, and that several times; return a list of rates for each."""
    rates = {key: [] for key in cases}
    for repeat in range(repeats + 1):
        for key, run in cases.items():
            evaluate.synchronize(device)
            start = time.perf_counter()
            count = run()
            evaluate.synchronize(device)
            if repeat:  # the first round is the warm-up
                rates[key].append(count / (time.perf_counter() - start))
        print(f"round {repeat} of {repeats}", file=sys.stderr, flush=True)
    return rates


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="to measure")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each case")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps …")
    parser.add_argument("--threads", type=int, default=0, help="on the CPU; 0: PyTorch's choice")
    parser.add_argument("--data-dir", default="data", help="folder of the data set")
    parser.add_argument("--out", default="results", help="folder of bench.csv and bench.md")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.repeats < 3:
        parser.error("--repeats must be at least 3")
    keep_freed_memory()
    device = evaluate.pick_device(args.device)
    dtype = torch.bfloat16 if has_native_bfloat16(device) else None
    nchw, nhwc = torch.contiguous_format, torch.channels_last
    images, labels = (t.to(device) for t in data.load(args.data_dir, train=True))

    cases = {("matrix product 4096³", "float32"): multiply(4096, torch.float32, device)}
    if dtype:
        cases["matrix product 4096³", "bfloat16"] = multiply(4096, dtype, device)
    kernel = torch.randn(512, 4608, device=device)
    for how, by_gram in (("as published", False), ("on the Gram matrix", True)):
        cases["Muon, 512×4608, float32", how] = orthogonalize(kernel, 3, by_gram=by_gram)
    cases["data", "DataLoader, 0 workers"] = take(textbook_batches(args.data_dir, 0), 20)
    cases["data", "DataLoader, 2 workers"] = take(textbook_batches(args.data_dir, 2), 100)
    cases["data", "ours"] = take(our_batches(images, labels), 300)
    for name in args.models:
        steps = 40 if name == "mlp" else 2
        plain, ours = textbook_batches(args.data_dir, 0), our_batches(images, labels)
        kinds = [("plain", plain, nchw, None), ("ours, float32", ours, nhwc, None)]
        kinds += [("ours, bfloat16", ours, nhwc, dtype)] if dtype else []
        for how, batches, layout, kind in kinds:
            run = train(name, batches, steps, device, layout=layout, dtype=kind)
            cases[f"train {name}", how] = default_malloc(run) if how == "plain" else run
        cases[f"train {name}", f"{how}, default malloc"] = default_malloc(run)
        for n in (1, 256):
            x, count = data.normalize(images[:n]), 1 if n > 1 else 30
            for how, _, layout, kind in kinds:
                run = infer(name, x, count, layout=layout, dtype=kind)
                key = f"infer {name}, batch {n}", how
                cases[key] = default_malloc(run) if how == "plain" else run

    rates = measure(cases, args.repeats, device)
    peaks = {how: statistics.median(r) for (what, how), r in rates.items() if "product" in what}
    rows = []
    for (what, how), values in rates.items():
        low, middle, high = statistics.quantiles(values, n=4)
        first = statistics.median(next(v for (w, _), v in rates.items() if w == what))
        unit, scale = ("GFLOP/s", 1e9) if "product" in what else ("images/s", 1)
        unit = "kernels/s" if "Muon" in what else unit
        share = ""
        if what.startswith("train"):
            used = middle * count_flops(what.split()[1])
            share = f"{used / peaks['bfloat16' if 'bfloat16' in how else 'float32']:.1%}"
        numbers = (f"{x / scale:.0f}" for x in (middle, low, high))
        row = (what, how, *numbers, unit, f"{middle / first:.2f}", share)
        rows.append(row)

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    header = ("what", "how", "median", "25 %", "75 %", "unit", "× the first", "of the product's")
    with open(out / "bench.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    machine = (
        f"{evaluate.describe_device(device)}, {torch.get_num_threads()} threads, "
        f"PyTorch {torch.__version__}, batches of {BATCH}, {args.repeats} rounds"
    )
    lines = [machine, "", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    (out / "bench.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"\nwritten: {out / 'bench.csv'} and {out / 'bench.md'}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"bench.py: {error}")
