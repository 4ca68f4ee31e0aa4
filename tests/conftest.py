"""Shared by all tests: the scripts as subprocesses, the real data, and one short real run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = os.environ.get("FASHION_MNIST", str(ROOT / "data"))
sys.path.insert(0, str(ROOT))


def start(script, *args, **options):
    """Start one of the scripts with the real data; returns the running process."""
    command = [sys.executable, ROOT / script, *map(str, args)]
    if script != "data.py" and "--data-dir" not in args:
        command += ["--data-dir", DATA]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def call(script, *args, code=0):
    """Run one of the scripts to its end, check its exit code, return what it printed."""
    process = start(script, *args)
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return out + err


@pytest.fixture(scope="session")
def real():
    """The real training images and labels."""
    import data  # noqa: PLC0415 (only now is the scripts' folder on the path)

    return data.load(DATA, train=True)


@pytest.fixture(scope="session")
def mlp_run(tmp_path_factory):
    """Folder of an MLP trained for two epochs by the command line, tested at the end."""
    runs = tmp_path_factory.mktemp("runs")
    call("train.py", "--model", "mlp", "--recipe", "report", "--epochs", 2,
         "--precision", "float32", "--runs", runs)  # fmt: skip
    return runs / "mlp"
