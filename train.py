"""Train a classifier on FashionMNIST, validate it after every epoch, test it at the end.

    python train.py --model resnet18

Writes into runs/NAME: config.json (options and environment), log.csv (one row per epoch),
steps.csv (training loss by step), TensorBoard events, best.pt (the epoch with the highest
validation accuracy) and last.pt (everything that --resume needs).
"""

import argparse
import contextlib
import io
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows: there nothing keeps two trainings out of one folder
    fcntl = None

import data
import evaluate  # predict(), load_checkpoint() and what the machine can do
from models import MODELS, build_model, count_parameters

# The report's recipe, with the usual learning rate and batch size, which it does not state.
REPORT = {
    "epochs": 133,  # its "about 50,000 steps"
    "batch_size": 128,
    "optimizer": "adam",
    "schedule": "cosine",
    "label_smoothing": 0.0,
    "padding": 4,
    "flip": 0.5,
    "erase": 0.0,
    "dropout": 0.3,
    "pixels": "28",
}
MLP = {**REPORT, "epochs": 400, "batch_size": 256, "optimizer": "adamw", "padding": 1}
RESNET = {
    **REPORT,
    "epochs": 16,
    "batch_size": 256,
    "optimizer": "muon",
    "schedule": "triangle",
    "label_smoothing": 0.1,
    "padding": 1,
    "dropout": 0.0,
    "pixels": "16,28",  # 16×16 for the first half of the epochs, then 28×28
}
MODERN = {"mlp": MLP, "resnet18": RESNET, "resnet34": RESNET}
PLAIN = {**REPORT, "epochs": 20}  # of every other network
# Optimizer: its default learning rate and weight decay.
OPTIMIZERS = {"adam": (1e-3, 0.0), "adamw": (2e-3, 0.1), "sgd": (0.1, 5e-4), "muon": (0.2, 5e-4)}

LOG_STEPS = 25  # one row of steps.csv is the mean loss of this many steps


# ---- One epoch


def train_epoch(network, optimizers, train_set, epoch, pixels, args):  # noqa: PLR0917
    """Train for one epoch.

    Args:
        network: on the device of the images; under torchrun it is wrapped for several processes.
        optimizers: list of optimizers that share the network's parameters.
        train_set: images N×28×28 uint8 and labels N.
        epoch: number of the epoch, from 0.
        pixels: resolution of the network's input.
        args: options of the command line.

    Returns:
        float64 tensor S×3 on the CPU, one row per step: sum of the losses, number of correct
        predictions, number of images.
    """
    images, labels = train_set
    rank, world = processes()
    batches, augmentation = draw_epoch(len(images), epoch, args, images.device)
    sums = []
    network.train()
    # disable=None shows the progress bar on a terminal only.
    bar = tqdm(batches, f"epoch {epoch + 1}/{args.epochs}", leave=False, disable=rank > 0 or None)
    for i, batch in enumerate(bar):
        step = epoch * len(batches) + i
        torch.manual_seed(1_000_000 * args.seed + step + 10**15 * rank)  # for dropout
        set_learning_rate(optimizers, args, (epoch + i / len(batches)) / args.epochs)
        index = batch[rank::world]  # this process's share of the batch
        x = make_inputs(images, index, augmentation, pixels, args)  # B×1×pixels×pixels
        y = labels[index]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=args.precision == "bfloat16"):
            logits = network(x).float()  # B×10
        loss = F.cross_entropy(logits, y, label_smoothing=args.label_smoothing)
        network.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        # These stay on the device: reading a number in each step would make a GPU wait.
        sums.append(torch.stack([loss.detach() * len(y), (logits.argmax(1) == y).sum()]))
    sums = add_up(torch.stack(sums).double()).cpu()
    return torch.cat([sums, torch.tensor([[len(batch)] for batch in batches])], 1)


def draw_epoch(n, epoch, args, device):
    """Draw the order and the augmentation of an epoch, from the seed and its number alone.

    Returns:
        batches: tuple of int64 index tensors. A last batch of less than a quarter is left out.
        augmentation: offsets, flips and boxes of the n images (see data.py). Draw those of a new
            augmentation last, so that the other random numbers stay the same.
    """
    generator = torch.Generator().manual_seed(10_000 * args.seed + epoch)
    batches = torch.randperm(n, generator=generator).to(device).split(args.batch_size)
    if len(batches) > 1 and len(batches[-1]) < args.batch_size // 4:
        batches = batches[:-1]
    offsets, flips = data.draw_crops(n, args.padding, args.flip, generator)
    boxes = data.draw_boxes(n, args.erase, generator)
    return batches, (offsets.to(device), flips.to(device), boxes.to(device))


