import csv
import json
import os
import random
import resource
import shutil
import signal
import sysconfig
import time
from pathlib import Path

import pytest
import torch
from conftest import DATA, MLP_RUN, ROOT, call, read_logs, start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import data
import evaluate
import train
from models import build_model


def read_weights(run, name="last.pt"):
    return torch.load(run / name, weights_only=True)


def read_outcome(run):
    """Return what must be equal: the logs without their times, and the bytes of all weights."""
    best, last = (read_weights(run, name)["model"] for name in ("best.pt", "last.pt"))
    weights = [*best.values(), *last.values()]
    return *read_logs(run), [weight.numpy().tobytes() for weight in weights]


def wait_until(process, happened, *args):
    """Wait until ``happened(*args)`` is true or the process has ended."""
    while process.poll() is None and not happened(*args):
        time.sleep(0.001)


def has_finished(run, epochs):
    log = run / "log.csv"
    return log.exists() and len(log.read_text().split()) > epochs


def is_writing(run):
    return any(run.glob("*.tmp"))


def test_recipes_give_defaults_and_the_command_line_wins():
    report = train.parse_args(["--recipe", "report", "--model", "resnet18"])
    assert (report.optimizer, report.lr, report.schedule) == ("adam", 1e-3, "cosine")
    assert (report.batch_size, report.padding, report.dropout) == (128, 4, 0.3)
    assert (report.label_smoothing, report.weight_decay) == (0, 0)
    own = train.parse_args(["--recipe", "report", "--lr", "0.5", "--optimizer", "sgd"])
    assert (own.lr, own.optimizer, own.schedule) == (0.5, "sgd", "cosine")
    assert train.parse_args(["--flip", "1"]).flip == 1  # the highest value is allowed


@pytest.mark.parametrize("recipe", ["report", "modern"])
@pytest.mark.parametrize("model", ["mlp", "resnet18", "resnet34"])
def test_recipes_are_those_of_the_published_runs(model, recipe):
    name = f"{model}-report" if recipe == "report" else model
    config = json.loads((ROOT / f"results/{name}/config.json").read_text(encoding="utf-8"))
    args = vars(train.parse_args(["--model", model, "--recipe", recipe]))
    shared = train.MLP_RECIPE.keys() & config.keys()  # an old run has no "flip"
    assert len(shared) >= 9
    assert {key: args[key] for key in shared} == {key: config[key] for key in shared}


@pytest.mark.parametrize("recipe", ["report", "modern"])
def test_learning_rate_belongs_to_the_optimizer(recipe):
    for optimizer, defaults in train.OPTIMIZERS.items():
        args = train.parse_args(["--recipe", recipe, "--optimizer", optimizer])
        assert {"lr": args.lr, "weight_decay": args.weight_decay} == defaults


def test_help_shows_the_defaults_of_the_recipe():
    shown = " ".join(call("train.py", "--recipe", "report", "--help").split())
    assert "(default: 128)" in shown and "(default: cosine)" in shown


