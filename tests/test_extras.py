import csv
import hashlib
import json
import re

from conftest import call


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
