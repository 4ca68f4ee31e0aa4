import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import DATA, ROOT, call

import analyze
import data

DATA_FIGURES = {"fig1_samples.png", "fig2_pca.png", "fig3_tsne.png", "fig4_augmentation.png"}
RUN_FIGURES = {"fig5_loss.png", "fig6_accuracy.png", "accuracy_over_minutes.png", "fig7_errors.png",
               "confusion.png", "reliability.png", "most_confident_errors.png",
               "fig8_6_as_0.png"}  # fmt: skip
PREDICTIONS = [("true", int), ("predicted", int), ("probability", float)]


def check_figures(folder, names):
    for name in names:
        image = matplotlib.image.imread(folder / name)[..., :3]
        assert image.shape[1] > 500, name
        assert image.std() > 0.03, f"{name} is blank"


def copy_run(folder, published="mlp-report", config=(), evaluation=()):
    """Copy a published run and change entries of its JSON files."""
    shutil.copytree(ROOT / "results" / published, folder)
    for name, changes in (("config.json", config), ("evaluation.json", evaluation)):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(content | dict(changes)), encoding="utf-8")
    return folder


def test_without_a_run_the_data_figures_are_drawn(tmp_path):
    printed = call("analyze.py", "--runs", tmp_path, "--out", tmp_path, "--tsne-images", 200)
    assert {p.name for p in tmp_path.iterdir()} == DATA_FIGURES
    check_figures(tmp_path, DATA_FIGURES)
    for model in ("mlp", "resnet18", "resnet34"):
        assert f"{model}: there is no run of it" in printed


def test_everything_is_drawn_with_the_errors_of_the_own_run(tmp_path):
    """The own run is worse than the published ones, of a network that analyze.py does not know,
    and its name would be wrong mathematics."""
    own = copy_run(tmp_path / "runs" / "$^_$ 衣", config={"model": "tiny", "parameters": 7})
    worse = copy_run(tmp_path / "runs" / "zz") / "log.csv"
    worse.write_bytes(b"".join(worse.read_bytes().splitlines(keepends=True)[:2]))  # its first epoch
    (copy_run(tmp_path / "runs" / "broken") / "log.csv").unlink()
    folder = tmp_path / "figures"
    printed = call("analyze.py", "--runs", tmp_path / "runs", ROOT / "results", "--out", folder,
                   "--tsne-images", 200)  # fmt: skip
    assert f"errors: those of {own}\n" in printed
    assert f"left out: {tmp_path / 'runs/broken'}: " in printed
    drawn = {p.name for p in folder.iterdir()}
    assert drawn >= DATA_FIGURES | RUN_FIGURES
    check_figures(folder, [name for name in drawn if name.endswith(".png")])
    models = (folder / "models.md").read_text(encoding="utf-8").splitlines()
    assert [line.split()[1] for line in models[2:6]] == ["mlp", "resnet18", "resnet34", "tiny"]
    assert models[5] == "| tiny | 7 | – | 85.32 % | 1.6 | 0.04 ms |"
    assert models[2].startswith("| mlp | 101,770 | 85.1 % |")


def test_a_run_that_does_not_exist_is_one_line(tmp_path):
    printed = call("analyze.py", "--runs", tmp_path, "--run", "mine", "--out", tmp_path, code=1)
    assert printed.startswith("analyze.py: --run mine: no run") and len(printed.splitlines()) == 1


