import json
import shutil

import matplotlib.image
import numpy as np
import pytest
from conftest import ROOT, call

import analyze

DATA_FIGURES = {"fig1_samples.png", "fig2_pca.png", "fig3_tsne.png", "fig4_augmentation.png"}
RUN_FIGURES = {"fig5_loss.png", "fig6_accuracy.png", "fig7_errors.png", "confusion.png",
               "reliability.png", "leaderboard.png", "front.png", "fig8_6_as_0.png",
               "surest_errors.png"}  # fmt: skip
TABLES = {"models.md", "models.csv", "leaderboard.md", "leaderboard.csv"}


def check_figures(folder, names):
    for name in names:
        image = matplotlib.image.imread(folder / name)[..., :3]
        assert image.shape[1] > 500, name
        assert image.std() > 0.03, f"{name} is blank"


def test_without_a_run_the_data_figures_are_drawn(tmp_path):
    said = call("analyze.py", "--runs", tmp_path, "--out", tmp_path, "--tsne-images", 200)
    assert {p.name for p in tmp_path.glob("*.png")} == DATA_FIGURES
    check_figures(tmp_path, DATA_FIGURES)
    for model in ("mlp", "resnet18", "resnet34"):
        assert f"{model}: left out" in said


def test_with_a_run_everything_is_drawn(mlp_run, tmp_path):
    shutil.copytree(mlp_run, tmp_path / "runs" / "mlp")
    shutil.copytree(mlp_run, tmp_path / "runs" / "trials" / "shorter")
    said = call("analyze.py", "--runs", tmp_path / "runs", "--out", tmp_path,
                "--tsne-images", 200)  # fmt: skip
    drawn = {p.name for p in tmp_path.iterdir()}
    assert drawn >= DATA_FIGURES | RUN_FIGURES | TABLES
    assert len([name for name in drawn if name.startswith("fig8_")]) == 4
    check_figures(tmp_path, [name for name in drawn if name.endswith(".png")])
    assert "resnet18: left out" in said and "mlp: left out" not in said
    models = (tmp_path / "models.md").read_text()
    assert "101,770 (1.2 M)" in models and "(85.1 %)" in models and "shorter" not in models
    assert "| shorter |" in (tmp_path / "trials.md").read_text()
    board = (tmp_path / "leaderboard.md").read_text()
    assert "WRN40-4 | 96.70 %" in board and "| mlp |" in board


def test_unreadable_run_is_left_out_with_a_line(mlp_run, tmp_path, capsys):
    shutil.copytree(mlp_run, tmp_path / "good")
    shutil.copytree(mlp_run, tmp_path / "bad")
    (tmp_path / "bad" / "config.json").write_text("{")
    assert [run["name"] for run in analyze.find_runs([tmp_path])] == ["good"]
    assert "bad: left out" in capsys.readouterr().out


def test_first_folder_wins(mlp_run, tmp_path):
    shutil.copytree(mlp_run, tmp_path / "mlp")
    log = (tmp_path / "mlp" / "log.csv").read_text().splitlines()
    (tmp_path / "mlp" / "log.csv").write_text("\n".join(log[:2]) + "\n")
    (run,) = analyze.find_runs([tmp_path, mlp_run.parent])
    assert len(run["log"]) == 1


def test_readme_shows_the_tables_of_the_committed_results(tmp_path):
    runs, trials = (analyze.find_runs([ROOT / "results" / sub]) for sub in ("", "trials"))
    analyze.tabulate_models(runs, tmp_path)
    analyze.tabulate_models(trials, tmp_path, "trials")
    analyze.tabulate_seeds(runs, tmp_path)
    english, chinese = ((ROOT / f"README{kind}.md").read_text() for kind in ("", ".zh-CN"))
    assert (tmp_path / "models.md").read_text() in chinese
    for table in tmp_path.glob("*.md"):
        assert table.read_text() in english, f"README.md has not the rows of {table.name}"
    for run in runs + trials:  # every published accuracy is that of the published predictions
        confusion = analyze.count_confusion(run["predictions"])
        assert confusion.trace() / confusion.sum() == run["evaluation"]["accuracy"]
        chosen = run["log"][run["evaluation"]["epoch"] - 1]
        best = analyze.best_validation(run)  # 0 if the validation images were trained on, too
        assert np.nan_to_num(chosen["val_accuracy"]) == best and chosen["pixels"] == 28


def test_seeds_of_one_recipe_are_averaged(mlp_run, tmp_path):
    changes = {
        "a": ({}, 0.81),
        "b": ({"seed": 5, "git": "other"}, 0.8),
        "c": ({"lr": 0.5}, 0.7),
        "d": ({"lr": 0.5, "device_name": "other"}, 0.6),  # the seed of c on another machine
    }
    for name, (options, accuracy) in changes.items():
        shutil.copytree(mlp_run, tmp_path / name)
        for file, new in (("config.json", options), ("evaluation.json", {"accuracy": accuracy})):
            path = tmp_path / name / file
            path.write_text(json.dumps(json.loads(path.read_text()) | new))
    runs = analyze.find_runs([tmp_path])
    groups = analyze.group_seeds(runs)
    assert {label: len(group) for label, group in groups} == {"a (2 seeds)": 2, "c": 2}
    analyze.tabulate_seeds(runs, tmp_path)
    (row,) = (tmp_path / "seeds.md").read_text().splitlines()[2:]
    assert row.startswith("| a (2 seeds) |") and "| 80.50 % (80.00 % to 81.00 %) |" in row