def make_inputs(images, index, augmentation, pixels, args):
    """Augment some of the images, uint8 N×28×28: float32 B×1×pixels×pixels for B indices."""
    offsets, flips, boxes = (drawn[index] for drawn in augmentation)
    x = data.crop_and_flip(images[index], offsets, flips, args.padding)
    if args.erase:
        x = data.erase(x, boxes)
    return data.preprocess(x, pixels)


def validate(model, val_set, pixels, args):
    """Return the loss and the accuracy on the validation images; nan, nan if there are none."""
    images, labels = val_set
    if not len(images):
        return math.nan, math.nan
    rank, world = processes()
    if world > 1:  # process 0 saves the checkpoint, so its BatchNorm statistics count
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
    dtype = torch.bfloat16 if args.precision == "bfloat16" else None
    logits = evaluate.predict(model, images[rank::world], data.preprocessing(pixels), dtype=dtype)
    y = labels[rank::world]
    sums = [F.cross_entropy(logits, y, reduction="sum"), (logits.argmax(1) == y).sum()]
    loss, correct = add_up(torch.stack(sums).to(next(model.parameters()).device)).tolist()
    return loss / len(images), correct / len(images)


# ---- Learning rate and optimizers


def cosine(progress):
    """Cosine annealing from 1 to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def triangle(progress):
    """Linear warm-up to 1 over the first 20 %, then linear decay to 0: one cycle (Smith & Topin
    2018, arXiv:1708.07120)."""
    return min(progress / 0.2, (1 - progress) / 0.8)


# Each maps the progress of the training, 0 to 1, to a fraction of the highest learning rate.
SCHEDULES = {"cosine": cosine, "triangle": triangle}


def set_learning_rate(optimizers, args, progress):
    """Set all learning rates to what the schedule says at ``progress``, 0 to 1."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["highest_lr"] * SCHEDULES[args.schedule](progress)