def test_learning_rate_schedules():
    assert [train.cosine(p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    triangle = [train.triangle(p) for p in (0, 0.1, 0.2, 0.6, 1)]
    assert triangle == pytest.approx([0, 0.5, 1, 0.5, 0])


@pytest.mark.parametrize("shape", [(8, 30), (64, 64), (30, 8)])
def test_muon_makes_the_steps_of_the_library(shape):
    torch.manual_seed(0)
    matrix = torch.nn.Parameter(torch.randn(shape))
    kernel = torch.nn.Parameter(matrix.detach().clone().view(shape[0], -1, 1, 2))
    ours = train.Muon([kernel], lr=0.1, weight_decay=0.3)
    library = torch.optim.Muon([matrix], lr=0.1, weight_decay=0.3)
    for _ in range(3):
        matrix.grad = torch.randn(shape)
        kernel.grad = matrix.grad.view(kernel.shape)
        ours.step()
        library.step()
    # The library's arithmetic is bfloat16. Three steps moved each weight by about 0.1.
    assert torch.allclose(kernel.view(shape), matrix, atol=0.01)


def test_muon_gets_the_hidden_layers():
    for model, hidden in (("mlp", 784 * 128), ("resnet18", 11_172_810 - 9 * 64 - 5130 - 9600)):
        args = train.parse_args(["--model", model, "--optimizer", "muon"])
        adamw, muon = train.build_optimizers(build_model(model), args)
        assert sum(p.numel() for p in muon.param_groups[0]["params"]) == hidden
        train.set_learning_rate([adamw, muon], args, 0.5)
        fraction = train.SCHEDULES[args.schedule](0.5)
        (group,) = adamw.param_groups
        assert (group["lr"], group["weight_decay"]) == (pytest.approx(2e-3 * fraction), 0)
        (group,) = muon.param_groups
        assert group["lr"] == pytest.approx(args.lr * fraction)
        assert group["weight_decay"] == args.weight_decay > 0
    with pytest.raises(data.UserError, match="hidden layer"):
        train.build_optimizers(torch.nn.Sequential(torch.nn.Linear(784, 10)), args)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_vectors_have_no_weight_decay(optimizer):
    args = train.parse_args(["--optimizer", optimizer, "--weight-decay", "0.3"])
    (only,) = train.build_optimizers(build_model("resnet18", width=8), args)
    assert type(only).__name__.lower() == optimizer
    assert only.defaults.get("momentum", 0.9) == 0.9 and only.defaults.get("nesterov", True)
    weights, vectors = only.param_groups
    assert (weights["weight_decay"], vectors["weight_decay"]) == (0.3, 0)
    assert {p.ndim for p in weights["params"]} == {2, 4} and len(weights["params"]) == 21
    assert {p.ndim for p in vectors["params"]} == {1} and len(vectors["params"]) == 41


class Dice(torch.nn.Module):
    """A network that draws a random number in each forward pass, as dropout does."""

    def __init__(self):
        super().__init__()
        self.fc, self.drawn = torch.nn.Linear(784, 10), []

    def forward(self, x):
        self.drawn.append(torch.rand(()).item())
        return self.fc(x.flatten(1))


def test_each_seed_epoch_step_and_process_draws_other_dropout(real, monkeypatch):
    train_set, drawn = [tensor[:300] for tensor in real], []
    for seed, epoch, rank in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (0, 0, 0)):
        monkeypatch.setattr(train, "RANK", rank)
        args = ["--seed", str(seed), "--batch-size", "100", "--optimizer", "sgd", "--precision"]
        args, dice = train.parse_args([*args, "float32"]), Dice()
        train.train_epoch(dice, train.build_optimizers(dice, args), train_set, epoch, args)
        drawn.append(dice.drawn)
    assert drawn.pop() == drawn[0] and len(drawn[0]) == 3
    assert len({number for numbers in drawn for number in numbers}) == 12


def test_mixup_mixes_labels_as_images():
    y = torch.arange(10)
    images = torch.nn.functional.one_hot(y, 10).float()[:, None, None]  # an image shows its label
    torch.manual_seed(0)
    mixed, target = train.mix(images, y, 1.0)
    assert torch.allclose(mixed[:, 0, 0], target)
    assert (target > 0).sum(1).tolist() == [2] * 10 and target.sum(1).allclose(torch.ones(10))
    for alpha, low, high in ((1000, 0.5, 0.6), (0.01, 0.9, 1)):
        assert low <= train.mix(images, y, alpha)[1].max() <= high


def test_run_writes_what_it_says(mlp_run):
    rows, steps = read_logs(mlp_run)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["val_accuracy"]) > 0.7
    assert len(steps.splitlines()) == 1 + 750 // train.LOG_STEPS
    assert steps.splitlines()[-1].startswith("750,")
    board = EventAccumulator(str(mlp_run)).Reload()
    for name in ("train_loss", "val_accuracy"):
        shown = [event.value for event in board.Scalars(f"epoch/{name}")]
        assert shown == pytest.approx([float(row[name]) for row in rows], rel=1e-5)
    assert len(board.Scalars("train/loss_by_step")) == 30 and board.Images("train/inputs")
    best = read_weights(mlp_run, "best.pt")
    assert best["epoch"] == 1 + max((0, 1), key=lambda i: float(rows[i]["val_accuracy"]))


