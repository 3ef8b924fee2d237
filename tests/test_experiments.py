"""The longer runs, on a small data set: they write what a chapter reads."""

import json
import sys

import pytest

from experiments import expectations, runner, seeds


@pytest.fixture
def small_runs(monkeypatch, small_data):
    monkeypatch.setattr(seeds.datasets, "mnist", lambda: small_data)
    for name, value in {"num_components": 4, "latent_dim": 3, "steps": 2}.items():
        monkeypatch.setitem(seeds.SETTINGS, name, value)


def test_every_seed_has_the_figures_of_every_method(small_runs, tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["seeds", "--output", str(path), "--seeds", "3", "5", "--jobs", "1"])
    runner.main("experiments.seeds", seeds.SETTINGS, seeds.METHODS, range(5))
    record = json.loads(path.read_text())
    assert record["command"] == f"python -m experiments.seeds --output {path.as_posix()} --seeds 3 5"
    assert record["settings"] == seeds.SETTINGS
    assert [run["seed"] for run in record["runs"]] == [3, 5]
    for run in record["runs"]:
        assert set(run) == {"seed", *seeds.METHODS}
        assert len(run["smooth"]["component_shares"]) == 4
        assert run["smooth"]["reconstruction_error"] != run["plain"]["reconstruction_error"]
        assert run["plain"]["reconstruction_error"] != run["matched"]["reconstruction_error"]


def test_rules_for_the_sum_over_k_differ_in_nothing_else(small_runs):
    figures = {name: method(0)["reconstruction_error"] for name, method in expectations.METHODS.items()}
    assert list(figures) == list(expectations.RULES)
    assert figures["truncated"] == pytest.approx(figures["dense"], rel=1e-4)
    assert len(set(figures.values())) > 2


def test_k_means_finds_well_separated_classes(small_runs):
    best = max(seeds.k_means(seed)["accuracy"] for seed in range(5))
    assert best == 1.0


def test_the_output_folder_is_looked_for_before_any_work(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["seeds", "--output", str(tmp_path / "missing" / "out.json")])
    with pytest.raises(SystemExit):
        runner.main("experiments.seeds", seeds.SETTINGS, seeds.METHODS, range(5))
    assert "no folder" in capsys.readouterr().err
