"""Shared by all tests: the scripts as processes, the real data, and one short real run."""

import csv
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = os.environ.get("FASHION_MNIST", str(ROOT / "data"))
sys.path.insert(0, str(ROOT))
# One thread per script: two that wait for each other are fifty times slower when a core is busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts a background job with Ctrl-C ignored, and its children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


# A script's start costs seconds, nearly all of them `import torch`. A server that has imported it
# once, and has done nothing else, forks the process of each script that is run to its end.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["pytest", "torch", "torchvision", "torch.utils.tensorboard", "matplotlib.pyplot"]
)

# How ``mlp_run`` is trained; with --resume and its folder, the options that continue it.
MLP_RUN = ("train.py", "--model", "mlp", "--recipe", "report", "--epochs", 2, "--precision",
           "float32")  # fmt: skip


def command(script, args):
    """The arguments of one of the scripts with the real data, the script first."""
    words = [str(ROOT / script), *map(str, args)]
    return words if "--data-dir" in args else [*words, "--data-dir", DATA]


def start(script, *args, **options):
    """Start one of the scripts as a user does; returns the running process."""
    return subprocess.Popen(
        [sys.executable, *command(script, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def run_script(words, printed):
    """In a forked process: the script as if it had been started, its output into a file."""
    with open(printed, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = words
    # Not the tests' own path, on which a script would find what a user's start does not.
    others = [folder for folder in sys.path if Path(folder) not in (ROOT, ROOT / "tests")]
    sys.path[:] = [str(Path(words[0]).parent), *others]
    runpy.run_path(words[0], run_name="__main__")


def call(script, *args, code=0):
    """Run one of the scripts to its end, check its exit code, return what it printed."""
    with tempfile.NamedTemporaryFile() as printed:
        process = FORKS.Process(target=run_script, args=(command(script, args), printed.name))
        process.start()
        process.join(timeout=240)
        process.kill()  # does nothing where it has ended
        text = printed.read().decode("utf-8", "replace")
    assert process.exitcode == code, text
    assert "Traceback" not in text
    return text


def read_logs(run):
    """Return the rows of log.csv without their seconds, and the text of steps.csv."""
    rows = list(csv.DictReader((run / "log.csv").read_text(encoding="utf-8").splitlines()))
    for row in rows:
        del row["seconds"]
    return rows, (run / "steps.csv").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def real():
    """The real training images and labels."""
    import data  # only now is the scripts' folder on the path

    return data.load(DATA, train=True)


@pytest.fixture(scope="session")
def mlp_run(tmp_path_factory):
    """Folder of an MLP trained for two epochs by the command line, tested at the end."""
    runs = tmp_path_factory.mktemp("runs")
    call(*MLP_RUN, "--runs", runs)
    return runs / "mlp"
