"""Measure the speed of this machine, and of this code on it: data, training, inference.

    make bench

Writes bench.csv and bench.md. "Plain" is the usual loop: float32, channels first (NCHW),
torchvision's transforms in a DataLoader. "Ours" is what train.py does. Both follow the report's
recipe.

The cases are measured in turn, several times each, because a shared machine is faster in some
minutes than in others: only numbers of one run of this script compare. That is why
torch.utils.benchmark.Timer, which measures one case after another, is not used here.

The last column compares the arithmetic per second of a training with that of one large product of
square matrices by PyTorch in the same precision. It can exceed 100 %: on AMD processors PyTorch's
float32 product is slower than its convolutions.
"""

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision import datasets, transforms
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
import evaluate
import train
from analyze import write_table
from models import MODELS, build_model

BATCH = 128
NCHW, NHWC = torch.contiguous_format, torch.channels_last
PRODUCT = "matrix product"


# ---- The cases: each is a function that does some work and returns how much


def plain_batches(data_dir, workers):
    """Yield batches from torchvision's transforms and a DataLoader, without end."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(28, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.MEAN, data.STD),
        ]
    )
    dataset = datasets.FashionMNIST(data_dir, train=True, transform=transform)
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=workers)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def our_batches(images, labels):
    """Yield batches as train.py makes them, without end."""
    args = train.parse_args(["--recipe", "report", "--batch-size", str(BATCH)])
    for step in itertools.count():  # as if an epoch had one batch, so that all take equally long
        index = torch.randint(len(images), (BATCH,), device=images.device)
        ((x, y),) = train.draw_epoch((images[index], labels[index]), step, args)
        yield data.preprocess(x), y


def take(batches, count):
    """Return a case that makes some batches."""

    def run():
        return sum(len(x) for x, _ in itertools.islice(batches, count))

    return run


def train_steps(name, batches, count, device, *, layout, dtype):
    """Return a case that makes some training steps with Adam."""
    model = build_model(name).to(device, memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def run():
        images = 0
        for x, y in itertools.islice(batches, count):
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                logits = model(x.to(device)).float()
            loss = F.cross_entropy(logits, y.to(device))
            model.zero_grad()
            loss.backward()
            optimizer.step()
            images += len(x)
        return images

    return run


def infer(model, x, count, dtype):
    """Return a case that classifies a batch some times."""

    @torch.no_grad()
    def run():
        for _ in range(count):
            with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
                model(x)
        return count * len(x)

    return run


def orthogonalize_as_published(matrix):
    """Return the same as train.orthogonalize, computed by the published iteration on X itself."""
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def apply(work, function, *arguments):
    """Return a case that calls a function once; ``work`` is how much that does."""

    def run():
        function(*arguments)
        return work

    return run


def build_cases(device, args):
    """Return the cases by name and variant, in the order of the table."""
    dtype = torch.bfloat16 if evaluate.has_native_bfloat16(device) else None
    images, labels = (t.to(device) for t in data.load(args.data_dir, train=True))
    kernel = torch.randn(512, 4608, device=device)
    side = 2048 if device.type == "cpu" else 8192
    a, b = torch.randn(2, side, side, device=device)
    cases = {(PRODUCT, "float32"): apply(2 * side**3, torch.matmul, a, b)}
    if dtype:
        cases[PRODUCT, "bfloat16"] = apply(2 * side**3, torch.matmul, a.to(dtype), b.to(dtype))
    cases |= {
        ("Muon 512×4608", "as published"): apply(1, orthogonalize_as_published, kernel),
        ("Muon 512×4608", "on the Gram matrix"): apply(1, train.orthogonalize, kernel),
        ("data", "DataLoader without workers"): take(plain_batches(args.data_dir, 0), 10),
        ("data", "DataLoader with 2 workers"): take(plain_batches(args.data_dir, 2), 30),
        ("data", "ours"): take(our_batches(images, labels), 200),
    }
    for name in args.models:
        steps = 20 if name == "mlp" else 2
        plain, ours = plain_batches(args.data_dir, 0), our_batches(images, labels)
        variants = {"plain": (plain, NCHW, None), "ours float32": (ours, NHWC, None)}
        if dtype:
            variants["ours bfloat16"] = (ours, NHWC, dtype)
        for how, (batches, layout, kind) in variants.items():
            run = train_steps(name, batches, steps, device, layout=layout, dtype=kind)
            cases[f"train {name}", how] = run
        for size, count in ((1, 30), (256, 1)):
            x = data.preprocess(images[:size])
            for how, (_, layout, kind) in variants.items():
                model = build_model(name).eval().to(device, memory_format=layout)
                cases[f"infer {name} batch {size}", how] = infer(model, x, count, kind)
    return cases


# ---- Measuring and writing


def measure(cases, repeats, device):
    """Time all cases in turn, several times; return a list of rates, per second, for each."""
    rates = {key: [] for key in cases}
    for repeat in tqdm(range(repeats + 1), "rounds", disable=None):
        for key, run in cases.items():
            synchronize(device)
            start = time.perf_counter()
            count = run()
            synchronize(device)
            if repeat:  # the first round is the warm-up
                rates[key].append(count / (time.perf_counter() - start))
    return rates


def synchronize(device):
    """Wait until the device has done all that was asked of it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def count_flops(name):
    """Return the floating-point operations of a training step, per image."""
    with FlopCounterMode(display=False) as counter:
        build_model(name)(torch.zeros(2, 1, 28, 28)).sum().backward()
    return counter.get_total_flops() / 2