def test_validation_images_are_not_augmented(mlp_run):
    # The run trains on shifted and flipped images; were the validation images shifted as well,
    # its log would not agree with what evaluate.py measures on the untouched ones.
    call("evaluate.py", "--ckpt", mlp_run / "best.pt", "--split", "val")
    measured = json.loads((mlp_run / "val-evaluation.json").read_text())
    logged = max(float(row["val_accuracy"]) for row in read_logs(mlp_run)[0])
    assert measured["n"] == 12_000
    assert measured["accuracy"] == pytest.approx(logged, abs=1e-6)
    rows = csv.DictReader((mlp_run / "val-predictions.csv").read_text().splitlines())
    assert [int(row["index"]) for row in rows] == data.split_indices()[1].tolist()


def test_existing_run_is_not_overwritten(mlp_run):
    before = (mlp_run / "last.pt").read_bytes()
    message = call("train.py", "--model", "mlp", "--runs", mlp_run.parent, code=1)
    assert "--resume" in message and "--name" in message
    assert (mlp_run / "last.pt").read_bytes() == before


def test_files_of_another_run_are_never_overwritten(tmp_path):
    published = shutil.copytree(ROOT / "results" / "mlp-report", tmp_path / "mlp")
    files = {path: path.read_bytes() for path in published.iterdir()}
    for more in ((), ("--resume",)):
        message = call("train.py", "--model", "mlp", "--runs", tmp_path, *more, code=1)
        assert "a run that has a last.pt" in message and len(message.splitlines()) == 1
    assert {path: path.read_bytes() for path in files} == files


def test_trains_without_git(tmp_path):
    options = ("--recipe", "report", "--epochs", 1, "--batch-size", 5000, "--no-test")
    began = time.monotonic()
    process = start("train.py", "--model", "mlp", *options, "--runs", tmp_path,
                    env=os.environ | {"PATH": str(tmp_path)})  # fmt: skip
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    seconds = (tmp_path / "mlp/log.csv").read_text(encoding="utf-8").split(",")[-1]
    assert 0 < float(seconds) < time.monotonic() - began
    assert json.loads((tmp_path / "mlp/config.json").read_text(encoding="utf-8"))["git"] is None
    # Fewer steps than a row of steps.csv has: 10, of which the last is a partial batch.
    (row,), steps = read_logs(tmp_path / "mlp")
    assert steps.split() == ["step,train_loss", f"10,{row['train_loss']}"]


def test_rank_without_other_processes_is_ignored(tmp_path):
    options = ("--model", "mlp", "--recipe", "report", "--epochs", 1, "--batch-size", 5000,
               "--seed", 1, "--lr", 0, "--no-test", "--runs", tmp_path)  # fmt: skip
    process = start("train.py", *options, env=os.environ | {"RANK": "3", "WORLD_SIZE": "4"})
    assert process.communicate(timeout=120) and process.returncode == 0
    assert len(read_logs(tmp_path / "mlp")[0]) == 1
    torch.manual_seed(1)  # the seed also decides the initial weights, which a rate of 0 keeps
    initial = build_model("mlp").state_dict()
    assert torch.equal(read_weights(tmp_path / "mlp")["model"]["fc1.bias"], initial["fc1.bias"])


def test_renamed_run_can_be_resumed(mlp_run, tmp_path):
    shutil.copytree(mlp_run, tmp_path / "renamed")
    (tmp_path / "moved").symlink_to(DATA)  # and so can one whose data set has moved
    said = call(*MLP_RUN, "--runs", tmp_path, "--name", "renamed", "--resume",
                "--data-dir", tmp_path / "moved")  # fmt: skip
    assert "resuming after epoch 2" in said and "test accuracy" in said
    config = json.loads((tmp_path / "renamed/config.json").read_text(encoding="utf-8"))
    assert "resumed" not in config  # nothing was trained here


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--epochs", 3, "epochs = 2, not 3"), ("--lr", 0.5, "lr = 0.001, not 0.5"),
        ("--seed", 1, "seed = 0, not 1"), ("--precision", "bfloat16", "float32, not bfloat16"),
    ],
)  # fmt: skip
def test_resume_refuses_other_options(mlp_run, option, value, said):
    message = call(*MLP_RUN, option, value, "--runs", mlp_run.parent, "--resume", code=1)
    assert said in message and len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("model", {"fc1.weight": torch.zeros(100, 784)}, "does not fit mlp any more"),
        ("config", {"prune": 0.5}, "started with prune = 0.5"),  # an option that is no more
    ],
    ids=["network", "option"],
)
def test_resume_refuses_a_run_of_other_code(mlp_run, tmp_path, part, change, said):
    run = shutil.copytree(mlp_run, tmp_path / "mlp")
    checkpoint = read_weights(run)
    checkpoint[part].update(change)
    torch.save(checkpoint, run / "last.pt")
    message = call(*MLP_RUN, "--runs", tmp_path, "--resume", code=1)
    assert said in message and len(message.splitlines()) == 1


