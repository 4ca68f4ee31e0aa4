import csv
import hashlib
import json
import re
import shutil
import sys

import pytest
import torch
from conftest import DATA, ROOT, call
from test_analyze import check_figures
from torch import nn

import data
import evaluate
import models
from extras import bench, explain


class CNN(nn.Module):
    """A network that ends in flatten → linear, as a reader of the project may add it."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.fc = nn.Linear(8 * 14 * 14, 10)

    def forward(self, x):
        return self.fc(self.features(x).flatten(1))


def save_checkpoint(path, name, **config):
    """Write a checkpoint with initial weights, as train.py does; return the network."""
    model = models.build_model(name, width=8).eval()
    config = {"model": name, "width": 8, "dropout": 0.0, **config}
    torch.save({"config": config, "epoch": 0, "model": model.state_dict()}, path)
    return model


# ---- publish.py


def test_publish_rounds_the_weights_and_tests_what_it_wrote(mlp_run, tmp_path):
    full = json.loads((mlp_run / "evaluation.json").read_text(encoding="utf-8"))
    mlp_run = shutil.copytree(mlp_run, tmp_path / "run")
    (mlp_run / "evaluation.json").write_text(json.dumps(full | {"accuracy": 0.5}))
    args = ("--run", mlp_run, "--name", "net", "--weights", "--out", tmp_path)
    (tmp_path / "pretrained").mkdir()
    listing = tmp_path / "pretrained/README.md"
    listing.write_text(
        "# Trained weights of old\n| --- |\n| my-net.pt | 1 % | 1 | 0 |\n", encoding="utf-8"
    )
    call("extras/publish.py", *args)
    for name in ("config.json", "log.csv", "steps.csv", "evaluation.json", "predictions.csv"):
        assert (tmp_path / "results/net" / name).read_bytes() == (mlp_run / name).read_bytes()
    weights = tmp_path / "pretrained/net.pt"
    published = torch.load(weights, weights_only=True)
    assert published.keys() == {"config", "epoch", "model"}
    assert published["model"]["fc1.weight"].dtype == torch.float16
    assert published["model"]["fc1.bias"].dtype == torch.float32
    text = listing.read_text(encoding="utf-8")
    assert text.startswith("# Trained weights\n") and "| my-net.pt | 1 % | 1 | 0 |\n" in text
    accuracy, digest = re.search(r"\| net\.pt \| ([\d.]+) % \| [\d.]+ \| (\w{64})", text).groups()
    assert digest == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert abs(float(accuracy) - 100 * full["accuracy"]) < 0.2
    call("extras/publish.py", *args)
    assert listing.read_text(encoding="utf-8") == text
    assert {file.name for file in listing.parent.iterdir()} == {"README.md", "net.pt"}


def test_publish_refuses_weights_that_were_not_evaluated(mlp_run, tmp_path):
    run = shutil.copytree(mlp_run, tmp_path / "mlp")
    result = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    (run / "evaluation.json").write_text(json.dumps(result | {"epoch": 7}), encoding="utf-8")
    args = ("--run", run, "--weights", "--out", tmp_path)
    assert "evaluate it again" in call("extras/publish.py", *args, code=1)
    assert not (tmp_path / "results").exists()


def test_publish_refuses_a_run_that_was_not_tested(tmp_path):
    message = call("extras/publish.py", "--run", tmp_path, "--out", tmp_path, code=1)
    assert "config.json" in message and len(message.splitlines()) == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("content", [b"", b"{}"])
def test_publish_refuses_a_damaged_run(mlp_run, tmp_path, content):
    run = shutil.copytree(mlp_run, tmp_path / "mlp")
    (run / "evaluation.json").write_bytes(content)
    message = call("extras/publish.py", "--run", run, "--out", tmp_path, code=1)
    assert "cannot be published" in message and len(message.splitlines()) == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("path", sorted(ROOT.glob("pretrained/*.pt")), ids=lambda path: path.stem)
def test_pretrained_weights_are_those_of_the_published_predictions(path):
    model, _ = evaluate.load_model(path)
    with open(ROOT / f"results/{path.stem}/predictions.csv", encoding="utf-8") as file:
        published = [int(row["predicted"]) for row in csv.DictReader(file)][:200]
    images, _ = data.load(DATA, train=False)
    predicted = evaluate.predict(model, images[:200]).argmax(1)
    assert (predicted == torch.tensor(published)).sum() >= 199  # the weights are rounded
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest in (ROOT / "pretrained/README.md").read_text(encoding="utf-8")


# ---- bench.py


def test_bench_measures_every_case(tmp_path):
    # Two products in the first layer, as its input needs no gradient, and three in the second.
    assert bench.count_flops("mlp") == 2 * (2 * 784 * 128 + 3 * 128 * 10)
    call("extras/bench.py", "--models", "mlp", "--repeats", 2, "--device", "cpu", "--out",
         tmp_path)  # fmt: skip
    with open(tmp_path / "bench.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    precisions = ["float32"]
    if evaluate.has_native_bfloat16(evaluate.use_device("cpu")):
        precisions.append("bfloat16")
    variants = ["plain", *(f"ours {precision}" for precision in precisions)]
    expected = [("matrix product", precision) for precision in precisions]
    expected += [("Muon 512×4608", how) for how in ("as published", "on the Gram matrix")]
    loaders = ("DataLoader without workers", "DataLoader with 2 workers")
    expected += [("data", how) for how in (*loaders, "ours")]
    for what in ("train mlp", "infer mlp batch 1", "infer mlp batch 256"):
        expected += [(what, how) for how in variants]
    assert [(row["what"], row["how"]) for row in rows] == expected
    for row in rows:
        assert 0 < float(row["25 %"]) <= float(row["median"]) <= float(row["75 %"])
        share = row["of the matrix product"]
        assert float(share.removesuffix(" %")) > 0 if "train" in row["what"] else share == ""
    table = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "| train mlp | ours float32 |" in table


# ---- export.py


@pytest.fixture
def export():
    """The module, if what it needs is installed."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    from extras import export

    return export


