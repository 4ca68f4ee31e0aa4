import csv
import json
import os
import pickle
import random
import zipfile

import pytest
import torch
from conftest import call
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

import data
import evaluate


def test_score_agrees_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 10, generator=generator)
    labels = torch.randint(0, 10, (2000,), generator=generator)
    logits[torch.arange(2000), labels] += 2
    result = evaluate.score(logits, labels)
    predicted = logits.argmax(1)
    assert result["confusion"] == confusion_matrix(labels, predicted).tolist()
    expected = precision_recall_fscore_support(labels, predicted)
    for i, name in enumerate(data.CLASSES):
        assert list(result["per_class"][name].values()) == pytest.approx([e[i] for e in expected])


def test_confidence_interval_agrees_with_scipy():
    for correct, n in ((9500, 10_000), (0, 50), (50, 50), (1, 3)):
        expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
        assert evaluate.wilson_interval(correct, n) == pytest.approx(expected, abs=1e-5)


def test_files_agree_with_each_other(mlp_run):
    result = json.loads((mlp_run / "evaluation.json").read_text())
    rows = list(csv.DictReader((mlp_run / "predictions.csv").read_text().splitlines()))
    assert list(rows[0]) == ["index", "true", "predicted", "probability"]
    assert [int(row["index"]) for row in rows] == list(range(10_000))
    _, labels = data.load(os.environ.get("FASHION_MNIST", "data"), train=False)
    assert [int(row["true"]) for row in rows] == labels.tolist()
    hits = sum(row["true"] == row["predicted"] for row in rows)
    assert result["accuracy"] == hits / 10_000 > 0.7
    assert result["accuracy_95"][0] < result["accuracy"] < result["accuracy_95"][1]
    assert sum(map(sum, result["confusion"])) == 10_000
    assert result["parameters"] == 101_770
    latency = result["latency"]
    low, high = latency["batch_1_ms_quartiles"]
    assert 0 < low <= latency["batch_1_ms"] <= high
    assert latency["threads"] == torch.get_num_threads() and latency["device_name"]


def test_batch_size_does_not_change_the_result(mlp_run):
    model, _ = evaluate.load_checkpoint(mlp_run / "best.pt")
    images, _ = data.load(os.environ.get("FASHION_MNIST", "data"), train=False)
    one, other = (evaluate.predict(model, images[:300], size) for size in (300, 7))
    assert torch.allclose(one, other, atol=1e-5)


def test_flip_tta_has_a_line_of_its_own(mlp_run):
    plain = json.loads((mlp_run / "evaluation.json").read_text())
    said = call("evaluate.py", "--ckpt", mlp_run / "last.pt", "--flip-tta", "--batch-size", 1000)
    result = json.loads((mlp_run / "last-evaluation.json").read_text())
    assert f"mirror images, too: {100 * result['accuracy_flip_tta']:.2f} %" in said
    model, _ = evaluate.load_checkpoint(mlp_run / "last.pt")
    images, labels = data.load(os.environ.get("FASHION_MNIST", "data"), train=False)
    both = sum(evaluate.predict(model, x).softmax(1) for x in (images, images.flip(2)))
    assert result["accuracy_flip_tta"] == (both.argmax(1) == labels).double().mean().item()
    assert "accuracy_flip_tta" not in plain


def test_other_checkpoints_do_not_overwrite_the_evaluation(mlp_run):
    before = (mlp_run / "evaluation.json").read_bytes()
    call("evaluate.py", "--ckpt", mlp_run / "last.pt", "--batch-size", 1000)
    assert (mlp_run / "evaluation.json").read_bytes() == before
    assert (mlp_run / "last-evaluation.json").exists()


class Malice:
    """Unpickled without care, this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def damage(kind, good, path, trap):
    content = good.read_bytes()
    if kind == "code":
        torch.save({"model": Malice(trap), "config": {}}, path)
    elif kind == "plain pickle with code":
        path.write_bytes(pickle.dumps(Malice(trap)))
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "directory":
        path.mkdir()
    elif kind == "list":
        torch.save([1, 2, 3], path)
    elif kind in ("other model", "wrong shape", "unknown model"):
        checkpoint = torch.load(good, weights_only=True)
        if kind == "wrong shape":
            checkpoint["model"]["fc1.weight"] = torch.zeros(5, 5)
        else:
            checkpoint["config"]["model"] = "resnet18" if kind == "other model" else "vgg"
        torch.save(checkpoint, path)


KINDS = ("code", "plain pickle with code", "truncated", "empty", "text", "directory", "list",
         "other model", "wrong shape", "unknown model", "missing")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_bad_checkpoint_is_refused(mlp_run, tmp_path, kind):
    path, trap = tmp_path / "bad.pt", tmp_path / "trap"
    damage(kind, mlp_run / "best.pt", path, trap)
    with pytest.raises((OSError, ValueError), match=r"bad\.pt") as caught:
        evaluate.load_checkpoint(path)
    assert len(str(caught.value).splitlines()) == 1
    assert not trap.exists(), "code in the checkpoint was run"


def test_truncations_and_flipped_bits_are_found(mlp_run, tmp_path):
    good = (mlp_run / "last.pt").read_bytes()
    _, whole = evaluate.load_checkpoint(mlp_run / "last.pt")
    path, rng = tmp_path / "bad.pt", random.Random(0)
    for _ in range(50):
        path.write_bytes(good[: rng.randrange(len(good))])
        with pytest.raises((OSError, ValueError), match=r"bad\.pt"):
            evaluate.load_checkpoint(path)
    refused = 0
    for _ in range(50):
        content = bytearray(good)
        content[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            _, checkpoint = evaluate.load_checkpoint(path)
        except ValueError as error:
            assert "bad.pt" in str(error) and len(str(error).splitlines()) == 1
            refused += 1
        else:  # between the parts there are bytes that nobody reads
            assert all(torch.equal(whole["model"][k], v) for k, v in checkpoint["model"].items())
    assert refused > 40


def test_zip_bomb_is_refused(mlp_run, tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    with pytest.raises(ValueError, match="compressed"):
        evaluate.load_checkpoint(path)


def test_bad_checkpoint_on_the_command_line(tmp_path):
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Malice(tmp_path / "trap")))
    message = call("evaluate.py", "--ckpt", tmp_path / "bad.pt", code=1)
    assert message.startswith("evaluate.py: ") and len(message.splitlines()) == 1
    assert not (tmp_path / "trap").exists()