def test_front_joins_runs_that_differ_by_their_epochs_alone(mlp_run):
    (short,) = analyze.find_runs([mlp_run.parent])
    epochs = short["config"]["epochs"]

    def change(factor, **options):
        log = short["log"].copy()
        log["seconds"] *= factor
        return short | {"log": log, "config": short["config"] | options}

    runs = [
        short,
        change(3, seed=5),
        change(8, epochs=2 * epochs),
        change(5, epochs=3 * epochs, lr=0.5),
        change(7, epochs=3 * epochs, device_name="another"),
        change(2, device_name="a third") | {"name": "elsewhere"},
    ]
    markers = {analyze.describe_place(run["config"]): "o" for run in runs}
    _, axis = analyze.plt.subplots()
    analyze.draw_front_panel(runs, markers, axis)
    (line,) = [line for line in axis.lines if len(line.get_xdata()) > 1]
    minutes = analyze.training_minutes(short)
    assert line.get_xdata() == pytest.approx([2 * minutes, 8 * minutes])
    names = sorted(text.get_text() for text in axis.texts)
    assert names == ["elsewhere", *3 * ["mlp"], "mlp (2 seeds)"]
    analyze.plt.close()


def test_readme_shows_the_tables_of_the_ablation(tmp_path):
    analyze.draw_ablation(analyze.read_ablation(ROOT / "results/ablation.csv"), tmp_path)
    readme = (ROOT / "README.md").read_text()
    for table in tmp_path.glob("*.md"):
        assert table.read_text() in readme, f"README.md has not the rows of {table.name}"


@pytest.mark.parametrize("elsewhere", ["B,1,float32", "A,2,float32", "A,1,bfloat16"])
def test_ablation_by_hand(elsewhere, tmp_path):
    rows = ["study,change,seed,val_accuracy,minutes,processor,threads,precision"]
    rows += ["net,report,0,0.80,2,A,1,float32", f"net,report,1,0.82,9,{elsewhere}"]
    rows += ["net,+ trick,0,0.90,1,A,1,float32"]
    (tmp_path / "ablation.csv").write_text("\n".join(rows) + "\n")
    report, trick = analyze.read_ablation(tmp_path / "ablation.csv")
    assert (report["accuracy"], report["minutes"], report["seeds"]) == pytest.approx((0.81, 2, 2))
    # One degree of freedom: standard deviation 0.01·√2, t = 12.706.
    assert trick["half"] == pytest.approx(12.706 * 0.01 * 2**0.5, rel=1e-4)
    assert report["half"] == pytest.approx(12.706 * 0.01, rel=1e-4)
    analyze.draw_ablation([report, trick], tmp_path)
    assert (
        "| 2 | + trick | 90.00 ± 17.97 % | 1.0 | 1 |" in (tmp_path / "ablation_net.md").read_text()
    )
    check_figures(tmp_path, ["ablation_net.png"])


def test_ablation_of_one_seed_has_no_interval(tmp_path):
    row = {"study": "net", "change": "report", "accuracy": 0.9, "half": np.nan}
    analyze.draw_ablation([row | {"minutes": 1.0, "seeds": 1}], tmp_path)
    assert "| 1 | report | 90.00 % | 1.0 | 1 |" in (tmp_path / "ablation_net.md").read_text()
    check_figures(tmp_path, ["ablation_net.png"])


def test_calibration_error_by_hand():
    rows = [(0, 0, 0.9), (0, 1, 0.9), (1, 1, 0.65), (1, 1, 0.65)]
    predictions = np.array(rows, [("true", float), ("predicted", float), ("probability", float)])
    error, mean, accuracy, count = analyze.calibration(predictions)
    assert mean == pytest.approx([0.65, 0.9])
    assert accuracy == pytest.approx([1, 0.5])
    assert count.tolist() == [2, 2]
    assert error == pytest.approx((0.35 + 0.4) / 2)


def test_confusion_rows_are_true_classes():
    rows = [(6, 0, 0.9), (6, 0, 0.8), (2, 4, 0.7)]
    predictions = np.array(rows, [("true", float), ("predicted", float), ("probability", float)])
    confusion = analyze.count_confusion(predictions)
    assert (confusion[6, 0], confusion[2, 4], confusion.sum()) == (2, 1, 3)


def test_pairs():
    assert analyze.parse_pairs("6:0,2:4") == [(6, 0), (2, 4)]
    for text in ("6", "6:6", "6:10", "a:b", "1:2:3"):
        with pytest.raises(ValueError, match="--pairs"):
            analyze.parse_pairs(text)