def test_export_of_a_network_that_ends_in_flatten_and_linear(export, tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "cnn", lambda width, dropout: CNN())
    model = save_checkpoint(tmp_path / "cnn.pt", "cnn")
    words = ["--ckpt", tmp_path / "cnn.pt", "--int8", "--data-dir", DATA]
    words += ["--table", tmp_path / "speeds.md", "--repeats", 1]
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, words)])
    export.main()
    images = data.load(DATA, train=False)[0][:7]
    with torch.no_grad():
        expected = model((images[:, None] / 255 - 0.5) / 0.5).softmax(1)
    accuracies = []
    for name, tolerance in (("cnn.onnx", 1e-5), ("cnn-int8.onnx", 0.05)):
        session = export.open_session(tmp_path / name, 1)
        assert torch.allclose(export.predict(session, images), expected, atol=tolerance), name
        facts = session.get_modelmeta().custom_metadata_map
        assert json.loads(facts["classes"]) == list(data.CLASSES), name
        accuracies.append(f"{100 * float(facts['accuracy']):.2f} %")
    table = (tmp_path / "speeds.md").read_text(encoding="utf-8").splitlines()
    cells = [line.strip("| ").split(" | ") for line in table[2:] if line.startswith("|")]
    rows = {name: values for name, *values in cells}
    float32 = ("PyTorch, float32, NCHW", "PyTorch, float32", "ONNX Runtime, float32")
    assert rows.keys() >= {*float32, "ONNX Runtime, int8"}
    assert all(float(ms) > 0 and float(rate) > 0 for ms, rate, *_ in rows.values())
    assert len({rows[name][2] for name in float32}) == 1  # the accuracy
    assert accuracies == [rows[f"ONNX Runtime, {kind}"][2] for kind in ("float32", "int8")]
    assert accuracies[0] != accuracies[1]
    (tmp_path / "cnn.onnx").unlink()
    monkeypatch.setattr(export, "TOLERANCE", 0)
    with pytest.raises(data.UserError, match="no file is written"):
        export.main()
    assert not (tmp_path / "cnn.onnx").exists()


