import csv
import json
import os
import pickle
import random

import pytest
import torch
from conftest import call

import data
import evaluate


def test_score_by_hand():
    labels = torch.tensor([0, 0, 0, 0, 6])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 0, 6, 6, 6]), 10).float()
    result = evaluate.score(logits, labels)
    assert result["accuracy"] == 0.6
    shirt = result["per_class"]["Shirt"]
    assert (shirt["precision"], shirt["recall"], shirt["support"]) == pytest.approx((1 / 3, 1, 1))
    assert result["confusion"][0][6] == 2 and result["confusion"][6][0] == 0  # rows: true classes
    assert result["per_class"]["Bag"]["recall"] == 0  # without images of it
    # Wilson's interval by its formula, with z = 1.95996 and z² = 3.84146.
    centre = (0.6 + 3.84146 / 10) / (1 + 3.84146 / 5)
    half = 1.95996 / (1 + 3.84146 / 5) * (0.6 * 0.4 / 5 + 3.84146 / 100) ** 0.5
    assert result["accuracy_95"] == pytest.approx([centre - half, centre + half], abs=1e-5)


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


def test_other_checkpoints_do_not_overwrite_the_evaluation(mlp_run):
    before = (mlp_run / "evaluation.json").read_bytes()
    call("evaluate.py", "--ckpt", mlp_run / "last.pt")
    assert (mlp_run / "evaluation.json").read_bytes() == before
    assert (mlp_run / "last-evaluation.json").exists()


def test_network_with_batch_norm_is_evaluated_as_it_was_validated(tmp_path):
    options = ("--model", "small", "--width", 8, "--epochs", 1, "--batch-size", 1000,
               "--runs", tmp_path)  # fmt: skip
    call("tests/small.py", *options)
    (row,) = csv.DictReader((tmp_path / "small/log.csv").open(encoding="utf-8"))
    result = json.loads((tmp_path / "small/evaluation.json").read_text(encoding="utf-8"))
    assert result["accuracy"] > float(row["val_accuracy"]) - 0.03 > 0.6


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
    elif kind == "with a hole":
        path.write_bytes(content[:100_000] + content[101_000:])
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


WRONG = {  # entries of config, and a factor of weights
    "width": ({"model": "resnet18", "width": "64"}, 1),
    "negative width": ({"model": "resnet18", "width": -1}, 1),
    "dropout": ({"model": "resnet18", "dropout": 2}, 1),
    "list": ({"model": ["mlp"]}, 1),
    "not a number": ({}, float("nan")),
}


@pytest.mark.parametrize("kind", WRONG)
def test_checkpoint_that_gives_no_true_numbers_is_refused(mlp_run, tmp_path, kind):
    config, factor = WRONG[kind]
    checkpoint = torch.load(mlp_run / "best.pt", weights_only=True)
    checkpoint["config"] |= config
    checkpoint["model"]["fc1.weight"] *= factor
    torch.save(checkpoint, tmp_path / "bad.pt")
    with pytest.raises(data.UserError, match=r"bad\.pt") as caught:
        evaluate.load_model(tmp_path / "bad.pt")
    assert len(str(caught.value).splitlines()) == 1


KINDS = ("code", "plain pickle with code", "truncated", "with a hole", "empty", "text", "directory",
         "list", "other model", "wrong shape", "unknown model", "missing")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_bad_checkpoint_is_refused(mlp_run, tmp_path, kind):
    path, trap = tmp_path / "bad.pt", tmp_path / "trap"
    damage(kind, mlp_run / "best.pt", path, trap)
    with pytest.raises(data.UserError, match=r"bad\.pt") as caught:
        evaluate.load_model(path)
    assert len(str(caught.value).splitlines()) == 1
    assert not trap.exists(), "code in the checkpoint was run"


def test_truncations_and_flipped_bits_are_found(mlp_run, tmp_path):
    good = (mlp_run / "last.pt").read_bytes()
    _, whole = evaluate.load_model(mlp_run / "last.pt")
    path, rng = tmp_path / "bad.pt", random.Random(0)
    for _ in range(50):
        path.write_bytes(good[: rng.randrange(len(good))])
        with pytest.raises(data.UserError, match=r"bad\.pt"):
            evaluate.load_model(path)
    refused = 0
    for _ in range(50):
        content = bytearray(good)
        content[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            _, checkpoint = evaluate.load_model(path)
        except data.UserError as error:
            assert "bad.pt" in str(error) and len(str(error).splitlines()) == 1
            refused += 1
        else:  # between the parts there are bytes that nobody reads
            assert all(torch.equal(whole["model"][k], v) for k, v in checkpoint["model"].items())
    assert refused > 40


def test_bad_checkpoint_on_the_command_line(tmp_path):
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Malice(tmp_path / "trap")))
    message = call("evaluate.py", "--ckpt", tmp_path / "bad.pt", code=1)
    assert message.startswith("evaluate.py: ") and len(message.splitlines()) == 1
    assert not (tmp_path / "trap").exists()
