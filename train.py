"""Train a classifier on FashionMNIST, validate it after every epoch, test it at the end.

    python train.py --model resnet18

Writes into runs/NAME: config.json (options and environment), log.csv (one row per epoch),
steps.csv (one row per 25 steps), TensorBoard events, best.pt (the highest validation accuracy; with
--train-on all, the last epoch) and last.pt (everything that --resume needs).

train_epoch(), the first function, is the loop over the batches of an epoch, main() the loop over
the epochs; what follows main() can wait for a second reading. So can RANK, WORLD and dist: unless
torchrun starts several processes, RANK is 0, WORLD is 1, and dist is not used.
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
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from filelock import FileLock, Timeout
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import data
import evaluate
from models import MODELS, build_model, count_parameters

# Set by torchrun: how many processes there are, and which of them this is, from 0. On a cluster,
# others may set WORLD_SIZE and RANK, too, but not TORCHELASTIC_RUN_ID.
WORLD = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
RANK = int(os.environ["RANK"]) if WORLD > 1 else 0

# Recipes: defaults of options, such as args.lr. --recipe report is REPORT_RECIPE; --recipe modern,
# the default, is MODERN[args.model], or OWN_RECIPE for a network of your own. The other options
# have their defaults in parse_args().
REPORT_RECIPE = {
    "epochs": 133,  # of 375 steps: its "about 50,000 steps"
    "batch_size": 128,  # the report states neither this nor lr: these are the usual ones
    "optimizer": "adam",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "label_smoothing": 0.0,
    "padding": 4,
    "flip": 0.5,
    "dropout": 0.3,  # of the ResNets; the MLP has none
}
MLP_RECIPE = {
    **REPORT_RECIPE,  # but:
    "epochs": 100,
    "batch_size": 256,
    "optimizer": "muon",
    "lr": 0.005,
    "weight_decay": 0.05,
    "padding": 1,
}
RESNET_RECIPE = {
    **REPORT_RECIPE,  # but:
    "epochs": 10,
    "batch_size": 256,
    "optimizer": "muon",
    "lr": 0.12,
    "weight_decay": 0.015,
    "schedule": "triangle",
    "label_smoothing": 0.1,  # targets: 0.9 + 0.1 / 10 for the true class, 0.1 / 10 for each other
    "padding": 1,
    "dropout": 0.0,
}
MODERN = {"mlp": MLP_RECIPE, "resnet18": RESNET_RECIPE, "resnet34": RESNET_RECIPE}
OWN_RECIPE = {**REPORT_RECIPE, "epochs": 20}  # for a network of your own: not tuned
# If --optimizer is not that of the recipe, --lr and --weight-decay have these defaults instead.
OPTIMIZERS = {
    "adam": {"lr": 1e-3, "weight_decay": 0.0},
    "adamw": {"lr": 2e-3, "weight_decay": 0.1},
    "sgd": {"lr": 0.1, "weight_decay": 5e-4},
    "muon": {"lr": 0.12, "weight_decay": 0.015},  # tuned for the ResNets
}


# ---- One epoch


def train_epoch(model, optimizers, train_set, epoch, args):
    """Train for one epoch.

    Args:
        model: the network; with torchrun or --compile, wrapped.
        optimizers: list of optimizers, each for a part of the parameters.
        train_set: images N×28×28 uint8 and labels N.
        epoch: number of the epoch, from 0.
        args: options of the command line.

    Returns:
        float64 tensor S×3 on the CPU, one row per step: sum of the losses, number of correct
        predictions, number of images.
    """
    batches = draw_epoch(train_set, epoch, args)
    per_step = []
    model.train()
    disable = True if RANK > 0 else None  # None: no progress bar where there is no terminal
    bar = tqdm(batches, f"epoch {epoch + 1}/{args.epochs}", leave=False, disable=disable)
    for i, (images, labels) in enumerate(bar):  # B×28×28 and B
        step = epoch * len(batches) + i
        # Dropout and mixup depend on seed, step and process only: a resumed run draws the same.
        # The processes of a run have the same seed and step: the last term keeps them apart.
        torch.manual_seed(1_000_000 * args.seed + step + 10**15 * RANK)
        progress = (epoch + i / len(batches)) / args.epochs  # from 0 to 1
        set_learning_rate(optimizers, args, progress)
        x = data.preprocess(images)  # B×1×28×28, from 0 … 255 to −1 … 1
        target = labels
        if args.mixup:  # off by default
            x, target = mix(x, labels, args.mixup)  # the target is B×10 probabilities
        # For speed, autocast computes convolutions and matrix products in bfloat16: the range of
        # float32, but half the bits. The weights stay float32; .float() makes the loss float32.
        with torch.autocast(x.device.type, torch.bfloat16, enabled=args.precision == "bfloat16"):
            logits = model(x).float()  # B×10
        loss = F.cross_entropy(logits, target, label_smoothing=args.label_smoothing)
        model.zero_grad()  # for all optimizers at once
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        # Loss, correct and count as tensors: .item() would make the CPU wait for the GPU.
        correct = (logits.argmax(1) == labels).sum()
        count = torch.full_like(loss, len(labels))
        per_step.append(torch.stack([loss.detach() * len(labels), correct, count]))
    per_step = torch.stack(per_step)  # S×3
    if WORLD > 1:
        dist.all_reduce(per_step)  # adds up those of all processes
    return per_step.cpu().double()  # main() adds up the steps, which float32 would round


def draw_epoch(train_set, epoch, args):
    """Return the batches of an epoch, in random order, with images cropped and flipped at random.

    The random numbers depend on the seed and the epoch only. If you add an augmentation, draw its
    random numbers last, so that the others stay the same.

    Args:
        train_set: images N×28×28 uint8 and labels N.
        epoch: number of the epoch, from 0.
        args: options of the command line.

    Returns:
        list of pairs: images B×28×28 uint8 and labels B; with torchrun, this process's part of each
        batch. A last batch smaller than a quarter of the batch size is dropped, because its
        gradient would be noisy.
    """
    images, labels = train_set
    n, device = len(images), images.device
    torch.manual_seed(10_000 * args.seed + epoch)  # no seed has more than 10,000 epochs
    batches = torch.randperm(n).to(device).split(args.batch_size)  # indices of images
    if len(batches) > 1 and 4 * len(batches[-1]) < args.batch_size:
        batches = batches[:-1]
    offsets = torch.randint(0, 2 * args.padding + 1, (n, 2)).to(device)
    flips = (torch.rand(n) < args.flip).to(device)
    images = data.crop_and_flip(images, offsets, flips, args.padding)
    batches = [batch[RANK::WORLD] for batch in batches]  # with one process: the same
    return [(images[batch], labels[batch]) for batch in batches]


def mix(x, y, alpha):
    """Replace images and labels by weighted means of two: mixup (Zhang et al. 2018,
    arXiv:1710.09412), off by default. Image i of B is mixed with image B−1−i; all pairs have the
    same weights, drawn from Beta(alpha, alpha): with alpha = 1, all from 0 to 1 are equally likely,
    with a small alpha, most are near 0 or 1.

    Returns:
        float32 tensors B×1×28×28 and B×10, the probabilities of the classes.
    """
    share = torch.distributions.Beta(alpha, alpha).sample().item()  # 0 to 1, drawn on the CPU
    target = F.one_hot(y, 10)
    return share * x + (1 - share) * x.flip(0), share * target + (1 - share) * target.flip(0)


def validate(model, val_set, args):
    """Return the loss and the accuracy on the validation images; nan, nan if there are none."""
    images, labels = val_set
    if not len(images):
        return math.nan, math.nan
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bfloat16"):
        # predict() has no gradients, works in evaluation mode, and returns the logits to the CPU.
        logits = evaluate.predict(model, images)
    loss = F.cross_entropy(logits, labels).item()
    return loss, evaluate.accuracy(logits, labels)


# ---- Learning rate and optimizers


def cosine(progress):
    """Cosine annealing from 1 to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def triangle(progress):
    """Linear warm-up from 0 to 1 over the first 20 %, then linear decay to 0: one cycle (Smith &
    Topin 2018, arXiv:1708.07120). The first step has a rate of 0."""
    return min(progress / 0.2, (1 - progress) / 0.8)


