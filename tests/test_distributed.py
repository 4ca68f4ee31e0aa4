"""Several processes under torchrun, on the real data: gloo, one thread each."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from conftest import DATA, ROOT
from small import models, train  # with one more network

import data
import evaluate

EVERY_STEP = "import sys, small, train; train.LOG_STEPS = 1; train.main(sys.argv[1:])"


def launch(tmp_path, processes, *args, torchrun=()):
    """Start train.py, with a row of steps.csv for every step, in one or several processes."""
    script = tmp_path / "every_step.py"
    script.write_text(EVERY_STEP)
    launcher = [sys.executable, script]
    if processes:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                    "--nproc_per_node", processes, *torchrun, script]  # fmt: skip
    options = ("--recipe", "report", "--threads", 1, "--precision", "float32", "--no-test",
               "--device", "cpu", "--data-dir", DATA, "--runs", tmp_path)  # fmt: skip
    command = [*map(str, launcher), *map(str, options), *map(str, args)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process, code=0):
    _, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    return err


def read_steps(run):
    return [float(line.split(",")[1]) for line in (run / "steps.csv").read_text().split()[1:]]


def test_two_processes_make_the_same_steps_as_one(tmp_path):
    mlp = ("--model", "mlp", "--epochs", 1, "--batch-size", 1000)
    for process in [
        launch(tmp_path, n, *mlp, "--name", name) for n, name in ((0, "one"), (2, "two"))
    ]:
        finish(process)
    one, two = (read_steps(tmp_path / name) for name in ("one", "two"))
    assert len(one) == 48 and two[:20] == pytest.approx(one[:20], abs=1e-5)
    texts = [(tmp_path / name / "log.csv").read_text() for name in ("one", "two")]
    logs = [next(csv.DictReader(text.splitlines())) for text in texts]
    for column in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        values = [float(log[column]) for log in logs]
        assert values[1] == pytest.approx(values[0], abs=1e-5), column
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["one", "two"]
    assert len(list((tmp_path / "two").glob("events.out.tfevents.*"))) == 1  # of process 0 alone
    # A checkpoint of two processes can be resumed with one, and with three.
    checkpoint = torch.load(tmp_path / "two" / "last.pt", weights_only=True)
    torch.save(checkpoint | {"epoch": 0, "log": [], "steps": []}, tmp_path / "two" / "last.pt")
    shutil.copytree(tmp_path / "two", tmp_path / "other" / "two")
    again = (*mlp, "--name", "two", "--resume")
    for process in (
        launch(tmp_path, 0, *again),
        launch(tmp_path / "other", 3, *again),
    ):
        finish(process)
    one, three = (read_steps(folder / "two") for folder in (tmp_path, tmp_path / "other"))
    assert three[0] == pytest.approx(one[0], abs=1e-5)  # parts of 334, 333 and 333 images


def test_batch_norm_takes_each_process_its_own_share(tmp_path):
    narrow = ("--model", "small", "--width", 8, "--epochs", 1, "--batch-size", 16_000,
              "--dropout", 0.3, "--mixup", 0.5, "--padding", 0, "--flip", 0,
              "--label-smoothing", 0.1, "--name", "net")  # fmt: skip
    finish(launch(tmp_path, 2, *narrow))
    images, labels = data.load(DATA, train=True)
    index, _ = data.split_indices()
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = models.build_model("small", width=8, dropout=0.3).train()
    losses = []
    for rank in range(2):
        mine = index[order[:16_000][rank::2]]
        torch.manual_seed(10**15 * rank)  # mixup and dropout of the first step
        x, target = train.mix(data.preprocess(images[mine]), labels[mine], 0.5)
        losses.append(F.cross_entropy(model(x), target, label_smoothing=0.1).item())
    assert read_steps(tmp_path / "net")[0] == pytest.approx(sum(losses) / 2, abs=1e-5)
    # The logged validation is that of the saved network, with the statistics of process 0, and
    # without smoothing.
    saved, checkpoint = evaluate.load_model(tmp_path / "net" / "best.pt")
    _, index = data.split_indices()
    logits = evaluate.predict(saved, images[index])
    loss = F.cross_entropy(logits, labels[index]).item()
    assert checkpoint["log"][-1]["val_loss"] == pytest.approx(loss, abs=1e-5)


def test_more_processes_than_images_in_a_small_batch_are_refused(tmp_path):
    few = ("--model", "mlp", "--epochs", 1, "--batch-size", 4, "--name", "net")
    assert "2 processes are too many" in finish(launch(tmp_path, 2, *few), code=1)
    assert not (tmp_path / "net").exists()


def workers(process):
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True,
                           check=False)  # fmt: skip
    return [int(pid) for pid in found.stdout.split()]


def test_killed_process_ends_the_job_or_restarts_it(tmp_path):
    jobs = []
    for restarts in (0, 1):
        folder = tmp_path / str(restarts)
        folder.mkdir()
        args = ("--model", "mlp", "--epochs", 5, "--batch-size", 500, "--name", "net",
                "--resume")  # fmt: skip
        options = ("--max-restarts", restarts)
        process, last = launch(folder, 2, *args, torchrun=options), folder / "net" / "last.pt"
        jobs.append((restarts, process, last))
    running = list(jobs)
    while running:
        time.sleep(0.01)
        assert all(job[1].poll() is None for job in running), "a job ended before the kill"
        for job in [job for job in running if job[2].exists()]:
            os.kill(workers(job[1])[1], signal.SIGKILL)
            running.remove(job)
    for restarts, process, last in jobs:
        _, err = process.communicate(timeout=120)
        epochs = evaluate.load_model(last)[1]["epoch"]  # whole, whatever happened
        if restarts:
            assert process.returncode == 0, err
            assert epochs == 5
        else:
            assert process.returncode != 0 and epochs < 5
