import csv
import io
import json
import math
import os
import pickle
import random
import re
import resource
import shutil

import pytest
import torch
from conftest import DATA, call, start

import data
import evaluate


def test_score_by_hand():
    labels = torch.tensor([0, 0, 0, 0, 6])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 0, 6, 6, 6]), 10).float()
    result = evaluate.score(logits, labels)
    assert result["accuracy"] == 0.6
    assert result["loss"] == pytest.approx(math.log(math.e + 9) - 0.6)
    # Wilson's interval by its formula, with z = 1.95996 and z² = 3.84146.
    centre = (0.6 + 3.84146 / 10) / (1 + 3.84146 / 5)
    half = 1.95996 / (1 + 3.84146 / 5) * (0.6 * 0.4 / 5 + 3.84146 / 100) ** 0.5
    assert result["accuracy_95"] == pytest.approx([centre - half, centre + half], abs=1e-5)


def test_files_agree_with_each_other(mlp_run):
    result = json.loads((mlp_run / "evaluation.json").read_text())
    rows = list(csv.DictReader((mlp_run / "predictions.csv").read_text().splitlines()))
    assert list(rows[0]) == ["index", "true", "predicted", "probability"]
    assert [int(row["index"]) for row in rows] == list(range(10_000))
    images, labels = data.load(DATA, train=False)
    model, _ = evaluate.load_model(mlp_run / "best.pt")
    probabilities = evaluate.predict(model, images).softmax(1).amax(1)
    assert [int(row["true"]) for row in rows] == labels.tolist()
    written = [float(row["probability"]) for row in rows]
    assert written == pytest.approx(probabilities.tolist(), abs=2e-4)
    hits = sum(row["true"] == row["predicted"] for row in rows)
    assert result["accuracy"] == hits / 10_000 > 0.7
    assert result["accuracy_95"][0] < result["accuracy"] < result["accuracy_95"][1]
    assert result["parameters"] == 101_770
    latency = result["latency"]
    low, high = latency["batch_1_ms_quartiles"]
    assert 0 < low <= latency["batch_1_ms"] <= high
    # An image takes longer alone than its share of a batch, but not longer than the batch.
    share_ms = 1000 / latency["large_batch_images_per_second"]
    assert share_ms < latency["batch_1_ms"] < 256 * share_ms
    assert latency["threads"] == torch.get_num_threads() and latency["device_name"]


def test_other_checkpoints_do_not_overwrite_the_evaluation(mlp_run):
    before = (mlp_run / "evaluation.json").read_bytes()
    said = call("evaluate.py", "--ckpt", mlp_run / "last.pt")
    assert (mlp_run / "evaluation.json").read_bytes() == before
    result = json.loads((mlp_run / "last-evaluation.json").read_text())
    counts = re.findall(r"\d+", said.split("predicted class)\n")[1].split("]]")[0])
    confusion = torch.tensor(list(map(int, counts))).view(10, 10)
    assert confusion.sum(1).tolist() == [1000] * 10  # rows: true classes
    assert confusion.trace() == round(10_000 * result["accuracy"])
    for i, name in enumerate(data.CLASSES):
        _, recall, _, support = said.split(f"{name} ")[1].split()[:4]
        assert (float(recall), support) == (confusion[i, i].item() / 1000, "1000")


def test_result_that_cannot_be_written_is_shown(mlp_run, tmp_path):
    shutil.copy(mlp_run / "best.pt", tmp_path)
    process = start(
        "evaluate.py", "--ckpt", tmp_path / "best.pt",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )  # fmt: skip
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "could not be written" in err and "Traceback" not in err
    assert "test accuracy" in out and os.listdir(tmp_path) == ["best.pt"]


def test_network_with_batch_norm_is_evaluated_as_it_was_validated(tmp_path):
    options = ("--model", "small", "--width", 8, "--epochs", 1, "--batch-size", 1000,
               "--runs", tmp_path)  # fmt: skip
    call("tests/small.py", *options)
    (row,) = csv.DictReader((tmp_path / "small/log.csv").open(encoding="utf-8"))
    result = json.loads((tmp_path / "small/evaluation.json").read_text(encoding="utf-8"))
    assert result["accuracy"] > float(row["val_accuracy"]) - 0.03 > 0.6
    # The logged rate is Muon's in the last of 48 steps.
    assert float(row["learning_rate"]) == pytest.approx(0.12 / 48 / 0.8, rel=1e-5)


def test_device_sets_threads_and_precision():
    threads = torch.get_num_threads()
    evaluate.use_device("cpu", threads + 1)
    assert torch.get_num_threads() == threads + 1 and not torch.backends.cudnn.allow_tf32
    evaluate.use_device("cpu", threads)


class Malice:
    """Unpickled without care, this would create the folder "trap"."""

    def __reduce__(self):
        return os.mkdir, ("trap",)


def pack(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def changed(factor=1, **config):
    def change(good):
        checkpoint = torch.load(io.BytesIO(good), weights_only=True)
        checkpoint["config"] |= config
        checkpoint["model"]["fc1.weight"] = checkpoint["model"]["fc1.weight"] * factor
        return pack(checkpoint)

    return change


DAMAGES = {  # what becomes of the bytes of a good checkpoint
    "code": lambda _: pack({"model": Malice(), "config": {}}),
    "plain pickle with code": lambda _: pickle.dumps(Malice()),
    "truncated": lambda good: good[: len(good) // 2],
    "with a hole": lambda good: good[:100_000] + good[101_000:],
    "empty": lambda _: b"",
    "text": lambda _: b"not a checkpoint",
    "list": lambda _: pack([1, 2, 3]),
    "other model": changed(model="resnet18"),
    "unknown model": changed(model="vgg"),
    "list as a model": changed(model=["mlp"]),
    "width": changed(model="resnet18", width="64"),
    "negative width": changed(model="resnet18", width=-1),
    "dropout": changed(model="resnet18", dropout=2),
    "wrong shape": changed(factor=torch.ones(2, 1, 1)),
    "not a number": changed(factor=float("nan")),
}


def check_refusal(path):
    with pytest.raises(data.UserError, match=path.name) as caught:
        evaluate.load_model(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", DAMAGES)
def test_bad_checkpoint_is_refused(mlp_run, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pt"
    path.write_bytes(DAMAGES[kind]((mlp_run / "best.pt").read_bytes()))
    check_refusal(path)
    assert not (tmp_path / "trap").exists(), "code in the checkpoint was run"


def test_folder_or_nothing_in_place_of_a_checkpoint(tmp_path):
    check_refusal(tmp_path)
    check_refusal(tmp_path / "missing.pt")


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


def test_bad_checkpoint_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pt").write_bytes(DAMAGES["code"](b""))
    message = call("evaluate.py", "--ckpt", tmp_path / "bad.pt", code=1)
    assert message.startswith("evaluate.py: ") and len(message.splitlines()) == 1
    assert not (tmp_path / "trap").exists()
