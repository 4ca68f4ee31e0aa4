"""The exercises of the README: a network, a schedule and an augmentation of one's own."""

import csv
import importlib.util
import shutil

import pytest
from conftest import ROOT, call

CNN = """
class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2)  # B×1×28×28 → B×8×13×13
        self.fc = nn.Linear(8 * 13 * 13, 10)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).flatten(1))


MODELS = {
    "cnn": lambda width, dropout: CNN(),
"""
SCHEDULE = """
def linear(progress):
    return 1 - progress


SCHEDULES = {"linear": linear, """
AUGMENTATION = {
    "    return batches, {name": '    augmentation["noise"] = torch.rand(n, generator=generator)\n'
    "    return batches, {name",
    "    return data.preprocess(x)": "    x = data.preprocess(x)\n"
    '    return x + drawn["noise"][:, None, None, None] * torch.randn_like(x)',
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
    change(folder / "models.py", {"MODELS = {\n": CNN.lstrip("\n")})
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


@pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="onnxruntime is missing")
def test_own_network_is_exported(project):
    said = call(project / "extras/export.py", "--ckpt", project / "runs/cnn/best.pt")
    assert "written" in said and (project / "runs/cnn/best.onnx").exists()


def test_own_schedule_and_augmentation(project):
    change(project / "train.py", {"SCHEDULES = {": SCHEDULE.lstrip("\n"), **AUGMENTATION})
    call(project / "train.py", "--model", "mlp", "--recipe", "report", "--epochs", 1, "--schedule",
         "linear", "--no-test", "--runs", project / "runs")  # fmt: skip
    with open(project / "runs/mlp/log.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["learning_rate"]) == pytest.approx(1e-3 / 375, rel=1e-4)  # of the last step
    assert 0.5 < float(row["val_accuracy"]) < 0.75  # with so much noise; without it, 0.74 and more
