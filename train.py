"""Train a classifier on FashionMNIST, validate it after every epoch, test it at the end.

    python train.py --model resnet18

Writes into runs/<name>: config.json (all options and the environment), log.csv (a row an epoch),
steps.csv (training loss by step), TensorBoard events, best.pt (the epoch with the highest
validation accuracy) and last.pt (everything that --resume needs to go on exactly).
"""

import argparse
import copy
import ctypes
import io
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows has none: there nothing keeps two trainings out of one folder
    fcntl = None

import data
import evaluate
from models import MODELS, build_model, count_parameters

# The report's recipe. It does not state its learning rate and batch size: these are the usual ones.
REPORT = {
    "epochs": 133,  # its "about 50,000 steps"
    "batch_size": 128,
    "optimizer": "adam",
    "lr": 1e-3,
    "schedule": "cosine",
    "muon_lr": 0.0,
    "weight_decay": 0.0,
    "label_smoothing": 0.0,
    "ema": 0.0,
    "augment": "crop-flip",
    "padding": 4,
    "rotate": 0.0,
    "brightness": 0.0,
    "erase": 0.0,
    "dropout": 0.3,
    "pixels": "28",
    "prune": 0.0,
}
MODERN_MLP = REPORT | {
    "epochs": 400,
    "batch_size": 256,
    "lr": 2e-3,
    "weight_decay": 0.1,
    "padding": 1,
}
MODERN_RESNET = REPORT | {
    "epochs": 24,
    "batch_size": 256,
    "optimizer": "muon",
    "lr": 0.2,
    "muon_lr": 0.12,
    "schedule": "triangle",
    "weight_decay": 5e-4,
    "label_smoothing": 0.1,
    "padding": 1,
    "erase": 0.5,
    "dropout": 0.0,
    "pixels": "16,20,24,28",
    "prune": 0.5,
}
RECIPES = {
    "report": dict.fromkeys(MODELS, REPORT),
    "modern": dict.fromkeys(MODELS, MODERN_RESNET) | {"mlp": MODERN_MLP},
}
LOG_HEADER = (
    "epoch,step,pixels,learning_rate,train_loss,train_accuracy,val_loss,val_accuracy,"
    "seconds,images_per_second"
)
ADVICE = "the last good state is kept in last.pt and best.pt; try a lower --lr in a new run"
PRUNE_UNTIL = 0.875  # after this share of the epochs, --prune skips no image any more
LOG_STEPS = 25  # a row of steps.csv is the mean loss over the images of this many steps
SAVE_SECONDS = 300  # last.pt is written this often in the middle of an epoch, too


