import sys

from conftest import ROOT
from test_analyze import copy_run

import analyze
from extras import leaderboard


def test_tables_are_the_published_ones_and_show_each_network(tmp_path, monkeypatch):
    words = ["--runs", str(ROOT / "results"), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["leaderboard.py", *words])
    leaderboard.main()
    table = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    runs = (tmp_path / "runs.md").read_text(encoding="utf-8")
    assert table == (ROOT / "results/figures/leaderboard.md").read_text(encoding="utf-8")
    assert runs == (ROOT / "results/figures/runs.md").read_text(encoding="utf-8")
    assert "| WRN40-4 | 96.70 % | leaderboard |" in table and "place" not in table
    assert "| ResNet18 (without layer4: 2.8 M parameters) | 94.90 % | leaderboard |" in table
    assert "| resnet18-200epochs-all | 95.83 % | ours |" in table
    reported = ("mlp-report", "resnet18-report", "resnet34-report")
    for name in (*analyze.REPORT_ACCURACY, *reported):
        assert f"| {name} |" in table
    runs = runs.splitlines()
    assert len(runs) == 2 + len(analyze.find_runs([ROOT / "results"]))
    start = "| mlp-report | mlp | report | 64 | 0 | 85.32 % | 84.61–86.00 | 86.08 % | 133 | 1.6 |"
    assert any(row.startswith(start) for row in runs)


def test_unfinished_and_untested_run(tmp_path):
    path = copy_run(tmp_path / "mine")
    (path / "evaluation.json").unlink()
    lines = (path / "log.csv").read_text(encoding="utf-8").splitlines()
    (path / "log.csv").write_text("\n".join(lines[:3]) + "\n", encoding="utf-8")
    leaderboard.tabulate_runs(analyze.find_runs([tmp_path]), tmp_path)
    table = (tmp_path / "runs.md").read_text(encoding="utf-8")
    assert "| – | – | 76.28 % | 2 of 133 |" in table


def test_without_a_run_the_leaderboard_is_shown_alone(tmp_path, monkeypatch, capsys):
    words = ["leaderboard.py", "--runs", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    leaderboard.main()
    assert f"there is no run in {tmp_path / 'none'}\n" in capsys.readouterr().out
    entries = leaderboard.collect_entries(analyze.find_runs([tmp_path]))
    assert len(entries) == len(leaderboard.LEADERBOARD)
    table = (tmp_path / "out/leaderboard.md").read_text(encoding="utf-8")
    assert len(table.splitlines()) == 2 + len(entries) and "ours" not in table
