"""The exercises of the README: a network, a schedule and an augmentation of one's own."""

import csv
import importlib.util
import re
import shutil
from textwrap import indent

import pytest
from conftest import ROOT, call

README = (ROOT / "README.md").read_text(encoding="utf-8")
CNN, BRIGHTNESS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
LINE = '"cnn": lambda width, dropout: CNN(),'  # of MODELS
SCHEDULE = """
def linear(progress):
    return 1 - progress


SCHEDULES = {"linear": linear, """
AUGMENTATION = {  # the README's and another one, whose effect can be measured
    "    batches = [batch[RANK": indent(BRIGHTNESS, "    ")
    + "    images = images + 255 * torch.rand(n, 1, 1) * torch.randn(n, 28, 28)\n"
    "    batches = [batch[RANK",
}


def change(path, changes):
    """Replace texts of a file, each of which stands there once."""
    text = path.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the scripts, to be changed as a student would."""
    folder = tmp_path_factory.mktemp("project")
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    shutil.copytree(ROOT / "extras", folder / "extras")
    assert LINE in README
    small = CNN.replace("64", "16").replace("32", "8")  # fewer channels: trained in seconds
    change(folder / "models.py", {"MODELS = {\n": f"{small}\n\nMODELS = {{\n    {LINE}\n"})
    return folder


def test_own_network_needs_a_class_and_a_line(project):
    options = ("--model", "cnn", "--runs", project / "runs")
    said = call(project / "train.py", *options, "--epochs", 1)
    run = project / "runs" / "cnn"
    with open(run / "log.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["val_accuracy"]) > 0.6
    assert "test accuracy" in said
    assert "resuming" in call(project / "train.py", *options, "--epochs", 1, "--resume")
    call(project / "analyze.py", "--runs", project / "runs", "--out", project / "figures",
         "--tsne-images", 100)  # fmt: skip
    assert (project / "figures" / "fig7_errors.png").exists()
    assert "| cnn |" in (project / "figures" / "models.md").read_text(encoding="utf-8")
    if importlib.util.find_spec("onnxruntime"):
        said = call(project / "extras/export.py", "--ckpt", run / "best.pt")
        assert "written" in said and (run / "best.onnx").exists()


def test_own_schedule_and_augmentation(project):
    change(project / "train.py", {"SCHEDULES = {": SCHEDULE.lstrip("\n"), **AUGMENTATION})
    call(project / "train.py", "--model", "mlp", "--recipe", "report", "--epochs", 1, "--schedule",
         "linear", "--no-test", "--runs", project / "runs")  # fmt: skip
    with open(project / "runs/mlp/log.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["learning_rate"]) == pytest.approx(1e-3 / 375, rel=1e-4)  # of the last step
    assert 0.5 < float(row["val_accuracy"]) < 0.75
    assert float(row["train_accuracy"]) < 0.6  # with so much noise 0.55, without it 0.63