def number(kind, low, high):
    """Return an argparse type: an int or float between low and high, both included."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            message = f"{text!r} is not {kind.__name__} from {low} to {high}"
            raise argparse.ArgumentTypeError(message)
        return value

    return parse


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="The defaults shown are those of the --recipe and --model that are given.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    count, share = number(int, 1, 100_000), number(float, 0, 0.99999)
    add = parser.add_argument
    add("--model", choices=MODELS, default="resnet18", help="network to train")
    add("--recipe", choices=RECIPES, default="modern", help="sets the next 17 options")
    add("--epochs", type=count, help="passes over the training images")
    add("--batch-size", type=count, help="images per step")
    add("--optimizer", choices=("adam", "sgd", "muon"), help="Adam; SGD with Nesterov momentum "
        "0.9; muon: Muon for the 3×3 convolutions but the first, SGD for the rest")  # fmt: skip
    add("--lr", type=number(float, 0, 1000), help="highest learning rate of Adam or SGD")
    add("--muon-lr", type=number(float, 0, 1000), help="highest learning rate of Muon")
    add("--schedule", choices=("cosine", "triangle"), help="course of the learning rate by step")
    add("--weight-decay", type=number(float, 0, 10), help="decay of kernels and weight matrices")
    add("--label-smoothing", type=share, help="share of the target spread over all classes")
    add("--ema", type=share, help="decay of the moving average of the weights; 0: no average")
    add("--augment", choices=("crop-flip", "flip", "none"), help="for the training images")
    add("--padding", type=number(int, 0, 28), help="pixels of padding of the random crop")
    add("--rotate", type=number(float, 0, 180), help="random rotations of up to so many degrees")
    add("--brightness", type=share, help="random change of brightness by up to this share")
    add("--erase", type=share, help="share of the images that lose a box (Random Erasing)")
    add("--dropout", type=share, help="dropout in front of a ResNet's head")
    add("--pixels", help="resolutions for equal parts of the epochs, such as 16,20,24,28")
    add("--prune", type=share, help="share of the easy images that an epoch skips (InfoBatch)")
    # Below 7 channels, oneDNN 3.12 overruns its memory in the 1×1 convolutions on AVX2 processors.
    add("--width", type=number(int, 8, 4096), default=64, help="channels of a ResNet's first stage")
    add("--seed", type=number(int, 0, 10**9), default=0, help="of weights, order, augmentation")
    add("--split-seed", type=number(int, 0, 10**9), default=0, help="of the validation split")
    add("--train-on", choices=("split", "all"), default="split",
        help="all: the validation images, too, so that the last epoch is taken")  # fmt: skip
    add("--name", default=argparse.SUPPRESS, help="folder of the run (default: the model's name)")
    add("--runs", default="runs", help="folder of all runs")
    add("--resume", action="store_true", help="go on with the run of that name, if it has begun")
    add("--no-test", action="store_true", help="leave the test set unopened at the end")
    add("--precision", choices=("auto", "float32", "bfloat16"), default="auto",
        help="bfloat16 autocast or not; auto: where the device computes it natively")  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps …")
    add("--threads", type=number(int, 0, 1024), default=0, help="on the CPU; 0: PyTorch's choice")
    add("--data-dir", default="data", help="folder of the data set, downloaded if it is missing")

    # The recipe gives the defaults of the other options, so it has to be known before them.
    known, _ = parser.parse_known_args([word for word in argv if word not in ("-h", "--help")])
    parser.set_defaults(**RECIPES[known.recipe][known.model])
    args = parser.parse_args(argv)
    args.name = getattr(args, "name", args.model)
    return args


def pixels_by_epoch(plan, epochs):
    """Expand a plan such as "16,20,24,28", each for an equal part of the epochs, to a list with
    one resolution for each epoch. The last epoch always has the last one.

    Raises:
        ValueError: the plan is not a list of numbers from 8 to 64.
    """
    try:
        sizes = [int(size) for size in plan.split(",")]
    except ValueError:
        sizes = [0]
    if not all(8 <= size <= 64 for size in sizes):
        raise ValueError(f"--pixels {plan} is not a list such as 16,20,28 of sizes from 8 to 64")
    return [sizes[math.ceil((epoch + 1) * len(sizes) / epochs) - 1] for epoch in range(epochs)]


def learning_rate(schedule, progress):
    """Fraction of the highest learning rate, when ``progress`` (0 to 1) of all steps are done.

    "cosine" falls from 1 to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts);
    "triangle" rises from 0 to 1 over the first 20 % and falls back to 0 (one cycle: Smith &
    Topin 2018, arXiv:1708.07120).
    """
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return min(progress / 0.2, (1 - progress) / 0.8)


def has_native_bfloat16(device):
    """Whether the device multiplies bfloat16 matrices in hardware, not by emulation.

    A PyTorch before ``torch.cpu.get_capabilities`` cannot say it of a CPU: then the answer is no.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return False