def test_export_preprocesses_as_in_training(export, tmp_path):
    model = models.build_model("resnet18", width=8).eval()
    export.export(export.Deployed(model).eval(), tmp_path / "net.onnx")
    images = data.load(DATA, train=False)[0][:3]
    expected = evaluate.predict(model, images).softmax(1)
    probabilities = export.predict(export.open_session(tmp_path / "net.onnx", 1), images)
    assert torch.allclose(probabilities, expected, atol=1e-5)


def test_export_never_overwrites_the_checkpoint(export, mlp_run, tmp_path):
    path = shutil.copy(mlp_run / "best.pt", tmp_path / "net.onnx")
    before = path.read_bytes()
    message = call("extras/export.py", "--ckpt", path, code=1)
    assert "is the checkpoint" in message and path.read_bytes() == before
    other = shutil.copy(mlp_run / "best.pt", tmp_path / "last.pt")
    for option in ("--out", "--table"):
        message = call("extras/export.py", "--ckpt", mlp_run / "best.pt", option, other, code=1)
        assert f"{option} {other} must end in" in message and other.read_bytes() == before


def test_export_refuses_a_network_for_one_batch_size(export, tmp_path):
    class Fixed(CNN):
        def forward(self, x):
            return self.fc(self.features(x).reshape(len(x), -1))

    export.export(export.Deployed(Fixed()).eval(), tmp_path / "net.onnx")
    with pytest.raises(data.UserError, match="batches of one size"):
        export.open_session(tmp_path / "net.onnx", 1)


# ---- explain.py


def test_suspected_labels_by_hand():
    # Thresholds: class 0: mean(0.9, 0.6, 0.2) = 0.567; class 1: mean(0.8, 0.6) = 0.7.
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.2, 0.8], [0.4, 0.6]])
    labels = torch.tensor([0, 0, 0, 1, 1])
    indices, suspected = explain.suspect_labels(probabilities, labels)
    assert indices.tolist() == [2] and suspected.tolist() == [1]
    # The most confident first; the thresholds are 0.417 and 0.7.
    probabilities[:3] = torch.tensor([[0.95, 0.05], [0.25, 0.75], [0.05, 0.95]])
    indices, _ = explain.suspect_labels(probabilities, labels)
    assert indices.tolist() == [2, 1]


def test_activation_maps_add_up_to_the_logits(real):
    model = models.build_model("resnet18", width=8).eval()
    images = real[0][:20]
    logits = evaluate.predict(model, images)
    classes = logits.argmax(1)
    features = model.features(data.preprocess(images))
    maps = torch.einsum("nchw,nc->nhw", features, model.fc.weight[classes])
    expected = maps.mean((1, 2)) + model.fc.bias[classes]
    assert torch.allclose(expected, logits.amax(1), atol=1e-4)
    shown = explain.activation_maps(model, images, classes)
    assert shown.shape == (20, 28, 28)
    corners = shown[:, ::27, ::27]
    assert torch.allclose(corners, maps[:, ::3, ::3], atol=1e-4)


def test_explain_draws_everything(tmp_path):
    save_checkpoint(tmp_path / "net.pt", "resnet18")
    args = ("--ckpt", tmp_path / "net.pt", "--out", tmp_path, "--tsne-images", 100)
    call("extras/explain.py", *args)
    check_figures(tmp_path, ["cam.png", "features.png", "label_errors.png"])


def test_explain_says_what_it_leaves_out(tmp_path, mlp_run, real):
    printed = call("extras/explain.py", "--ckpt", mlp_run / "best.pt", "--out", tmp_path)
    assert "activation maps and features are left out" in printed
    assert "label errors are left out" not in printed
    images, labels = (tensor[data.split_indices()[1]] for tensor in real)
    model, _ = evaluate.load_model(mlp_run / "best.pt")
    probabilities = evaluate.predict(model, images).softmax(1).double()
    indices, suspected = explain.suspect_labels(probabilities, labels)
    most = torch.bincount(10 * labels[indices] + suspected).max()
    table = (tmp_path / "label_errors.md").read_text(encoding="utf-8").splitlines()
    assert table[2].endswith(f"| {most} |") and any("| Shirt |" in line for line in table)
    save_checkpoint(tmp_path / "all.pt", "mlp", train_on="all")
    printed = call("extras/explain.py", "--ckpt", tmp_path / "all.pt", "--out", tmp_path)
    assert "label errors are left out" in printed