DAMAGES = {
    "a BOM is harmless": ("log.csv", lambda b: b"\xef\xbb\xbf" + b, None),
    "semicolons": ("log.csv", lambda b: b.replace(b",", b";"), "'epoch'"),
    "UTF-16": ("log.csv", lambda b: b.decode().encode("utf-16"), "codec can't decode"),
    "garbage": ("predictions.csv", lambda _: bytes(range(256)), "codec can't decode"),
    "garbage in JSON": ("evaluation.json", lambda _: bytes(range(256)), "codec can't decode"),
    "half a row": ("steps.csv", lambda b: b + b"99", "column"),
    "no row": ("log.csv", lambda b: b.splitlines()[0], "log.csv has no row"),
    "no prediction": ("predictions.csv", lambda b: b.splitlines()[0], "predictions.csv has no row"),
    "no step": ("steps.csv", lambda b: b.splitlines()[0], "steps.csv has no row"),
    "empty": ("log.csv", lambda _: b"", "ValueError"),
    "empty JSON": ("config.json", lambda _: b"", "JSONDecodeError"),
    "a word": ("log.csv", lambda b: b.replace(b"\n2,", b"\ntwo,"), "two"),
    "not a number": ("predictions.csv", lambda b: b + b"9,nan,1,0.9\n", "nan"),
    "half an object": ("config.json", lambda b: b[:-9], "line"),
    "a list": ("config.json", lambda b: b"[" + b + b"]", "list"),
    "no width": ("config.json", lambda b: b.replace(b'"width"', b'"w"'), "'width'"),
    "no latency": ("evaluation.json", lambda b: b.replace(b"batch_1_ms", b"x"), "'batch_1_ms'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_unreadable_run_is_left_out_with_one_line(damage, tmp_path, capsys):
    name, change, reason = DAMAGES[damage]
    copy_run(tmp_path / "good")
    path = copy_run(tmp_path / "bad") / name
    path.write_bytes(change(path.read_bytes()))
    runs = [run.folder.name for run in analyze.find_runs([tmp_path])]
    lines = capsys.readouterr().out.splitlines()
    if reason is None:
        assert (runs, lines) == (["bad", "good"], [])
        return
    assert runs == ["good"]
    assert len(lines) == 1 and lines[0].startswith(f"left out: {tmp_path / 'bad'}")
    assert reason in lines[0]


def test_everything_is_read_and_written_as_utf8(tmp_path):
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for name in ("mlp", "other"):
        copy_run(tmp_path / name, config={"device_name": "处理器"})
    for script in ("analyze.py", "extras/leaderboard.py"):
        words = [sys.executable, ROOT / script, "--runs", tmp_path, "--out", tmp_path / "figures"]
        if script == "analyze.py":
            words += ["--data-dir", DATA, "--tsne-images", "100", "--run", "other"]
        printed = subprocess.run(words, env=ascii_only, check=True, capture_output=True).stdout
        drawn = b"errors: those of " + bytes(tmp_path / "other") in printed
        assert drawn == (script == "analyze.py")
    for name in ("models.md", "runs.md"):
        assert "处理器" in (tmp_path / "figures" / name).read_text(encoding="utf-8")


def test_folder_in_place_of_a_file(tmp_path, capsys):
    path = copy_run(tmp_path / "bad") / "steps.csv"
    path.unlink()
    path.mkdir()
    assert analyze.find_runs([tmp_path]) == []
    assert str(path) in capsys.readouterr().out


def test_unfinished_and_untested_run(tmp_path):
    path = copy_run(tmp_path / "mine")
    for name in ("steps.csv", "evaluation.json", "predictions.csv"):
        (path / name).unlink()
    lines = (path / "log.csv").read_text(encoding="utf-8").splitlines()
    (path / "log.csv").write_text("\n".join(lines[:3]) + "\n", encoding="utf-8")
    runs = analyze.find_runs([tmp_path])
    folder = analyze.open_folder(tmp_path)
    analyze.plot_accuracy(runs, folder)
    analyze.tabulate_models(runs, folder)
    check_figures(folder, ["fig6_accuracy.png"])
    assert "| 85.1 % | – | 0.0 | – |" in (folder / "models.md").read_text(encoding="utf-8")


def test_an_own_run_does_not_hide_the_published_one_of_its_name(tmp_path):
    for folder in ("runs", "runs2"):
        copy_run(tmp_path / folder / "mlp")
    folders = [tmp_path / "runs", tmp_path / "runs2", ROOT / "results"]
    runs = {run.name: run.own for run in analyze.find_runs(folders)}
    assert len(runs) == 2 + len(analyze.find_runs([ROOT / "results"]))
    assert runs.items() >= {"runs/mlp": True, "runs2/mlp": True, "mlp": False}.items()


def test_readmes_show_the_table_of_the_published_runs(tmp_path):
    analyze.tabulate_models(analyze.find_runs([ROOT / "results"]), tmp_path)
    table = (tmp_path / "models.md").read_text(encoding="utf-8")
    for readme in ("README.md", "README.zh-CN.md"):
        assert table in (ROOT / readme).read_text(encoding="utf-8"), readme


def test_published_accuracies_are_those_of_the_published_predictions():
    runs = analyze.find_runs([ROOT / "results"])
    assert len(runs) > 10
    for run in runs:
        confusion = analyze.count_confusion(run.predictions)
        assert confusion.trace() / confusion.sum() == run.accuracy
        tested = run.log[run.evaluation["epoch"] - 1]
        # Also trained on the validation images, it has no validation accuracy.
        assert np.nan_to_num(tested["val_accuracy"]) == run.best_validation, run.name


def test_best_validation_and_minutes(tmp_path):
    path = copy_run(tmp_path / "mine") / "log.csv"
    lines = ["epoch,train_accuracy,val_accuracy,seconds"]
    lines += ["1,0.9,0.7,70", "2,0.9,0.8,20", "3,0.9,0.6,0"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (run,) = analyze.find_runs([tmp_path])
    assert (run.best_validation, run.minutes) == (0.8, 1.5)


def test_seeds_of_one_recipe_are_averaged(tmp_path):
    for name, config, accuracy in (
        ("mlp", {}, 0.81),
        ("mlp-seed5", {"seed": 5, "git": "other", "threads": 1, "resumed": []}, 0.8),
        ("mlp-seed6", {"seed": 6, "lr": 0.5}, 0.7),
        ("mlp-seed7", {"seed": 7, "precision": "float32"}, 0.6),
        ("mlp-seed8", {"seed": 8, "an option to come": 1}, 0.6),
        ("mlp-brighter", {"seed": 9}, 0.6),  # what differs may be the code
    ):
        copy_run(tmp_path / name, "mlp", config, {"accuracy": accuracy})
    runs = analyze.find_runs([tmp_path])
    groups = [[r.folder.name for r in analyze.find_seeds(run, runs)] for run in runs]
    alone = [[f"mlp-seed{seed}"] for seed in (6, 7, 8)]
    assert groups == [["mlp", "mlp-seed5"], ["mlp-brighter"], ["mlp", "mlp-seed5"], *alone]
    # The published seeds 1 and 2 have the same settings.
    both = analyze.find_runs([tmp_path, ROOT / "results"])
    own = [run for run in both if run.own]
    assert [[r.folder.name for r in analyze.find_seeds(run, both)] for run in own] == groups
    analyze.tabulate_models(runs, tmp_path)
    row = (tmp_path / "models.md").read_text(encoding="utf-8").splitlines()[2]
    assert "| 85.1 % | 80.50 % (80.00–81.00, 2 seeds) |" in row


def test_seeds_of_other_processors_give_accuracy_but_no_minutes(tmp_path):
    copy_run(tmp_path / "mlp", "mlp", evaluation={"accuracy": 0.81})
    config = {"seed": 5, "device_name": "a"}
    other = copy_run(tmp_path / "mlp-seed5", "mlp", config, {"accuracy": 0.8})
    path = other / "log.csv"
    path.write_text("epoch,train_accuracy,val_accuracy,seconds\n1,0.9,0.7,6000\n", encoding="utf-8")
    for name in ("mlp-seed0", "mlp-seed00"):  # seed 0 a second and a third time
        copy_run(tmp_path / name, "mlp", evaluation={"accuracy": 0.9})
    runs = analyze.find_runs([tmp_path])
    analyze.tabulate_models(runs, tmp_path)
    row = (tmp_path / "models.md").read_text(encoding="utf-8").splitlines()[2]
    assert "| 80.50 % (80.00–81.00, 2 seeds) | 0.9 |" in row
    ((minutes, accuracy, run),) = analyze.points_over_minutes(runs)
    assert (minutes, accuracy) == (pytest.approx(0.9, abs=0.05), pytest.approx(80.5))
    assert run.folder.name == "mlp"  # the first by name


def test_the_report_has_no_other_width(tmp_path):
    copy_run(tmp_path / "narrow", "resnet18", {"width": 16, "parameters": 701178})
    analyze.tabulate_models(analyze.find_runs([tmp_path]), tmp_path)
    row = (tmp_path / "models.md").read_text(encoding="utf-8").splitlines()[2]
    assert row.startswith("| resnet18 | 701,178 | – | 95.22 % |")


def test_curves_show_one_run_of_each_network_and_recipe(tmp_path):
    runs = analyze.find_runs([ROOT / "results"])
    names = ["mlp", "resnet18", "resnet34"]
    names += [f"{name}-report" for name in names]
    assert [run.name for run in analyze.pick_runs(runs)] == names
    copy_run(tmp_path / "runs/mine", "mlp-seed2")  # worse than the published one, but one's own
    runs = analyze.find_runs([tmp_path / "runs", ROOT / "results"])
    assert [run.name for run in analyze.pick_runs(runs)] == ["runs/mine", *names[1:]]


def test_losses_with_and_without_smoothing_have_panels_of_their_own(tmp_path):
    runs = {run.name: run for run in analyze.find_runs([ROOT / "results"])}
    widths = []
    for names in (["mlp"], ["mlp", "resnet18-report"], ["mlp", "resnet18"]):
        analyze.plot_loss([runs[name] for name in names], analyze.open_folder(tmp_path))
        widths.append(matplotlib.image.imread(tmp_path / "fig5_loss.png").shape[1])
    assert widths[0] == widths[1] < 0.7 * widths[2]


def test_points_over_minutes(tmp_path):
    published = analyze.points_over_minutes(analyze.find_runs([ROOT / "results"]))
    assert 3 < len(published) <= 10
    assert len({run.machine for _, _, run in published}) == 1
    for i in range(12):
        config = {"device_name": f"mine {i % 2}", "lr": 0.01 * i}
        copy_run(tmp_path / f"run{i}", config=config, evaluation={"accuracy": 0.5 + i / 100})
    copy_run(tmp_path / "run11-seed8", config=config | {"seed": 8}, evaluation={"accuracy": 0.63})
    points = analyze.points_over_minutes(analyze.find_runs([tmp_path, ROOT / "results"]))
    assert [run.folder.name for *_, run in points] == [f"run{i}" for i in range(2, 12)]
    assert points[-1][1] == pytest.approx(62)  # the mean of 61 and 63 %
    for i in range(20):  # many own runs on a machine of their own, of one recipe
        copy_run(tmp_path / f"more/mlp-seed{i}", config=config | {"seed": i})
    points = analyze.points_over_minutes(analyze.find_runs([tmp_path / "more", ROOT / "results"]))
    assert len(points) > 3 and [run.own for *_, run in points].count(True) == 1
    analyze.plot_accuracy_over_minutes(points, analyze.open_folder(tmp_path))
    check_figures(tmp_path, ["accuracy_over_minutes.png"])


def test_a_recipe_whose_first_seed_ran_elsewhere_has_a_point(tmp_path, monkeypatch):
    monkeypatch.setattr(analyze, "RESULTS", tmp_path)  # so that these count as published
    for name, seed, processor, accuracy in (
        ("mlp", 0, "a", 0.81),
        ("mlp-seed1", 1, "b", 0.80),
        ("mlp-seed2", 2, "b", 0.79),
    ):
        config = {"seed": seed, "device_name": processor}
        copy_run(tmp_path / name, "mlp", config, {"accuracy": accuracy})
    ((_, accuracy, run),) = analyze.points_over_minutes(analyze.find_runs([tmp_path]))
    assert (accuracy, run.name) == (pytest.approx(80), "mlp-seed1")


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figures by name, as they are when they are saved."""
    figures = {}
    monkeypatch.setattr(analyze, "save", lambda figure, _, name: figures.update({name: figure}))
    analyze.open_folder(tmp_path)
    yield figures
    plt.close("all")


def test_samples_are_of_the_class_of_their_row(drawn, real, tmp_path):
    images, labels = real
    analyze.plot_samples(images, labels, tmp_path)
    axes = np.reshape(drawn["fig1_samples.png"].axes, (10, 8))
    for i, row in enumerate(axes):
        assert row[0].get_ylabel() == f"{i} {data.CLASSES[i]}"
        for axis, image in zip(row, images[labels == i][:8], strict=True):
            assert np.array_equal(axis.images[0].get_array(), image)


def test_curves_and_points_are_those_of_the_logs(drawn, tmp_path):
    runs = analyze.find_runs([ROOT / "results"])
    (run,) = (run for run in runs if run.name == "mlp-report")
    analyze.plot_accuracy([run], tmp_path)
    for axis, column in zip(drawn["fig6_accuracy.png"].axes, ("train", "val"), strict=True):
        assert np.array_equal(axis.lines[0].get_xdata(), run.log["epoch"])
        assert np.array_equal(axis.lines[0].get_ydata(), 100 * run.log[f"{column}_accuracy"])
        assert column in axis.get_title()
    analyze.plot_loss([run], tmp_path)
    every, smooth = drawn["fig5_loss.png"].axes[0].lines
    loss = run.steps["train_loss"]
    for line in (every, smooth):
        assert np.array_equal(line.get_xdata(), run.steps["step"])
    assert np.array_equal(every.get_ydata(), loss)
    tenth = loss[-(1 + (len(loss) - 1) // 10) :]
    assert smooth.get_ydata()[[0, -1]] == pytest.approx([loss[0], tenth.mean()])
    points = analyze.points_over_minutes(runs)
    analyze.plot_accuracy_over_minutes(points, tmp_path)
    lines = [line.get_xydata() for line in drawn["accuracy_over_minutes.png"].axes[0].lines]
    shown = [tuple(xy[0]) for xy in lines if len(xy) == 1]
    assert shown == [(minutes, accuracy) for minutes, accuracy, _ in points]


def test_errors_are_shown_as_predicted(drawn, tmp_path):
    rows = [(0, 6, 0, 0.8), (1, 6, 0, 0.9), (2, 6, 2, 0.7), (3, 2, 4, 0.6), (4, 5, 5, 0.95)]
    predictions = np.array(rows, [("index", int), *PREDICTIONS])
    run = SimpleNamespace(name="net", predictions=predictions)
    analyze.plot_errors(run, tmp_path)
    axis = drawn["fig7_errors.png"].axes[0]
    bars = np.reshape(axis.patches, (10, 10))  # one row per predicted class
    found = {(i, j): bars[j, i].get_height() for i in range(10) for j in range(10)}
    assert {where: n for where, n in found.items() if n} == {(6, 0): 2, (6, 2): 1, (2, 4): 1}
    assert (bars[0, 6].get_y(), bars[2, 6].get_y(), bars[4, 2].get_y()) == (0, 2, 0)
    assert (axis.get_xlabel(), axis.get_title()[:4]) == ("true class", "net:")
    analyze.plot_confusion(run, tmp_path)
    axis = drawn["confusion.png"].axes[0]
    confusion = axis.images[0].get_array()
    assert (confusion[6, 0], confusion[2, 4], confusion[5, 5], confusion.sum()) == (2, 1, 1, 5)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted class", "true class")
    assert axis.get_title().endswith("accuracy 20.00 %")
    images = torch.arange(5)[:, None, None].expand(5, 28, 28)
    analyze.plot_wrong(run, images, predictions[:4], tmp_path, "wrong.png")
    axes = drawn["wrong.png"].axes
    titles = [axis.get_title() for axis in axes[:5]]
    assert titles[:2] == ["Shirt?\nT-shirt 90 %", "Shirt?\nT-shirt 80 %"]
    assert titles[2:] == ["Shirt?\nPullover 70 %", "Pullover?\nCoat 60 %", ""]
    assert [axis.images[0].get_array()[0, 0] for axis in axes[:4]] == [1, 0, 2, 3]
    analyze.plot_reliability(run, tmp_path)
    line = drawn["reliability.png"].axes[0].lines[1]
    assert line.get_ydata() == pytest.approx([0, 0, 0, 0, 1])
    assert line.get_xdata() == pytest.approx([0.6, 0.7, 0.8, 0.9, 0.95])


def test_calibration_error_by_hand():
    rows = [(0, 0, 0.9), (0, 1, 0.9), (1, 1, 0.65), (1, 1, 0.65)]
    error, mean, accuracy = analyze.calibration(np.array(rows, PREDICTIONS))
    assert mean == pytest.approx([0.65, 0.9])
    assert accuracy == pytest.approx([1, 0.5])
    assert error == pytest.approx((0.35 + 0.4) / 2)


def test_upper_edge_of_a_bin_belongs_to_it():
    error, _, _ = analyze.calibration(np.array([(0, 0, 0.4), (1, 2, 0.45)], PREDICTIONS))
    assert error == pytest.approx((0.6 + 0.45) / 2)


def test_calibration_of_a_network_that_is_always_right_or_always_wrong():
    for predicted, expected in ((3, 0.0), (4, 1.0)):
        error, _, _ = analyze.calibration(np.array([(3, predicted, 1.0)] * 5, PREDICTIONS))
        assert error == expected


def test_confusion_rows_are_true_classes():
    rows = [(6, 0, 0.9), (6, 0, 0.8), (2, 4, 0.7), (5, 5, 0.9)]
    predictions = np.array(rows, PREDICTIONS)
    confusion = analyze.count_confusion(predictions)
    assert (confusion[6, 0], confusion[2, 4], confusion[5, 5], confusion.sum()) == (2, 1, 1, 4)


def test_figures_of_a_network_without_an_error(tmp_path):
    (run,) = (r for r in analyze.find_runs([ROOT / "results"]) if r.name == "mlp-report")
    run.predictions["predicted"] = run.predictions["true"]
    folder = analyze.open_folder(tmp_path)
    analyze.plot_errors(run, folder)
    analyze.plot_reliability(run, folder)
    images, _ = data.load(DATA, train=False)
    none = run.predictions[:0]
    analyze.plot_wrong(run, images, none, folder, "most_confident_errors.png")
    assert {"fig7_errors.png", "reliability.png", "most_confident_errors.png"} == {
        p.name for p in folder.iterdir()
    }


def test_table_of_a_run_with_a_bar_in_its_name(tmp_path):
    analyze.write_table([{"run": "a|b", "n": 1}], tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text == "| run | n |\n| --- | --- |\n| a\\|b | 1 |\n"


def test_run_resumed_elsewhere_names_both_machines(tmp_path):
    here = {"device": "cpu", "device_name": "AMD EPYC (family 26, model 2)", "threads": 2}
    copy_run(tmp_path / "a", "mlp", {"resumed": [here]})
    copy_run(tmp_path / "b", "mlp", {"resumed": [here, here | {"threads": 4}]})
    start = "AMD EPYC (family 26, model 2), 2 threads, bfloat16"
    then = start.replace("2 threads", "4 threads")
    assert [run.machine for run in analyze.find_runs([tmp_path])] == [start, f"{start} then {then}"]


def test_minutes_and_latency_come_with_their_processor(tmp_path):
    copy_run(tmp_path / "a", "mlp")
    copy_run(tmp_path / "b", "resnet18")
    copy_run(tmp_path / "c", "resnet34", {"device": "cuda", "device_name": "a GPU"})
    analyze.tabulate_models(analyze.find_runs([tmp_path]), tmp_path)
    notes = (tmp_path / "models.md").read_text(encoding="utf-8").splitlines()[-4:]
    assert notes == [
        "",
        "Minutes: mlp, resnet18 on AMD EPYC (family 26, model 2), 2 threads, bfloat16; "
        "resnet34 on a GPU, bfloat16.",
        "",
        "Latency: mlp, resnet18 on AMD EPYC (family 26, model 2), 2 threads, float32; "
        "resnet34 on AMD EPYC (family 25, model 17), 2 threads, float32.",
    ]