def build_optimizers(model, args):
    """Return the list of the optimizers: one, or Muon and SGD for what Muon is not meant for.

    Raises:
        UserError: Muon is asked for and the network has no kernels for it.
    """
    parameters, kernels = list(model.parameters()), []
    if args.optimizer == "muon":  # all 3×3 kernels but the first, which has one input channel
        kernels = [p for p in parameters if p.shape[2:] == (3, 3) and p.shape[1] > 1]
        if not kernels:
            raise data.UserError(f"--optimizer muon is for 3×3 convolutions: {args.model} has none")
    matrices = [p for p in parameters if p.ndim > 1 and all(p is not k for k in kernels)]
    vectors = [p for p in parameters if p.ndim == 1]  # biases and BatchNorm: no weight decay
    groups = [
        {"params": matrices, "weight_decay": args.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if args.optimizer == "adam":
        optimizers = [torch.optim.Adam(groups, args.lr, fused=True)]
    elif args.optimizer == "adamw":
        optimizers = [torch.optim.AdamW(groups, args.lr, fused=True)]
    else:
        optimizers = [torch.optim.SGD(groups, args.lr, momentum=0.9, nesterov=True, fused=True)]
    if kernels:
        optimizers.append(Muon(kernels, args.muon_lr))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["highest_lr"] = group["lr"]
    return optimizers


class Muon(torch.optim.Optimizer):
    """Momentum with an orthogonalised update, for the kernels of convolutions.

    Jordan 2024 (kellerjordan.github.io/posts/muon), in the form of his airbench94: each step also
    rescales the kernel to the norm √(output channels). The BatchNorm after it cancels the scale,
    so this only fixes the size of a step relative to the weights, as weight decay would.

    ``torch.optim.Muon`` does not serve: it takes matrices only and computes in bfloat16, which is
    fifty times slower than float32 on a CPU that emulates it.
    """

    def __init__(self, params, lr, momentum=0.6):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for kernel in group["params"]:  # out×in×3×3
                state = self.state[kernel]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(kernel)
                buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(kernel.grad)
                update = kernel.grad.add(buffer, alpha=group["momentum"])  # Nesterov
                update = orthogonalize(update.flatten(1)).view_as(kernel)
                kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
                kernel.sub_(update, alpha=group["lr"])


def orthogonalize(x, steps=3):
    """Bring the singular values of a matrix m×n near 1, by Jordan's Newton-Schulz iteration
    X ← (aI + bG + cG²) X with G = XXᵀ, m×m.

    With P for the bracket, the next G is PGP. So it is enough to iterate on G and to multiply X by
    the product of all P once, at the end, which takes half the time.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    gram = x @ x.T
    squared_norm = gram.trace() + 1e-14
    gram = gram / squared_norm
    product = identity = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(steps):
        p = a * identity + b * gram + c * gram @ gram
        gram = p @ gram @ p
        product = p @ product
    return product / squared_norm.sqrt() @ x


# ---- Several processes


def processes():
    """Return the number of this process, from 0, and how many there are, as torchrun says it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def join_processes(device, args):
    """Connect the processes that torchrun started; return the device of this one."""
    rank, world = processes()
    if world > max(1, args.batch_size // 4):  # the last batch may have only a quarter
        raise data.UserError(f"{world} processes are too many for batches of {args.batch_size}")
    if world > 1:
        if device.type == "cuda":
            device = evaluate.use_device(f"cuda:{os.environ['LOCAL_RANK']}")
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        # torchrun --max-restarts has started all processes again after one of them died.
        args.resume |= int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if rank > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (process 0 prints for all)
    return device


def add_up(tensor):
    """Replace a tensor by its sum over all processes; return it."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


# ---- The folder of a run

# These may change when a run is resumed.
FREE_OPTIONS = ("name", "runs", "resume", "no_test", "device", "threads", "data_dir")


def open_run(run, options, resume):
    """Make the folder of a run, or read what a run to be resumed has left there.

    Returns:
        checkpoint: the content of last.pt; None if the run is new.
        lock: an open file, which keeps other trainings out of the folder until it is closed.

    Raises:
        UserError: the folder holds something that this training would overwrite or cannot resume.
    """
    last, lock, checkpoint = run / "last.pt", None, None
    if processes()[0] == 0:
        run.mkdir(parents=True, exist_ok=True)
        lock = open(run / "lock", "w", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl and fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise data.UserError(f"{run} is being trained by another process") from None
    others = {file.name for file in run.glob("*")} - {"lock", "last.pt.tmp"}
    if last.exists():
        if not resume:
            raise data.UserError(f"{run} holds a run: --resume continues it, --name starts another")
        _, checkpoint = evaluate.load_checkpoint(last)
        if not checkpoint.keys() >= {"optimizers", "log", "steps"}:
            raise data.UserError(f"{last} holds weights, but not what --resume needs")
        for name, value in options.items():
            old = checkpoint["config"].get(name)
            if value != old:
                raise data.UserError(f"{run} was started with {name} = {old}, not {value}")
    elif others:
        raise data.UserError(f"{run} holds {min(others)}, but no last.pt: choose another --name")
    if dist.is_initialized():
        dist.barrier()  # nothing is written before all processes have looked
    return checkpoint, lock


def save(path, state, model, optimizers=None):
    """Write a checkpoint: best.pt for evaluate.py or, with the optimizers, last.pt for --resume."""
    checkpoint = {**state, "model": model.state_dict()}
    if optimizers:
        checkpoint["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    data.write_file(path, buffer.getbuffer())


def environment(device):
    """Return what the numbers of a run depend on besides its options."""
    git = ["git", "-C", Path(__file__).resolve().parent, "describe", "--always", "--dirty"]
    revision = None
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no git, or not a clone
        revision = subprocess.check_output(git, stderr=subprocess.DEVNULL, text=True).strip()
    return {
        "git": revision,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": device.type,
        "device_name": evaluate.describe_device(device),
        "threads": torch.get_num_threads(),
        "processes": processes()[1],
    }


# ---- Options


def resolutions(text):
    """An argparse type: a list of resolutions such as 16,28."""
    return [data.number(int, 8, 64)(size) for size in text.split(",")]


def folder_name(text):
    """An argparse type: a name that suits a folder on every system."""
    if not re.fullmatch(r"\w[\w.+=-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not made of letters, digits and _ . + = -")
    return text


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="The defaults shown are those of the --recipe, --model and --optimizer given.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    number = data.number
    share, rate, seed = number(float, 0, 0.99999), number(float, 0, 1000), number(int, 0, 10**9)
    add = parser.add_argument_group("recipe").add_argument
    add("--model", choices=MODELS, default="resnet18", help="network to train")
    add("--recipe", choices=("report", "modern"), default="modern", help="sets the defaults below")
    add("--epochs", type=number(int, 1, 10**5), help="passes over the training images")
    add("--batch-size", type=number(int, 1, 10**5), help="images per step")
    add("--optimizer", choices=OPTIMIZERS, help="sgd: with Nesterov momentum 0.9; "
        "muon: Muon for the 3×3 convolutions but the first, SGD for the rest")  # fmt: skip
    add("--lr", type=rate, help="highest learning rate of Adam, AdamW or SGD")
    add("--muon-lr", type=rate, default=0.12, help="highest learning rate of Muon")
    add("--schedule", choices=SCHEDULES, help="course of the learning rate by step")
    add("--weight-decay", type=rate, help="weight decay; Muon's kernels and vectors have none")
    add("--label-smoothing", type=share, help="amount of label smoothing")
    add("--padding", type=number(int, 0, 28), help="pixels of padding of the random crop; 0: none")
    add("--flip", type=number(float, 0, 1), help="probability of a horizontal flip")
    add("--erase", type=share, help="probability of erasing a box (Random Erasing)")
    add("--dropout", type=share, help="dropout before the last layer of a ResNet")
    add("--pixels", type=resolutions, help="resolutions, each for an equal part of the epochs")
    # Below 7 channels, oneDNN 3.12 writes beyond its memory in 1×1 convolutions on AVX2 CPUs.
    add("--width", type=number(int, 8, 4096), default=64, help="channels of a ResNet's first stage")
    add("--train-on", choices=("split", "all"), default="split",
        help="all: the validation images, too; best.pt is then the last epoch")  # fmt: skip
    add = parser.add_argument_group("run").add_argument
    add("--seed", type=seed, default=0, help="seed of all random numbers")
    add("--runs", default="runs", help="folder of all runs")
    add("--name", type=folder_name, help="folder of this run (default: the model's name)")
    add("--resume", action="store_true", help="continue the run of that name, if there is one")
    add("--no-test", action="store_true", help="skip testing at the end")
    add = parser.add_argument_group("machine").add_argument
    add("--data-dir", default="data", help="folder of the data set, downloaded if missing")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps …")
    add("--threads", type=number(int, 0, 1024), default=0, help="CPU threads; 0: PyTorch's choice")
    add("--precision", choices=("auto", "float32", "bfloat16"), default="auto",
        help="bfloat16 autocast or not; auto: where the hardware computes it natively")  # fmt: skip

    # The other defaults depend on recipe, model and optimizer, so these are parsed first.
    known, _ = parser.parse_known_args([word for word in argv if word not in ("-h", "--help")])
    recipe = REPORT if known.recipe == "report" else MODERN.get(known.model, PLAIN)
    lr, weight_decay = OPTIMIZERS[known.optimizer or recipe["optimizer"]]
    parser.set_defaults(**recipe, lr=lr, weight_decay=weight_decay, name=known.model)
    return parser.parse_args(argv)


def pixels_by_epoch(sizes, epochs):
    """Return one resolution per epoch; the last epoch always has the last one."""
    return [sizes[math.ceil((epoch + 1) * len(sizes) / epochs) - 1] for epoch in range(epochs)]


@torch.no_grad()
def check_pixels(model, args):
    """Raise a UserError if the network, such as the MLP, does not take a resolution."""
    device = next(model.parameters()).device
    for size in set(args.pixels) - {28}:
        try:
            model.eval()(torch.zeros(1, 1, size, size, device=device))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise data.UserError(f"{args.model} cannot take --pixels {size}: {reason}") from None


# ---- Everything together


def load_sets(args, device):
    """Return images and labels for training, on the device, and those for validation."""
    images, labels = data.load(args.data_dir, train=True)
    if not args.no_test:
        data.load(args.data_dir, train=False)  # a damaged test set is found now, not at the end
    train_index, val_index = data.split_indices(len(images))
    if args.train_on == "all":
        train_index, val_index = torch.arange(len(images)), val_index[:0]
    train_set = images[train_index].to(device), labels[train_index].to(device)
    return train_set, (images[val_index], labels[val_index])


def main(argv=None):
    args = parse_args(sys.argv[1:] if argv is None else argv)
    device = join_processes(evaluate.use_device(args.device, args.threads), args)
    if args.precision == "auto":
        args.precision = "bfloat16" if evaluate.has_native_bfloat16(device) else "float32"
    train_set, val_set = load_sets(args, device)
    torch.manual_seed(args.seed)
    model = build_model(args.model, args.width, args.dropout).to(device)
    check_pixels(model, args)
    sizes = pixels_by_epoch(args.pixels, args.epochs)
    optimizers = build_optimizers(model, args)
    run, is_main = Path(args.runs) / args.name, processes()[0] == 0

    # Start or resume. The state is all that a checkpoint holds besides weights and optimizers.
    options = {name: value for name, value in vars(args).items() if name not in FREE_OPTIONS}
    checkpoint, lock = open_run(run, options, args.resume)  # noqa: RUF059 (the lock stays open)
    config = {**options, "parameters": count_parameters(model), **environment(device)}
    state = {"config": config, "epoch": 0, "log": [], "steps": []}
    state["preprocessing"] = data.preprocessing(sizes[0])
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
        for optimizer, saved in zip(optimizers, checkpoint["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        state = {key: checkpoint[key] for key in state}
        state["config"].setdefault("resumed", []).append(environment(device))
        print(f"resuming {run} after epoch {state['epoch']}")
    log, steps = state["log"], state["steps"]
    if is_main:
        if not checkpoint:
            save(run / "last.pt", state, model, optimizers)
        data.write_file(run / "config.json", json.dumps(state["config"], indent=1).encode())
        board = SummaryWriter(run, purge_step=log[-1]["step"] + 1 if log else None)
        batches, augmentation = draw_epoch(len(train_set[0]), 0, args, device)
        x = make_inputs(train_set[0], batches[0][:64], augmentation, sizes[0], args)
        board.add_images("train/inputs", x * data.STD + data.MEAN, 0)
    network = torch.nn.parallel.DistributedDataParallel(model) if dist.is_initialized() else model
    print(
        f"{args.model} ({config['parameters']:,} parameters) on {config['device_name']}, "
        f"{config['threads']} threads, {args.precision}: {args.epochs} epochs into {run}"
    )

    for epoch in range(state["epoch"], args.epochs):
        start = time.perf_counter()
        sums = train_epoch(network, optimizers, train_set, epoch, sizes[epoch], args)
        seconds = time.perf_counter() - start
        train_loss, train_accuracy = (sums[:, :2].sum(0) / sums[:, 2].sum()).tolist()
        val_loss, val_accuracy = validate(model, val_set, sizes[epoch], args)
        finite = all(tensor.isfinite().all() for tensor in model.state_dict().values())
        if not (finite and math.isfinite(train_loss)):
            raise data.UserError(
                f"the loss or a weight is not finite in epoch {epoch + 1}; {run / 'last.pt'} holds "
                f"epoch {epoch}; try a lower --lr in a new run"
            )
        row = {
            "epoch": epoch + 1,
            "step": (epoch + 1) * len(sums),
            "pixels": sizes[epoch],
            "learning_rate": optimizers[0].param_groups[0]["lr"],
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "seconds": time.perf_counter() - start,
            "images_per_second": sums[:, 2].sum().item() / seconds,
        }
        # Accuracies at different resolutions do not compare, and the test has the last one.
        earlier = [old["val_accuracy"] for old in log if old["pixels"] == sizes[epoch]]
        is_best = args.train_on == "all" or val_accuracy > max(earlier, default=-1.0)
        log.append(row)
        for i, part in enumerate(sums.split(LOG_STEPS)):
            loss, _, images = part.sum(0).tolist()
            step = epoch * len(sums) + i * LOG_STEPS + len(part)
            steps.append({"step": step, "train_loss": loss / images})
            if is_main:
                board.add_scalar("train/loss_by_step", loss / images, step)
        state |= {"epoch": epoch + 1, "preprocessing": data.preprocessing(sizes[epoch])}
        if is_main:  # last.pt comes last: whoever dies before it repeats this epoch when resumed
            for name, value in row.items():
                board.add_scalar(f"epoch/{name}", value, row["step"])
            board.flush()
            data.write_csv(run / "log.csv", log)
            data.write_csv(run / "steps.csv", steps)
            if is_best:
                save(run / "best.pt", state, model)
            save(run / "last.pt", state, model, optimizers)
        text = f"epoch {epoch + 1:3d}/{args.epochs}: training loss {train_loss:.4f}, "
        text += f"accuracy {100 * train_accuracy:.2f} %; {row['seconds']:.1f} s"
        if len(val_set[0]):
            text += f"; validation loss {val_loss:.4f}, accuracy {100 * val_accuracy:.2f} %"
            text += " (best)" if is_best else ""
        print(text)

    if dist.is_initialized():
        dist.destroy_process_group()
    if is_main:
        board.close()
        print(f"log, curves and weights: {run}")
    if is_main and not args.no_test:
        machine = ["--device", args.device, "--threads", str(args.threads)]
        evaluate.main(["--ckpt", str(run / "best.pt"), "--data-dir", args.data_dir, *machine])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: KeyboardInterrupt
    try:
        data.run_script(main)
    except KeyboardInterrupt:
        sys.exit("train.py: stopped; the same command with --resume continues the run")