def test_train_on_all_leaves_nothing_to_validate_on(tmp_path):
    options = ("--model", "mlp", "--train-on", "all", "--runs", tmp_path, "--no-test")
    said = call("train.py", *options, "--recipe", "report", "--epochs", 2)
    assert "validation" not in said
    rows, _ = read_logs(tmp_path / "mlp")
    assert [(row["step"], row["val_accuracy"]) for row in rows] == [("469", "nan"), ("938", "nan")]
    assert read_weights(tmp_path / "mlp", "best.pt")["epoch"] == 2
    best = tmp_path / "mlp" / "best.pt"
    assert "validation images" in call("evaluate.py", "--ckpt", best, "--split", "val", code=1)


PLAIN = ("train.py", "--model", "mlp", "--recipe", "report", "--epochs", 6, "--device", "cpu")
# With the ResNets' recipe; 48 steps, so that the rows of steps.csv are uneven.
NARROW = ("tests/small.py", "--model", "small", "--width", 8, "--epochs", 2, "--batch-size", 1000,
          "--mixup", 0.5, "--dropout", 0.3, "--device", "cpu")  # fmt: skip


@pytest.mark.parametrize(("options", "kills"), [(PLAIN, 4), (NARROW, 1)], ids=["mlp", "resnet"])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, options, kills):
    options = (*options, "--no-test", "--threads", 1, "--runs", tmp_path)
    alone = start(*options, "--name", "whole")  # beside the other: on a thread each
    moments, killed = random.Random(0), 0
    for i in range(kills):
        process = start(*options, "--name", "killed", "--resume")
        wait_until(process, has_finished, tmp_path / "killed", i + 1)
        if i % 2:
            wait_until(process, is_writing, tmp_path / "killed")
        else:
            time.sleep(moments.uniform(0, 1))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert killed, "no kill came before the end"
    assert "resuming after epoch" in call(*options, "--name", "killed", "--resume")
    assert alone.communicate(timeout=240) and alone.returncode == 0
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert read_logs(whole) == read_logs(killed)
    outcome = read_outcome(killed)
    assert read_outcome(whole) == outcome
    outcome[2][-1] += bytes(1)
    assert read_outcome(whole) != outcome
    best = max(read_logs(whole)[0], key=lambda row: float(row["val_accuracy"]))
    assert read_weights(whole, "best.pt")["epoch"] == int(best["epoch"])


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_first_epoch_can_be_continued(tmp_path, stop):
    options = (*PLAIN, "--no-test", "--runs", tmp_path)
    process = start(*options)
    assert process.stdout.readline().startswith("mlp")  # the training begins
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert "--resume" in err and "Traceback" not in err
    assert "--resume" in call(*options, code=1)
    call(*options, "--resume")
    assert len(read_logs(tmp_path / "mlp")[0]) == 6


CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["mlp-report", "mlp-float32"])
def test_first_epochs_are_those_of_the_published_run(tmp_path, name):
    config = json.loads((ROOT / f"results/{name}/config.json").read_text(encoding="utf-8"))
    precision = "bfloat16" if evaluate.has_native_bfloat16(CPU) else "float32"
    if config["precision"] != precision or not evaluate.describe_device(CPU).startswith("AMD"):
        pytest.skip(f"an AMD EPYC with {config['precision']} wrote the log; others round otherwise")
    # The learning rate asks for all epochs, so the training is stopped.
    process = start("train.py", "--model", "mlp", "--recipe", config["recipe"], "--threads", 2,
                    "--runs", tmp_path)  # fmt: skip
    wait_until(process, has_finished, tmp_path / "mlp", 4)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in err
    assert err.strip().splitlines()[-1].endswith("the same command with --resume continues the run")
    rows, published = read_logs(tmp_path / "mlp")[0], read_logs(ROOT / "results" / name)[0]
    assert len(rows) >= 4
    for row, expected in zip(rows, published, strict=False):
        assert float(row["val_accuracy"]) == float(expected["val_accuracy"])
        assert float(row["val_loss"]) == pytest.approx(float(expected["val_loss"]), abs=2e-6)


