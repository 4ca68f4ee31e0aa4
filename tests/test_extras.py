import csv
import hashlib
import json
import re

import matplotlib.image
import pytest
import torch
from conftest import DATA, ROOT, call

import data
import evaluate
import models
from extras import explain


def test_publish_rounds_the_weights_and_judges_what_it_wrote(mlp_run, tmp_path):
    call("extras/publish.py", "--run", mlp_run, "--name", "net", "--weights", "--out", tmp_path)
    assert (tmp_path / "results/net/log.csv").read_text() == (mlp_run / "log.csv").read_text()
    weights = tmp_path / "pretrained/net.pt"
    assert weights.stat().st_size < 0.6 * (mlp_run / "best.pt").stat().st_size
    listing = (tmp_path / "pretrained/README.md").read_text()
    accuracy, digest = re.search(r"net\.pt \| ([\d.]+) % \| [\d.]+ \| (\w{64})", listing).groups()
    assert digest == hashlib.sha256(weights.read_bytes()).hexdigest()
    full = json.loads((mlp_run / "evaluation.json").read_text())["accuracy"]
    assert abs(float(accuracy) - 100 * full) < 0.2
    call("extras/publish.py", "--run", mlp_run, "--name", "net", "--weights", "--out", tmp_path)
    assert (tmp_path / "pretrained/README.md").read_text() == listing


@pytest.mark.parametrize("path", sorted(ROOT.glob("pretrained/*.pt")), ids=lambda path: path.stem)
def test_pretrained_weights_are_those_of_the_published_predictions(path):
    model, _ = evaluate.load_checkpoint(path)
    predictions = csv.DictReader((ROOT / f"results/{path.stem}/predictions.csv").open())
    published = torch.tensor([int(row["predicted"]) for row in predictions])[:500]
    images, _ = data.load(DATA, train=False)
    answers = evaluate.predict(model, images[:500]).argmax(1)
    assert (answers == published).sum() >= 498  # the published weights are rounded
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest in (ROOT / "pretrained/README.md").read_text()


def test_publish_refuses_a_run_that_was_not_tested(tmp_path):
    message = call("extras/publish.py", "--run", tmp_path, code=1)
    assert "config.json" in message and len(message.splitlines()) == 1


def test_ablation_adds_a_row_a_run_and_repeats_none(tmp_path):
    out = tmp_path / "ablation.csv"
    args = ("--studies", "mlp", "--only", "padding 1", "--seeds", 1, "--epochs", 1, "--out", out,
            "--runs", tmp_path)  # fmt: skip
    call("extras/ablation.py", *args)
    first = out.read_text()
    rows = list(csv.DictReader(first.splitlines()))
    assert [row["change"] for row in rows] == ["+ padding 1", "modern − padding 1"]
    assert float(rows[0]["val_accuracy"]) > float(rows[1]["val_accuracy"]) > 0.5
    assert "0 are to be done" in call("extras/ablation.py", *args)
    assert out.read_text() == first


def test_bench_measures_and_writes_a_table(tmp_path):
    call("extras/bench.py", "--models", "mlp", "--repeats", 3, "--out", tmp_path)
    rows = list(csv.DictReader((tmp_path / "bench.csv").read_text().splitlines()))
    rate = {(row["what"], row["how"]): float(row["median"]) for row in rows}
    assert rate["data", "ours"] > 5 * rate["data", "DataLoader, 0 workers"]
    assert rate["train mlp", "ours, float32"] > 2 * rate["train mlp", "plain"]
    assert "| train mlp | ours, float32 |" in (tmp_path / "bench.md").read_text()


def test_suspected_labels_by_hand():
    # Thresholds: class 0: mean(0.9, 0.6, 0.2) = 0.567; class 1: mean(0.8, 0.6) = 0.7.
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.2, 0.8], [0.4, 0.6]])
    labels = torch.tensor([0, 0, 0, 1, 1])
    indices, suspected = explain.suspect_labels(probabilities, labels)
    assert indices.tolist() == [2] and suspected.tolist() == [1]


def test_activation_maps_add_up_to_the_logits(real):
    model = models.build_model("resnet18", width=8).eval()
    images = real[0][:20]
    logits = evaluate.predict(model, images)
    classes = logits.argmax(1)
    features = model.features(data.normalize(images))
    maps = torch.einsum("nchw,nc->nhw", features, model.fc.weight[classes])
    expected = maps.mean((1, 2)) + model.fc.bias[classes]
    assert torch.allclose(expected, logits.amax(1), atol=1e-4)
    shown = explain.activation_maps(model, images, classes)
    assert shown.shape == (20, 28, 28)
    corners = shown[:, ::27, ::27]
    assert torch.allclose(corners, maps[:, ::3, ::3], atol=1e-4)


def test_explain_draws_everything(tmp_path, mlp_run):
    model = models.build_model("resnet18", width=8)
    config = {"model": "resnet18", "width": 8, "dropout": 0.0, "split_seed": 0}
    torch.save({"config": config, "epoch": 0, "model": model.state_dict()}, tmp_path / "net.pt")
    args = ("--out", tmp_path, "--tsne-images", 100)
    call("extras/explain.py", "--ckpt", tmp_path / "net.pt", *args)
    for name in ("cam.png", "features.png", "label_errors.png"):
        assert matplotlib.image.imread(tmp_path / name)[..., :3].std() > 0.03, name
    said = call("extras/explain.py", "--ckpt", mlp_run / "best.pt", *args)
    assert "left out" in said
    assert "| Shirt |" in (tmp_path / "label_errors.md").read_text()