def keep_freed_memory(keep=True):
    """Have glibc's malloc keep the memory that is freed: mallopt(3), M_MMAP_MAX, M_TRIM_THRESHOLD.

    It would return each large tensor to the system, which then has to map and clear it again page
    by page: hundreds of thousands of page faults in one step of ResNet18. Does nothing elsewhere.
    ``keep=False`` goes back to what malloc does by itself.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    libc.mallopt(-4, 0 if keep else 65_536)
    libc.mallopt(-1, -1 if keep else 2**26)
    if not keep:
        libc.malloc_trim(0)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by a Newton-Schulz iteration, for convolution kernels.

    Jordan 2024 (kellerjordan.github.io/posts/muon), in the form of his airbench94: before each
    step a kernel is scaled to the norm √(output channels). BatchNorm behind it takes no notice of
    the scale, so that this fixes the size of a step in proportion to the weights, and weight decay
    has nothing left to do.

    Args:
        dtype: type of the iteration's matrix products; bfloat16 suffices.
    """

    def __init__(self, params, lr, momentum=0.6, dtype=torch.float32):
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state, momentum = self.state[p], group["momentum"]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].mul_(momentum).add_(p.grad)
                update = p.grad.add(state["momentum"], alpha=momentum)  # Nesterov
                p.mul_(len(p) ** 0.5 / p.norm())
                # Channels last, as the kernels lie in memory, so that flattening copies nothing.
                rows = update.permute(0, 2, 3, 1)
                step = self.orthogonalize(rows.flatten(1)).view(rows.shape).permute(0, 3, 1, 2)
                p.sub_(step, alpha=group["lr"])

    def orthogonalize(self, matrix, steps=3):
        """Bring all singular values of a matrix with rows ≤ columns near 1, by the quintic
        iteration X ← aX + b(XXᵀ)X + c(XXᵀ)²X.

        Each step multiplies X by a polynomial p of its Gram matrix XXᵀ, so that it is enough to
        follow the small Gram matrix, XXᵀ ← p XXᵀ p, and to multiply X once, by all polynomials.
        """
        a, b, c = 3.4445, -4.7750, 2.0315
        x = matrix.to(self.dtype)
        gram = (x @ x.T).to(matrix.dtype)
        norm2 = gram.trace() + 1e-14
        gram = gram / norm2
        eye = torch.eye(len(x), dtype=gram.dtype, device=gram.device)
        p = product = a * eye + b * gram + c * gram @ gram
        for _ in range(steps - 1):
            gram = p @ gram @ p
            p = a * eye + b * gram + c * gram @ gram
            product = p @ product
        return ((product / norm2.sqrt()).to(self.dtype) @ x).to(matrix.dtype)


def prune_easy(losses, share, generator):
    """Choose the images of an epoch by InfoBatch (Qin et al. 2024, arXiv:2303.04947).

    An image whose last loss was below the mean is skipped with probability ``share``; those of
    them that stay weigh 1 / (1 - share), so that the expected gradient is that of all images.

    Args:
        losses: float tensor N, the last loss of each image; infinite if it has not been seen.
        share: probability below 1.
        generator: CPU ``torch.Generator``.

    Returns:
        kept: bool tensor N, and weights: float tensor N, on the device of the losses.
    """
    easy = losses < losses.mean()
    lucky = torch.rand(len(losses), generator=generator).to(losses.device) >= share
    return ~easy | lucky, torch.where(easy, 1 / (1 - share), 1.0)


@torch.no_grad()
def update_average(average, model, decay):
    """Move the averaged weights and BatchNorm statistics towards the model's by 1 - decay."""
    pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
    for mean, new in pairs:
        if mean.is_floating_point():
            mean.lerp_(new, 1 - decay)


def add_up(tensor, world):
    """Replace a tensor by its sum over all processes of torchrun; return it."""
    if world > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def write(path, content):
    """Replace a file so that ``path`` is at every moment either the old or the new one, whole.

    Raises:
        OSError: it cannot be written (disk full, say); the old file is left as it was.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path} could not be written ({error}); what it held is kept") from None


def save(checkpoint, path):
    """Write a checkpoint by ``write``."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write(path, buffer.getbuffer())