def forget_the_last_epoch(last, **changes):
    """Make a last.pt one from before its last epoch (but for the weights)."""
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["epoch"] -= 1
    checkpoint["log"].pop()
    checkpoint["steps"] = [
        row for row in checkpoint["steps"] if row["step"] <= checkpoint["log"][-1]["step"]
    ]
    torch.save(checkpoint | changes, last)


def test_full_disk_keeps_the_old_checkpoint(mlp_run, tmp_path):
    shutil.copytree(mlp_run, tmp_path / "mlp")
    last = tmp_path / "mlp" / "last.pt"
    forget_the_last_epoch(last)
    before = last.read_bytes()
    limit = len(before) // 2  # no file may become larger, as on a full disk
    process = start(
        *MLP_RUN, "--runs", tmp_path, "--resume",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in err
    assert "last.pt could not be written" in err and "an old file is unchanged" in err
    assert last.read_bytes() == before and not list(last.parent.glob("*.tmp"))


def test_evaluation_does_not_outlive_its_best_epoch(mlp_run, tmp_path):
    run = shutil.copytree(mlp_run, tmp_path / "mlp")
    forget_the_last_epoch(run / "last.pt")
    shutil.copy(run / "evaluation.json", run / "val-evaluation.json")
    call(*MLP_RUN, "--runs", tmp_path, "--resume", "--no-test")
    best = read_weights(run, "best.pt")
    assert best["epoch"] == 2 and len(best["config"]["resumed"]) == 1
    assert not list(run.glob("*evaluation.json")) and not list(run.glob("*predictions.csv"))
    # last.pt comes last: with it the epoch counts as done.
    assert (run / "best.pt").stat().st_mtime_ns <= (run / "last.pt").stat().st_mtime_ns


def test_worse_epoch_keeps_the_best_and_its_evaluation(mlp_run, tmp_path):
    run = shutil.copytree(mlp_run, tmp_path / "mlp")
    row, _ = read_weights(run)["log"]
    log = [row | {"val_accuracy": accuracy} for accuracy in (0.99, 0.1)]  # before its last epoch
    forget_the_last_epoch(run / "last.pt", log=log)
    kept = [run / name for name in ("best.pt", "evaluation.json", "predictions.csv")]
    before = [path.read_bytes() for path in kept]
    shutil.copy(run / "evaluation.json", run / "last-evaluation.json")  # of last.pt, replaced below
    call(*MLP_RUN, "--runs", tmp_path, "--resume", "--no-test")
    assert not (run / "last-evaluation.json").exists()
    assert read_weights(run)["epoch"] == 2 and [path.read_bytes() for path in kept] == before


@pytest.mark.parametrize("damage", ["truncated", "weights only"])
def test_resume_refuses_a_damaged_checkpoint(mlp_run, tmp_path, damage):
    run = shutil.copytree(mlp_run, tmp_path / "mlp")
    if damage == "truncated":
        (run / "last.pt").write_bytes((run / "last.pt").read_bytes()[:100_000])
    else:
        shutil.copy(run / "best.pt", run / "last.pt")
    files = {path: path.read_bytes() for path in run.iterdir()}
    message = call(*MLP_RUN, "--runs", tmp_path, "--resume", code=1)
    assert str(run) in message and len(message.splitlines()) == 1
    assert {path: path.read_bytes() for path in run.iterdir()} == files


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    message = call("train.py", "--model", "mlp", "--runs", tmp_path / "file", code=1)
    assert str(tmp_path / "file") in message and len(message.splitlines()) == 1


def test_two_trainings_in_one_folder_are_refused(tmp_path):
    options = ("--model", "mlp", "--epochs", 400, "--runs", tmp_path)
    process = start("train.py", *options)
    wait_until(process, (tmp_path / "mlp" / "last.pt").exists)
    try:
        message = call("train.py", *options, "--resume", code=1)
    finally:
        process.kill()
        process.communicate()
    assert "another process" in message and len(message.splitlines()) == 1


def test_folder_is_released_when_a_training_fails(mlp_run, tmp_path):
    shutil.copytree(mlp_run, tmp_path / "mlp")
    words = [str(word) for word in (*MLP_RUN[1:], "--runs", tmp_path, "--data-dir", DATA)]
    with pytest.raises(data.UserError, match="--resume continues a run that has") as kept:
        train.main(words)
    # Like a notebook, ``kept`` still refers to the variables of that main().
    train.main([*words, "--resume", "--no-test"])
    assert kept.tb


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoints(tmp_path):
    options = ("--model", "mlp", "--recipe", "report", "--epochs", 2, "--optimizer", "sgd",
               "--no-test", "--runs", tmp_path)  # fmt: skip
    call("train.py", *options)
    last = tmp_path / "mlp" / "last.pt"
    weights = read_weights(tmp_path / "mlp")["model"]
    weights["fc1.weight"].fill_(1e38)
    forget_the_last_epoch(last, model=weights)
    before = last.read_bytes(), (tmp_path / "mlp" / "best.pt").read_bytes()
    message = call("train.py", *options, "--resume", code=1)
    assert "last.pt holds the state after epoch 1" in message and "--lr" in message
    assert (last.read_bytes(), (tmp_path / "mlp" / "best.pt").read_bytes()) == before


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--epochs", "0"), ("--epochs", "-3"), ("--epochs", "1e99"), ("--lr", "nan"),
        ("--lr", "-1"), ("--batch-size", "x"), ("--dropout", "1"), ("--padding", "-1"),
        ("--threads", "-2"), ("--width", "4"), ("--model", "vgg"), ("--recipe", "secret"),
        ("--batch-size", "0"), ("--name", "_a"), ("--name", "a/b"), ("--name", ".."),
        ("--name", "q$^_$b"), ("--schedule", "linear"), ("--mixup", "0.001"),
    ],
)  # fmt: skip
def test_bad_value_is_refused_in_one_line(capsys, option, value):
    with pytest.raises(SystemExit) as caught:
        train.parse_args([option, value])
    assert caught.value.code == 2
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert option in last_line and value in last_line


