import csv
import json
import sys

import numpy as np
import pytest
from conftest import DATA, ROOT, call
from test_analyze import check_figures

import data
import train
from extras import ablation

# Without epochs, which the tables do not show.
HEADER = "study,change,seed,val_accuracy,minutes,processor,threads,precision"


def write(path, *rows):
    path.write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return path


def test_draw_only(tmp_path):
    call("extras/ablation.py", "--draw", "--figures", tmp_path,
         "--out", ROOT / "results/ablation.csv")  # fmt: skip
    drawn, published = (
        {path.name: path.read_text(encoding="utf-8") for path in folder.glob("ablation_*.md")}
        for folder in (tmp_path, ROOT / "results/figures")
    )
    assert drawn == published and "ablation_equal-time.md" in drawn
    check_figures(tmp_path, [name.replace(".md", ".png") for name in drawn])


def test_ablation_by_hand(tmp_path):
    rows = ["net,report,0,0.80,2,A,1,float32", "net,report,1,0.82,9,A,1,float32"]
    path = write(tmp_path / "ablation.csv", *rows, "net,+ trick,0,0.90,1,A,1,float32")
    report, trick = ablation.average_seeds(path.read_text(encoding="utf-8").splitlines())
    assert (report["accuracy"], report["seeds"]) == pytest.approx((0.81, 2))
    # One degree of freedom: standard deviation 0.01·√2, t = 12.706.
    assert trick["half"] == pytest.approx(12.706 * 0.01 * 2**0.5, rel=1e-4)
    assert report["half"] == pytest.approx(12.706 * 0.01, rel=1e-4)
    ablation.draw(path, tmp_path)
    table = (tmp_path / "ablation_net.md").read_text(encoding="utf-8")
    assert "| + trick | 90.00 ± 17.97 % | 1 |" in table
    check_figures(tmp_path, ["ablation_net.png"])


def test_only_a_noisy_change_keeps_its_own_deviation():
    calm, noisy = [[0.90, 0.92], [0.80, 0.82], [0.70, 0.72]], [0.5, 0.6]
    # Three degrees of freedom: t = 3.182; one: 12.706.
    half = ablation.half_interval([*calm, noisy], calm[0])
    assert half == pytest.approx(3.182 * 0.01, rel=1e-3)
    assert ablation.half_interval([*calm, noisy], noisy) == pytest.approx(12.706 * 0.05, rel=1e-3)


def test_one_seed_has_no_interval(tmp_path):
    rows = ["net,report,0,0.9,1,A,1,float32", "net,+ a,0,0.8,1,A,1,float32"]
    path = write(tmp_path / "ablation.csv", *rows)
    rows = ablation.average_seeds(path.read_text(encoding="utf-8").splitlines())
    assert all(np.isnan(row["half"]) for row in rows)
    ablation.draw(path, tmp_path)
    table = (tmp_path / "ablation_net.md").read_text(encoding="utf-8")
    assert "| report | 90.00 % | 1 |" in table and "| + a | 80.00 % | 1 |" in table
    check_figures(tmp_path, ["ablation_net.png"])


@pytest.mark.parametrize("content", [None, "", "study;change\n", "study,change\nnet,report\n"])
def test_unusable_csv_is_one_line(content, tmp_path):
    path = tmp_path / "ablation.csv"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    printed = call("extras/ablation.py", "--draw", "--out", path, "--figures", tmp_path, code=1)
    assert printed.startswith(f"ablation.py: {path}: ") and len(printed.splitlines()) == 1


def test_rows_are_never_added_to_an_unfinished_line(tmp_path):
    path = tmp_path / "ablation.csv"
    path.write_text(
        ",".join(ablation.HEADER) + "\nnet,report,0,0.8,1,2,A,1,float32", encoding="utf-8"
    )
    printed = call("extras/ablation.py", "--list", "--out", path, code=1)
    assert "does not end with a new line" in printed
    assert "no change" in call("extras/ablation.py", "--list", "--only", "Mixup", code=1)


@pytest.mark.parametrize("row", ["net,report,0,85,1,A,1,float32", "net,,0,0.8,1,A,1,float32"])
def test_values_that_cannot_be_are_one_line(tmp_path, row):
    with pytest.raises(data.UserError, match=r"ablation\.csv: ValueError"):
        ablation.draw(write(tmp_path / "ablation.csv", row), tmp_path)


def test_ablation_adds_one_row_per_run_and_repeats_none(tmp_path, monkeypatch, capsys):
    quick = "--model mlp --recipe report --epochs 1"
    monkeypatch.setattr(ablation, "BASE", quick)
    changes = {"default": "", "padding 1": "--padding 1", "erased": "--transform erasing"}
    monkeypatch.setattr(ablation, "CHANGES", changes)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "runs/ablation.csv"
    out.parent.mkdir()
    # A run of another study does not count.
    old = [",".join(ablation.HEADER), "net,default,0,0.8,1,2,A,1,float32"]
    out.write_text("\n".join(old) + "\n", encoding="utf-8")
    words = ["ablation.py", "--seeds", "2", "--data-dir", DATA]
    monkeypatch.setattr(sys, "argv", words)
    ablation.main()
    assert "6 are to be done" in capsys.readouterr().out
    _, *rows = csv.DictReader(out.read_text(encoding="utf-8").splitlines())
    runs = [(row["change"], row["seed"]) for row in rows]
    assert runs == [(change, seed) for seed in "01" for change in changes]
    accuracies = [float(row["val_accuracy"]) for row in rows]
    assert len(set(accuracies)) == 6 and min(accuracies) > 0.6
    for row in rows:
        assert (row["study"], row["epochs"]) == ("equal-time", "1")
        name = f"{row['change'].replace(' ', '-')}-{row['seed']}"
        folder = tmp_path / "runs/ablation" / name
        log = csv.DictReader((folder / "log.csv").read_text(encoding="utf-8").splitlines())
        assert float(row["val_accuracy"]) == pytest.approx(float(next(log)["val_accuracy"]))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        transform = "erasing" if row["change"] == "erased" else None
        assert (str(config["seed"]), config.get("transform")) == (row["seed"], transform)
    assert (tmp_path / "figures/ablation_equal-time.png").exists()
    first = out.read_bytes()
    out.write_bytes(b"".join(first.splitlines(keepends=True)[:-1]))  # the last run was interrupted
    ablation.main()
    assert "1 are to be done" in capsys.readouterr().out and out.read_bytes() == first
    monkeypatch.setattr(sys, "argv", [*words, "--runs", str(tmp_path / "again")])
    ablation.main()
    assert "0 are to be done" in capsys.readouterr().out and out.read_bytes() == first
    assert not list((tmp_path / "again").glob("*"))


def test_failed_run_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "BASE", "--model mlp --recipe report --epochs 1")
    monkeypatch.setattr(ablation, "CHANGES", {"wrong": "--lr x", "right": ""})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--seeds", "1", "--data-dir", DATA])
    with pytest.raises(data.UserError, match="1 runs failed"):
        ablation.main()
    assert "wrong-0 failed" in capsys.readouterr().err
    _, row = (tmp_path / "runs/ablation.csv").read_text(encoding="utf-8").splitlines()
    assert ",right,0," in row


def test_each_change_of_the_ablation_differs_from_the_default():
    seen = []
    for change, options in ablation.CHANGES.items():
        words = f"{ablation.BASE} {options}".split()
        transform = words.pop(words.index("--transform") + 1) if "--transform" in words else None
        args = vars(train.parse_args([word for word in words if word != "--transform"]))
        assert (args, transform) not in seen, change
        seen.append((args, transform))