def open_log(path, header, size):
    """Open a CSV log for appending; cut it back to the size it had when last.pt was written."""
    file = open(path, "a", newline="")  # noqa: SIM115 (it stays open for the whole run)
    file.truncate(min(size, file.tell()))
    if size == 0:
        print(header, file=file, flush=True)
    return file


def environment(device):
    """What a run's numbers depend on besides its options."""
    folder = Path(__file__).resolve().parent
    git = subprocess.run(
        ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "git": git.stdout.strip() or None,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a TorchVersion is refused by weights_only=True
        "device": device.type,
        "device_name": evaluate.describe_device(device),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    sizes = pixels_by_epoch(args.pixels, args.epochs)
    if args.model == "mlp" and set(sizes) != {28}:
        raise ValueError("the MLP takes 28×28 pixels only: --pixels is for the ResNets")
    if args.model == "mlp" and args.optimizer == "muon":
        raise ValueError("--optimizer muon is for convolutions: the MLP has none")
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    # Under torchrun there are several processes, each with a share of every batch; else only this.
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = evaluate.pick_device(args.device)
    if world > max(1, args.batch_size // 4):
        raise ValueError(f"{world} processes are too many for batches of {args.batch_size}")
    if world > 1:
        if device.type == "cuda":
            here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
            if here > gpus:
                raise ValueError(f"{here} processes on {gpus} GPU(s): start one process for each")
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        args.resume |= int(restarts) > 0
        # The prefix: after a restart the store still has the addresses of the dead processes.
        store = next(torch.distributed.rendezvous("env://"))[0]
        store = torch.distributed.PrefixStore(restarts, store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=world)
    if args.precision == "auto":
        args.precision = "bfloat16" if has_native_bfloat16(device) else "float32"
    autocast_dtype = torch.bfloat16 if args.precision == "bfloat16" else None
    where = ("resume", "no_test", "runs", "data_dir", "device", "threads")
    options = {name: value for name, value in vars(args).items() if name not in where}

    # The run's folder, and its last checkpoint if there is one to go on from.
    run = Path(args.runs) / args.name
    checkpoint = None
    if (run / "config.json").exists() or (run / "last.pt").exists():
        if not args.resume:
            raise ValueError(f"{run} holds a run: --resume goes on with it, --name starts another")
        if (run / "last.pt").exists():
            _, checkpoint = evaluate.load_checkpoint(run / "last.pt")
            if not checkpoint.keys() >= {"average", "optimizers", "state", "environment"}:
                raise ValueError(f"{run / 'last.pt'} holds weights, but not what --resume needs")
            for name, value in options.items():
                old = checkpoint["config"].get(name)
                if value != old:
                    raise ValueError(f"{run} was started with {name} = {old}, not {value}")
    config = {**options, **environment(device)}
    if checkpoint:
        config = {**options, **checkpoint["environment"]}
        config["resumed"] = [*config.get("resumed", []), environment(device)]
    if world > 1:
        torch.distributed.barrier()  # nothing is written before all have read
        if rank > 0:  # what the others have to say is the same, and goes nowhere
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            nowhere = tempfile.TemporaryDirectory()
            run = Path(nowhere.name)

    # Data: uint8 tensors in the device's memory. The validation images are a tensor of their own,
    # which no augmentation ever sees; the test set is not opened here.
    images, labels = data.load(args.data_dir, train=True)
    train_index, val_index = data.split_indices(len(images), args.split_seed)
    if args.train_on == "all":
        train_index, val_index = torch.arange(len(images)), val_index[:0]
    val_images, val_labels = images[val_index[rank::world]], labels[val_index[rank::world]]
    images, labels = images[train_index].to(device), labels[train_index].to(device)

    # Model and optimisers. Biases and BatchNorm's scales, the vectors, are never decayed.
    torch.manual_seed(args.seed)
    model = build_model(args.model, args.width, args.dropout).to(device)
    config["parameters"] = count_parameters(model)
    facts = {name: value for name, value in config.items() if name not in options}
    run.mkdir(parents=True, exist_ok=True)
    lock = open(run / "lock", "w")  # noqa: SIM115 (held, and so open, until the process ends)
    try:
        fcntl and fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{run} is being trained by another process") from None
    write(run / "config.json", (json.dumps(config, indent=1) + "\n").encode())
    average = copy.deepcopy(model).requires_grad_(False) if args.ema else model
    # DDP averages the gradients. BatchNorm takes the statistics of each process's own share of the
    # batch, and the running ones of process 0 count.
    network = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
    kernels = [p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] == 3]
    kernels = kernels if args.optimizer == "muon" else []
    matrices = [p for p in model.parameters() if p.ndim > 1 and all(p is not k for k in kernels)]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": args.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if args.optimizer == "adam":  # AdamW decouples the decay; with a decay of 0 it is Adam
        optimizers = [torch.optim.AdamW(groups, lr=args.lr, fused=True)]
    else:
        optimizers = [torch.optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True, fused=True)]
    if kernels:
        optimizers.append(Muon(kernels, lr=args.muon_lr, dtype=autocast_dtype or torch.float32))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]

    # Where training stands: all of it, with the weights and the optimiser, goes into last.pt.
    state = {"epoch": 0, "batch": 0, "step": 0, "best": -1.0, "seconds": 0.0, "log": 0, "steps": 0}
    losses = torch.full((len(images),), math.inf, device=device)  # of each image, for --prune
    losses_before = losses.clone()  # the same as they were at the beginning of the epoch
    # Weighted sums of loss and hits, and the weights' own: in this epoch, since the last row. With
    # --prune, too, they estimate the means over all images, not over the harder ones that are kept.
    running = torch.zeros(2, 3, device=device)
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
        average.load_state_dict(checkpoint["average"])
        for optimizer, saved in zip(optimizers, checkpoint["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        losses.copy_(checkpoint["losses"])
        losses_before.copy_(checkpoint["losses_before"])
        if rank == 0:
            running.copy_(checkpoint["running"])
        state = checkpoint["state"]
        print(f"going on with {run} in epoch {state['epoch'] + 1}, batch {state['batch'] + 1}")

    log = open_log(run / "log.csv", LOG_HEADER, state["log"])
    step_log = open_log(run / "steps.csv", "step,train_loss", state["steps"])
    board = SummaryWriter(run, purge_step=state["step"] or None)

    def save_last():
        if not all(p.isfinite().all() for p in model.parameters()):
            raise FloatingPointError(f"the weights are no longer finite; {ADVICE}")
        state.update(log=log.tell(), steps=step_log.tell())
        sums = add_up(running.clone(), world)
        if rank > 0:
            return
        save(
            {
                "config": options,
                "environment": facts,
                "epoch": state["epoch"],
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "losses": losses.cpu(),
                "losses_before": losses_before.cpu(),
                "running": sums.cpu(),
                "state": state,
            },
            run / "last.pt",
        )

    # Ctrl-C and SIGTERM leave a note, which the loop reads after each step; a second one kills.
    stopped_by = []

    def note_signal(signum, frame):
        stopped_by.append(signum)
        signal.signal(signum, signal.SIG_DFL)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, note_signal)

    print(
        f"{args.model} ({config['parameters']:,} parameters) on {config['device_name']}, "
        f"{config['threads']} threads, {args.precision}: {args.epochs} epochs into {run}"
    )
    bar = tqdm(
        total=args.epochs * len(images),
        initial=state["epoch"] * len(images) + state["batch"] * args.batch_size,
        unit=" images", unit_scale=True, disable=True if rank else None,
    )  # fmt: skip
    for epoch in range(state["epoch"], args.epochs):
        epoch_start = time.perf_counter() - state["seconds"]
        # The order and the augmentation of an epoch depend on the seed and its number alone.
        generator = torch.Generator().manual_seed(10_000 * args.seed + epoch)
        order = torch.randperm(len(images), generator=generator).to(device)
        offsets, flips = data.draw_augmentation(len(images), args.augment, args.padding, generator)
        offsets, flips = offsets.to(device), flips.to(device)
        jitter = data.draw_jitter(len(images), args.rotate, args.brightness, generator).to(device)
        boxes = data.draw_boxes(len(images), args.erase, generator).to(device)
        if state["batch"] == 0:
            losses_before.copy_(losses)
        weights = torch.ones(len(images), device=device)
        if args.prune and epoch < PRUNE_UNTIL * args.epochs:
            kept, weights = prune_easy(losses_before, args.prune, generator)
            order = order[kept[order]]
        rest = len(order) % args.batch_size
        if rest < min(args.batch_size // 4, len(order)):  # too few for a step of its own
            order = order[: len(order) - rest]
        steps = math.ceil(len(order) / args.batch_size)
        saved = time.perf_counter()
        model.train()

        for batch in range(state["batch"], steps):
            # Dropout and noise, likewise.
            torch.manual_seed(1_000_000 * args.seed + state["step"] + 10**15 * rank)
            factor = learning_rate(args.schedule, (epoch + batch / steps) / args.epochs)
            for group in (g for optimizer in optimizers for g in optimizer.param_groups):
                group["lr"] = factor * group["initial_lr"]

            whole = order[batch * args.batch_size : (batch + 1) * args.batch_size]
            index = whole[rank::world]
            x, y = images[index], labels[index]  # B×28×28 uint8, B
            if args.augment != "none":
                x = data.apply_augmentation(x, offsets[index], flips[index], args.padding)
            if args.erase:
                x = data.erase(x, boxes[index])
            x = data.normalize(x)  # B×1×28×28 float
            if args.rotate or args.brightness:
                x = data.jitter(x, jitter[index])
            x = data.resize(x, sizes[epoch])
            if state["step"] == 0:
                board.add_images("train/inputs", x[:64] / 2 + 0.5)
            with torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype is not None):
                logits = network(x)
            loss = F.cross_entropy(
                logits.float(), y, reduction="none", label_smoothing=args.label_smoothing
            )
            if args.prune:
                of_all = torch.zeros(len(whole), device=device)
                of_all[rank::world] = loss.detach()
                losses[whole] = add_up(of_all, world)
            weight = weights[index]
            total = (weight * loss).sum()
            loss = total * world / len(whole)  # the processes' mean is that of the batch
            model.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            state["step"] += 1
            if args.ema:
                update_average(average, model, min(args.ema, state["step"] / (9 + state["step"])))

            # Sums stay on the device: reading each of them would make a GPU wait for the CPU.
            with torch.no_grad():
                hits = (weight * (logits.argmax(1) == y)).sum()
                running += torch.stack([total, hits, weight.sum()])
            bar.update(len(whole))
            if state["step"] % LOG_STEPS == 0:
                sums = add_up(running[1].clone(), world)
                recent = (sums[0] / sums[2]).item()
                running[1] = 0
                if not math.isfinite(recent):
                    where = f"at step {state['step']}"
                    raise FloatingPointError(f"the loss is {recent} {where}; {ADVICE}")
                print(state["step"], f"{recent:.6f}", sep=",", file=step_log, flush=True)
                board.add_scalar("train/loss_by_step", recent, state["step"])
                bar.set_postfix(epoch=epoch + 1, loss=f"{recent:.3f}", refresh=False)
            state.update(batch=batch + 1, seconds=time.perf_counter() - epoch_start)
            stop, due = bool(stopped_by), time.perf_counter() - saved > SAVE_SECONDS
            if world > 1:  # a signal to one process stops all of them, after the same step
                stop, due = add_up(torch.tensor([stop, due], device=device).int(), world).tolist()
            if stop or due:
                save_last()
                saved = time.perf_counter()
            if stop:
                bar.close()
                again = shlex.join(["python", "train.py", *argv])
                again += "" if args.resume else " --resume"
                print(f"stopped after step {state['step']} and saved; go on with: {again}")
                sys.exit(128 + (stopped_by or [signal.SIGTERM])[0])

        evaluate.synchronize(device)
        train_seconds = time.perf_counter() - epoch_start
        sums = add_up(running[0].clone(), world)
        train_loss, train_accuracy = (sums[:2] / sums[2]).tolist()
        bar.update(len(images) - len(order))  # those that were skipped
        running[0] = 0
        val_loss = val_accuracy = math.nan
        is_best = True  # without validation images the last epoch is taken
        if args.train_on == "split":
            for buffer in (*model.buffers(), *average.buffers()) if world > 1 else ():
                torch.distributed.broadcast(buffer, 0)
            val_logits = evaluate.predict(average, val_images, 500, autocast_dtype, sizes[epoch])
            hits = (val_logits.argmax(1) == val_labels).sum()
            sums = torch.stack([F.cross_entropy(val_logits, val_labels, reduction="sum"), hits])
            sums = add_up(sums.to(device), world).tolist()
            val_loss, val_accuracy = (x / len(val_index) for x in sums)
            if not math.isfinite(val_loss):
                raise FloatingPointError(f"the validation loss is {val_loss}; {ADVICE}")
            # At the epoch's own resolution: at another one a network is far below its worth. So
            # a higher resolution's first epoch is the best so far, whatever came before.
            is_best = val_accuracy > state["best"] or sizes[epoch] != sizes[max(epoch - 1, 0)]
        best = val_accuracy if is_best else state["best"]
        state.update(epoch=epoch + 1, batch=0, seconds=0.0, best=best)
        row = {
            "epoch": epoch + 1,
            "step": state["step"],
            "pixels": sizes[epoch],
            "learning_rate": f"{optimizers[0].param_groups[0]['lr']:.6g}",
            "train_loss": f"{train_loss:.6f}",
            "train_accuracy": f"{train_accuracy:.6f}",
            "val_loss": f"{val_loss:.6f}",
            "val_accuracy": f"{val_accuracy:.6f}",
            "seconds": f"{time.perf_counter() - epoch_start:.2f}",
            "images_per_second": f"{len(order) / train_seconds:.1f}",
        }
        print(*row.values(), sep=",", file=log, flush=True)
        for name in list(row)[2:]:
            board.add_scalar(f"epoch/{name}", float(row[name]), epoch + 1)
        if is_best and rank == 0:
            chosen = {"config": options, "environment": facts, "epoch": epoch + 1}
            save({**chosen, "model": average.state_dict()}, run / "best.pt")
        save_last()
        validated = (
            f"validation loss {val_loss:.4f}, accuracy {100 * val_accuracy:.2f} %"
            f"{' (best)' if is_best else ''}; "
        )
        tqdm.write(
            f"epoch {epoch + 1:3d}/{args.epochs}: train loss {train_loss:.4f}, accuracy "
            f"{100 * train_accuracy:.2f} %; {validated if args.train_on == 'split' else ''}"
            f"{row['seconds']} s"
        )
    bar.close()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)

    if args.train_on == "split":
        print(f"best validation accuracy {100 * state['best']:.2f} %")
    print(f"log, curves and weights: {run}")
    if world > 1:
        torch.distributed.destroy_process_group()
    if not args.no_test and rank == 0:
        where = ["--device", args.device, "--threads", str(args.threads)]
        result = evaluate.main(
            ["--ckpt", str(run / "best.pt"), "--data-dir", args.data_dir, *where]
        )
        from analyze import plot_confusion  # noqa: PLC0415 (training itself draws nothing)

        board.add_figure("test/confusion", plot_confusion(result["confusion"], args.name))
    board.close()


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, FloatingPointError) as error:
        sys.exit(f"train.py: {error}")
    except RuntimeError as error:
        if "RANK" not in os.environ:
            raise
        sys.exit(f"train.py: lost another process of this training ({str(error).splitlines()[0]})")
