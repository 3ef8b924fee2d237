"""The longer runs, on a small data set: they write what a chapter reads."""

import sys

import pytest

from experiments import collapse, expectations, runner, seeds, wae_start
from gmlvm_book.records import read_record


@pytest.fixture
def small_runs(monkeypatch, small_data):
    monkeypatch.setattr(seeds.datasets, "mnist", lambda: small_data)
    for name, value in {"num_components": 4, "latent_dim": 3, "steps": 2}.items():
        monkeypatch.setitem(seeds.SETTINGS, name, value)


def test_every_seed_has_the_figures_of_every_method(small_runs, tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["seeds", "--output", str(path), "--seeds", "3", "5", "--jobs", "1"])
    runner.main("experiments.seeds", seeds.SETTINGS, seeds.METHODS, range(5))
    record = read_record(path)
    assert record["command"] == f"python -m experiments.seeds --output {path.as_posix()} --seeds 3 5"
    assert record["settings"] == seeds.SETTINGS
    assert [run["seed"] for run in record["runs"]] == [3, 5]
    for run in record["runs"]:
        assert set(run) == {"seed", *seeds.METHODS}
        assert len(run["smooth"]["component_shares"]) == 4
        assert run["smooth"]["reconstruction_error"] != run["plain"]["reconstruction_error"]
        assert run["plain"]["reconstruction_error"] != run["matched"]["reconstruction_error"]


def test_only_some_methods_can_be_run_and_the_command_says_so(small_runs, tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    arguments = ["--output", str(path), "--seeds", "3", "--methods", "smooth", "plain", "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", ["seeds", *arguments])
    runner.main("experiments.seeds", seeds.SETTINGS, seeds.METHODS, range(5))
    record = read_record(path)
    assert record["command"].endswith("--seeds 3 --methods smooth plain")
    assert [set(run) for run in record["runs"]] == [{"seed", "plain", "smooth"}]


def test_rules_for_the_sum_over_k_differ_in_nothing_else(small_runs):
    figures = {name: method(0)["reconstruction_error"] for name, method in expectations.METHODS.items()}
    assert list(figures) == list(expectations.RULES)
    assert figures["truncated"] == pytest.approx(figures["dense"], rel=1e-4)
    assert len(set(figures.values())) > 2


def test_k_means_finds_well_separated_classes(small_runs):
    best = max(seeds.k_means(seed)["accuracy"] for seed in range(5))
    assert best == 1.0


def test_the_course_of_a_collapse_ends_where_its_report_does(small_runs, monkeypatch):
    figures = collapse.run(collapse.VAE_1, "mlp", None, True, steps=20)(0)
    assert figures["steps"] == [0, 5, 10, 15, 20]
    for name, values in figures["course"].items():
        assert len(values) == 5
        assert values[-1] == pytest.approx(figures["report"][name], abs=1e-6)  # in batches of another size
    monkeypatch.setitem(collapse.SETTINGS, "learning_rate", 1e-2)
    others = {
        "learning rate": collapse.run(collapse.VAE_1, "mlp", None, True, steps=20)(0),
        "small weights": collapse.run(collapse.VAE_1, "mlp", 0.01, True, steps=20)(0),
        "not matched": collapse.run(collapse.VAE_1, "mlp", None, False, steps=20)(0),
        "another objective": collapse.run(collapse.PAPER_WAE, "mlp", None, True, steps=20)(0),
    }
    errors = {name: other["report"]["reconstruction_error"] for name, other in others.items()}
    errors["as it was"] = figures["report"]["reconstruction_error"]
    assert len(set(errors.values())) == 5


def test_a_vae_starts_where_the_wae_ended(small_runs, monkeypatch):
    monkeypatch.setitem(seeds.SETTINGS, "steps", 30)
    for name, value in {"num_components": 4, "latent_dim": 3, "vae_steps": 4}.items():
        monkeypatch.setitem(wae_start.SETTINGS, name, value)
    monkeypatch.setattr(wae_start, "LOOKS", (0, 4))
    monkeypatch.setattr(wae_start, "WINDOW", 2)
    figures = {name: method(0) for name, method in wae_start.METHODS.items()}
    first = {name: run["reports"][0] for name, run in figures.items()}
    assert first["wae, beta 1"] == first["wae, beta 10"] != first["scratch, beta 1"]
    assert figures["wae, beta 1"]["reports"][1] != figures["wae, beta 10"]["reports"][1]
    assert [len(values) for values in figures["wae, beta 1"]["curves"].values()] == [2] * 6
    monkeypatch.setitem(wae_start.SETTINGS, "learning_rate", 1e-2)
    faster = wae_start.METHODS["wae, beta 1"](0)["reports"]
    assert faster[0] == first["wae, beta 1"]
    assert faster[1] != figures["wae, beta 1"]["reports"][1]