# Each maps the progress of the training, 0 to 1, to a fraction of the peak learning rate.
SCHEDULES = {"cosine": cosine, "triangle": triangle}


def set_learning_rate(optimizers, args, progress):
    """Set all learning rates to what the schedule says at ``progress``, 0 to 1."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            # Each optimizer has its own peak rate, the one that it was built with.
            group["lr"] = optimizer.defaults["lr"] * SCHEDULES[args.schedule](progress)


def build_optimizers(model, args):
    """Return a list of optimizers: one, or AdamW and, for hidden layers, Muon, a class below. A new
    optimizer needs a branch here and a line in ``OPTIMIZERS``."""
    parameters = list(model.parameters())
    weights = [p for p in parameters if p.ndim > 1]  # matrices and kernels
    # Biases and BatchNorm: too few to overfit, so without weight decay.
    vectors = [p for p in parameters if p.ndim <= 1]
    settings = {"lr": args.lr, "weight_decay": args.weight_decay}
    if args.optimizer == "muon":  # --lr and --weight-decay are those of Muon
        # Muon is for hidden layers: not for the last one, nor for the first convolution, which has
        # one input channel, shape[1]. The MLP's first layer counts as hidden.
        hidden = [p for p in weights[:-1] if p.shape[1] != 1]
        if not hidden:
            raise data.UserError("--optimizer muon: the network has no hidden layer")
        rest = [p for p in parameters if not any(p is h for h in hidden)]  # "in" compares values
        adamw = torch.optim.AdamW(rest, lr=2e-3, weight_decay=0.0, fused=True)
        return [adamw, Muon(hidden, **settings)]
    groups = [{"params": weights}, {"params": vectors, "weight_decay": 0.0}]
    if args.optimizer == "adam":
        return [torch.optim.Adam(groups, **settings, fused=True)]
    if args.optimizer == "adamw":
        return [torch.optim.AdamW(groups, **settings, fused=True)]
    if args.optimizer == "sgd":
        return [torch.optim.SGD(groups, **settings, momentum=0.9, nesterov=True, fused=True)]
    raise NotImplementedError(args.optimizer)


# ---- The training


def load_sets(args, device):
    """Return images and labels for training, on the device, and for validation, on the CPU."""
    images, labels = data.load(args.data_dir, train=True)
    if not args.no_test:
        data.load(args.data_dir, train=False)  # a damaged test set is found now, not at the end
    train_index, val_index = data.split_indices()
    if args.train_on == "all":
        train_index, val_index = torch.arange(len(images)), val_index[:0]
    train_set = images[train_index].to(device), labels[train_index].to(device)
    return train_set, (images[val_index], labels[val_index])


def main(argv=None):
    args = parse_args(argv)
    if WORLD > 1:
        join_processes(args)
    device = evaluate.use_device(args.device, args.threads)
    if args.precision == "auto":
        args.precision = "bfloat16" if evaluate.has_native_bfloat16(device) else "float32"
    train_set, val_set = load_sets(args, device)
    torch.manual_seed(args.seed)
    model = build_model(args.model, args.width, args.dropout).to(device)
    optimizers = build_optimizers(model, args)

    folder = Path(args.runs) / args.name
    with claim_folder(folder):
        # --resume also loads model and optimizers. The state is all else of a checkpoint:
        # "config" (options, environment), "epoch" (finished), "log" and "steps" (rows of the CSVs).
        state = start_or_resume(folder, model, optimizers, args, device)
        if RANK == 0:
            board = open_board(folder, train_set, args)  # of TensorBoard
        # wrapped is trained, model is validated and saved: they share the weights.
        wrapped = torch.nn.parallel.DistributedDataParallel(model) if WORLD > 1 else model
        if args.compile:  # a GPU then waits less for the CPU between operations
            wrapped = torch.compile(wrapped, mode="reduce-overhead", dynamic=False)

        for epoch in range(state["epoch"], args.epochs):
            start = time.perf_counter()
            per_step = train_epoch(wrapped, optimizers, train_set, epoch, args)  # S×3
            val_loss, val_accuracy = validate(model, val_set, args)
            if not all(t.isfinite().all() for t in (per_step, *model.parameters())):
                raise data.UserError(
                    f"the loss or a weight is not finite in epoch {epoch + 1}; "
                    f"{folder / 'last.pt'} holds the state after epoch {epoch}; "
                    "try a lower --lr in a new run"
                )
            loss_sum, correct, count = per_step.sum(0).tolist()
            # The training images are augmented, and their loss may have label smoothing; validation
            # has neither. With mixup, train_accuracy counts one of the two labels: about 50 %.
            row = {
                "epoch": epoch + 1,
                "step": (epoch + 1) * len(per_step),
                # Of the last step; if there are two optimizers, Muon's.
                "learning_rate": optimizers[-1].param_groups[0]["lr"],
                "train_loss": loss_sum / count,
                "train_accuracy": correct / count,
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
                "seconds": time.perf_counter() - start,
            }
            state["log"].append(row)
            state["epoch"] = epoch + 1
            if RANK == 0:
                save_epoch(folder, board, per_step, state, model, optimizers)

    if WORLD > 1:
        dist.destroy_process_group()
    if RANK == 0 and not args.no_test:  # only now: the test images choose nothing
        evaluate.evaluate(folder / "best.pt", "test", device, args.data_dir)


# ---- Muon: this and all that follows can wait for a second reading


class Muon(torch.optim.Optimizer):
    """Momentum with an orthogonalised update, for the weights of hidden layers.

    The gradient of a matrix is usually large in a few directions (singular vectors) and tiny in the
    others; orthogonalised, it moves the weights equally far in all of them (Jordan 2024,
    kellerjordan.github.io/posts/muon). Its steps are those of ``torch.optim.Muon``, but a kernel
    out×in×3×3 counts as a matrix out×9·in, and the arithmetic is that of the weights, float32: the
    library's is bfloat16, very slow on a CPU that emulates it.
    """

    def __init__(self, params, lr, weight_decay, momentum=0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                # A running mean of the gradients; a.lerp(b, t) is a + t·(b − a).
                buffer = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                update = weight.grad.lerp(buffer, momentum).flatten(1)  # Nesterov momentum
                rows, columns = update.shape
                update = orthogonalize(update).view_as(weight)
                weight.mul_(1 - lr * group["weight_decay"])
                # As in the library, a tall matrix makes a larger step.
                weight.sub_(update, alpha=lr * max(1, rows / columns) ** 0.5)


def orthogonalize(x):
    """Return a matrix m×n with the singular vectors of x and singular values near 1: about UVᵀ for
    x = USVᵀ, without computing U and V.

    Jordan's Newton-Schulz iteration does it in four lines. They replace each singular value s five
    times by as + bs³ + cs⁵, which brings all but tiny ones near 1, to 0.7 … 1.2::

        x = x / x.norm()
        for _ in range(5):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x

    The code below takes half the time, because it iterates on gram only (m×m, mostly smaller than
    x). With p = aI + b·gram + c·gram², the last line is x = p @ x, which turns gram into
    p @ gram @ p; at the end, x is multiplied by all p.
    """
    a, b, c = 3.4445, -4.7750, 2.0315  # Jordan's
    gram = x @ x.T
    squared_norm = gram.trace() + 1e-14  # of x: the sum of the squares of its elements
    gram = gram / squared_norm  # of x / x.norm(), so that no singular value exceeds 1
    product = identity = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(5):
        p = a * identity + b * gram + c * gram @ gram
        gram = p @ gram @ p
        product = p @ product
    return (product / squared_norm.sqrt()) @ x


# ---- Several processes, for torchrun only


def join_processes(args):
    """Connect the processes that torchrun has started, and set args.device to that of this one."""
    if args.batch_size < 4 * WORLD:  # the last batch may have only a quarter
        raise data.UserError(f"{WORLD} processes are too many for batches of {args.batch_size}")
    # Each has a GPU of its own, or they share the CPU. A Mac's GPU works with neither backend.
    cuda = args.device.startswith("cuda") or (args.device == "auto" and torch.cuda.is_available())
    args.device = f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu"
    # After a restart by torchrun, its store still has the addresses of the dead processes: in
    # PyTorch 2.14, half of all restarts fail without a prefix of their own.
    store, *_ = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    backend = "nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=RANK, world_size=WORLD)


# ---- The files of a run: start, resume, save

# A row of steps.csv is the mean training loss of so many steps; an epoch's last one may have fewer.
LOG_STEPS = 25
# These may change when a run is resumed; environment() records the device and the threads.
FREE_OPTIONS = ("name", "runs", "resume", "no_test", "device", "threads", "data_dir")


def claim_folder(folder):
    """Create the folder of a run, and keep other processes from training in it during a ``with``.

    Raises:
        UserError: another process trains in it.
    """
    if RANK > 0:
        return contextlib.nullcontext()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder / "lock").acquire(blocking=False)
    except Timeout:
        raise data.UserError(f"{folder} is being trained by another process") from None


def start_or_resume(folder, model, optimizers, args, device):
    """With --resume, load weights and optimizers from last.pt, if there is one. Write config.json,
    and return the state of the run, described in main().

    Raises:
        UserError: a new training would overwrite something; or last.pt cannot be read, or does not
            fit the options or the network.
    """
    path, env = folder / "last.pt", environment(model, device)
    files = {file.name for file in folder.glob("[!.]*")} - {"lock", "last.pt.tmp"}
    resuming = args.resume and path.exists()
    if files and not resuming:
        raise data.UserError(
            f"{folder} holds {min(files)}: --resume continues a run that has a last.pt, "
            "--name starts another"
        )
    # What must be the same when the run is resumed.
    options = {name: value for name, value in vars(args).items() if name not in FREE_OPTIONS}
    state = {"config": {**options, **env}, "epoch": 0, "log": [], "steps": []}
    if resuming:
        state = evaluate.read_checkpoint(path)
        old = state["config"]  # options and environment
        for name in sorted((old.keys() | options.keys()) - {*env, "resumed"}):
            if old.get(name) != options.get(name):
                raise data.UserError(
                    f"{folder} was started with {name} = {old.get(name)}, not {options.get(name)}"
                )
        try:
            model.load_state_dict(state.pop("model"))
            for optimizer, saved in zip(optimizers, state.pop("optimizers"), strict=True):
                optimizer.load_state_dict(saved)
        except (RuntimeError, ValueError, KeyError) as error:
            raise data.UserError(
                f"{path} does not fit {args.model} any more: {data.last_line(error)}"
            ) from None
        if state["epoch"] < args.epochs:  # otherwise it is only tested again
            state["config"].setdefault("resumed", []).append(env)
    if WORLD > 1:
        dist.barrier()  # nothing is written before all have checked the folder
    if RANK == 0:
        if state["log"]:
            print(f"resuming after epoch {state['epoch']}")
        else:  # so that a run stopped in its first epoch can be resumed
            save_checkpoint(path, state, model, optimizers)
        data.write_file(folder / "config.json", json.dumps(state["config"], indent=1).encode())
        print(
            f"{args.model} ({env['parameters']:,} parameters) on {env['device_name']}, "
            f"{env['threads']} threads, {args.precision}: {args.epochs} epochs into {folder}",
            flush=True,
        )
    return state


def open_board(folder, train_set, args):
    """Return a writer of TensorBoard events that has written up to 64 augmented images."""
    board = SummaryWriter(folder)
    images, _ = draw_epoch([tensor[:64] for tensor in train_set], 0, args)[0]
    board.add_images("train/inputs", images[:, None] / 255, 0)
    return board


def save_epoch(folder, board, per_step, state, model, optimizers):
    """Save an epoch, the last row of state["log"]: add its rows of steps.csv to the state, write
    what the epoch has changed, and print a line. If the process dies before the last file, last.pt,
    --resume repeats the epoch and writes the same again, except the seconds."""
    *earlier, row = state["log"]
    on_all = state["config"]["train_on"] == "all"
    # Without validation, the last epoch counts as the best.
    is_best = on_all or row["val_accuracy"] > max((r["val_accuracy"] for r in earlier), default=-1)
    for name, value in row.items():
        board.add_scalar(f"epoch/{name}", value, row["step"])
    step = row["step"] - len(per_step)  # at the end of the epoch before
    for part in per_step.split(LOG_STEPS):
        step += len(part)
        loss = (part[:, 0].sum() / part[:, 2].sum()).item()
        board.add_scalar("train/loss_by_step", loss, step)
        state["steps"].append({"step": step, "train_loss": loss})
    board.flush()
    data.write_csv(folder / "log.csv", state["log"])
    data.write_csv(folder / "steps.csv", state["steps"])
    # No evaluation of the checkpoints that are replaced may stay.
    prefixes = ("last-", "last-val-", "", "val-") if is_best else ("last-", "last-val-")
    for prefix in prefixes:
        (folder / f"{prefix}evaluation.json").unlink(missing_ok=True)
        (folder / f"{prefix}predictions.csv").unlink(missing_ok=True)
    if is_best:
        save_checkpoint(folder / "best.pt", state, model)
    save_checkpoint(folder / "last.pt", state, model, optimizers)
    text = f"epoch {row['epoch']:3d}/{state['config']['epochs']}: "
    text += f"training loss {row['train_loss']:.4f}, accuracy {100 * row['train_accuracy']:.2f} %; "
    text += f"{row['seconds']:.1f} s"
    if not on_all:
        text += f"; validation loss {row['val_loss']:.4f}, "
        text += f"accuracy {100 * row['val_accuracy']:.2f} %"
    print(text + (" (best)" if is_best else ""), flush=True)


def save_checkpoint(path, state, model, optimizers=()):
    """Write a checkpoint; with the optimizers it can be resumed."""
    states = [optimizer.state_dict() for optimizer in optimizers]
    buffer = io.BytesIO()
    torch.save({**state, "model": model.state_dict(), "optimizers": states}, buffer)
    data.write_file(path, buffer.getbuffer())


def environment(model, device):
    """Return what the numbers of a run depend on besides its options."""
    command = ["git", "-C", Path(__file__).resolve().parent, "describe", "--always", "--dirty"]
    try:
        revision = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).strip()
    except (OSError, subprocess.CalledProcessError):  # without git, or outside a clone
        revision = None
    return {
        "parameters": count_parameters(model),
        "git": revision,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": device.type,
        "device_name": evaluate.describe_device(device),
        "threads": torch.get_num_threads(),
        "processes": WORLD,
    }


# ---- Options


def folder_name(text):
    """An argparse type: a folder's name, without characters that a system forbids."""
    if not re.fullmatch(r"[^\W_][\w.+=-]*", text):  # matplotlib hides labels that begin with _
        raise argparse.ArgumentTypeError(f"{text!r}: use letters and digits, then also _ . + = -")
    return text


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="The defaults shown are those of the --recipe, --model and --optimizer given.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        add_help=False,  # added last
    )
    number = data.number
    fraction, rate, seed = number(float, 0, 0.99999), number(float, 0, 1000), number(int, 0, 10**9)
    add = parser.add_argument_group("recipe").add_argument
    add("--model", choices=MODELS, default="resnet18", help="network to train")
    add("--recipe", choices=("report", "modern"), default="modern", help="sets the defaults below")
    add("--epochs", type=number(int, 1, 10**4), help="passes over the training images")
    add("--batch-size", type=number(int, 1, 10**5), help="images per step")
    add("--optimizer", choices=OPTIMIZERS, help="sgd: with Nesterov momentum 0.9; muon: Muon for "
        "hidden layers, AdamW (0.002) for the rest")  # fmt: skip
    add("--lr", type=rate, help="peak learning rate")
    add("--schedule", choices=SCHEDULES, help="shape of the learning rate over the training")
    add("--weight-decay", type=rate, help="weight decay of matrices and kernels; with muon, of "
        "hidden layers only")  # fmt: skip
    add("--label-smoothing", type=fraction, help="amount of label smoothing")
    add("--padding", type=number(int, 0, 28), help="pixels of padding of the random crop; 0: none")
    add("--flip", type=number(float, 0, 1), help="probability of a horizontal flip")
    add("--mixup", type=number(float, 0.01, 1000), help="α of mixup, which mixes pairs of images, "
        "the less, the smaller α is; None: off")  # fmt: skip
    add("--dropout", type=fraction, help="dropout before the last layer of a ResNet")
    # With fewer than 8 channels, oneDNN 3.12 crashes on some CPUs, in the shortcuts.
    add("--width", type=number(int, 8, 4096), default=64, help="channels of a ResNet's first stage")
    add("--train-on", choices=("split", "all"), default="split",
        help="all: also on the validation images; best.pt is then the last epoch")  # fmt: skip
    add = parser.add_argument_group("run").add_argument
    add("--seed", type=seed, default=0, help="seed of all but the validation split")
    add("--runs", default="runs", help="folder of all runs")
    add("--name", type=folder_name, help="folder of this run in it")
    add("--resume", action="store_true", help="continue the run of that name, if there is one")
    add("--no-test", action="store_true", help="skip testing at the end")
    add = parser.add_argument_group("machine").add_argument
    add("--data-dir", default="data", help="folder of the data set, downloaded if missing")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps …")
    add("--threads", type=number(int, 0, 1024), default=0, help="CPU threads; 0: PyTorch's "
        "choice, all cores; on a machine with other work, fewer are faster")  # fmt: skip
    add("--compile", action="store_true", help="compile the network, which needs a C++ "
        "compiler and, on a GPU, Linux; faster on a GPU")  # fmt: skip
    add("--precision", choices=("auto", "float32", "bfloat16"), default="auto",
        help="bfloat16 autocast or not; auto: where an x86 CPU or CUDA GPU has it")  # fmt: skip

    # The other defaults depend on recipe, model and optimizer, so argv is parsed twice, first for
    # these three; only then is there a --help, which shows the defaults.
    first, _ = parser.parse_known_args(argv)
    recipe = REPORT_RECIPE if first.recipe == "report" else MODERN.get(first.model, OWN_RECIPE)
    if first.optimizer not in (None, recipe["optimizer"]):
        recipe = {**recipe, **OPTIMIZERS[first.optimizer]}  # another optimizer needs another rate
    parser.set_defaults(**recipe, name=first.model)
    parser.add_argument("-h", "--help", action="help", help="show this message and exit")
    return parser.parse_args(argv)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: KeyboardInterrupt
    data.run_script(main, stopped="stopped; the same command with --resume continues the run")