def three_digits(value):
    """Write a number with three significant digits, or more if it has more before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def tabulate(rates):
    """Return the rows of the table, one dictionary for each case."""
    first = {}  # the median of the first case of each kind
    rows = []
    for (what, how), values in rates.items():
        unit, scale = ("GFLOP/s", 1e9) if what == PRODUCT else ("images/s", 1)
        unit = "kernels/s" if what.startswith("Muon") else unit
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        first.setdefault(what, median)
        row = {
            "what": what,
            "how": how,
            "median": three_digits(median / scale),
            "25 %": three_digits(low / scale),
            "75 %": three_digits(high / scale),
            "unit": unit,
            "× the first": f"{median / first[what]:.2f}",
            "of the matrix product": "",
        }
        if what.startswith("train"):
            precision = "bfloat16" if "bfloat16" in how else "float32"
            product = statistics.median(rates[PRODUCT, precision])
            share = median * count_flops(what.split()[1]) / product
            row["of the matrix product"] = f"{100 * share:.1f} %"
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add, networks = parser.add_argument, list(MODELS)
    add("--models", nargs="+", choices=networks, default=networks, help="networks to measure")
    add("--repeats", type=data.number(int, 2, 1000), default=7, help="measurements of each case")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps …")
    add("--threads", type=data.number(int, 0, 1024), default=0,
        help="CPU threads; 0: PyTorch's choice")  # fmt: skip
    add("--data-dir", default="data", help="folder of the data set")
    add("--out", default="runs", help="folder of bench.csv and bench.md")
    args = parser.parse_args()

    device = evaluate.use_device(args.device, args.threads)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)  # a mistake shows now, not after the measurements
    rows = tabulate(measure(build_cases(device, args), args.repeats, device))
    machine = (
        f"Measured on {evaluate.describe_device(device)}, {torch.get_num_threads()} threads, "
        f"PyTorch {torch.__version__}, batches of {BATCH}, {args.repeats} rounds"
    )
    data.write_csv(out / "bench.csv", rows)
    write_table(rows, out / "bench.md", [machine])
    print((out / "bench.md").read_text(encoding="utf-8"))
    print(f"written: {out / 'bench.csv'}")


if __name__ == "__main__":
    data.run_script(main)