@pytest.mark.parametrize("device", ["tpu", "meta", "hpu"])
def test_device_that_is_not_here_is_refused_in_one_line(tmp_path, device):
    message = call("train.py", "--device", device, "--runs", tmp_path, code=1)
    assert device in message and len(message.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_precision_is_that_of_the_option(real):
    train_set, losses = tuple(tensor[:500] for tensor in real), []
    for precision in ("float32", "bfloat16"):
        args = train.parse_args(["--model", "mlp", "--precision", precision])
        torch.manual_seed(0)
        model = build_model("mlp")
        optimizers = train.build_optimizers(model, args)
        per_step = train.train_epoch(model, optimizers, train_set, 0, args)
        losses.append((per_step[0, 0].item(), train.validate(model, train_set, args)[0]))
    for float32, bfloat16 in zip(*losses, strict=True):
        assert float32 != bfloat16 == pytest.approx(float32, rel=0.01)
    assert model.fc1.weight.dtype == torch.float32


HEADER = Path(sysconfig.get_path("include"), "Python.h")


@pytest.mark.skipif(
    not (shutil.which("g++") and HEADER.exists()), reason="--compile needs g++ and Python's headers"
)
def test_compiled_training_is_the_same(tmp_path):
    options = ("--model", "mlp", "--recipe", "report", "--epochs", 1, "--batch-size", 5000,
               "--precision", "float32", "--device", "cpu", "--no-test",
               "--runs", tmp_path)  # fmt: skip
    call("train.py", *options, "--name", "plain")
    call("train.py", *options, "--name", "compiled", "--compile")
    (plain,), (compiled,) = (read_logs(tmp_path / name)[0] for name in ("plain", "compiled"))
    for name in plain:
        assert float(compiled[name]) == pytest.approx(float(plain[name]), rel=1e-3), name
