"""The clock of the groups: what is trained, when it is looked at, and when it stops."""

import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import groups
from experiments import ablations, digits
from gmlvm_book.records import read_record


@pytest.fixture
def small(monkeypatch, small_data):
    monkeypatch.setattr(groups.datasets, "mnist", lambda: small_data)
    for settings in (ablations.SETTINGS, groups.contest.SETTINGS):
        monkeypatch.setitem(settings, "num_components", 4)
    for name, value in {"refining_steps": 6, "teaching_steps": 25, "start_batch_size": 64}.items():
        monkeypatch.setitem(ablations.SETTINGS, name, value)
    monkeypatch.setattr(groups, "_EVERY", 5)
    return small_data


def test_each_method_is_timed_to_the_mark(small, tmp_path, monkeypatch, capsys):
    path = tmp_path / "seconds.json"
    monkeypatch.setattr(sys, "argv", ["groups", "--json", str(path)])
    groups.main()
    record = read_record(path)
    rows = record["methods"]
    assert {name for name, row in rows.items() if row["to_mark"] is None} == {"start of q_D, no teacher"}
    for row in rows.values():
        assert row["to_mark"] in (None, row["seconds"])
        assert (row["accuracy"] >= groups.MARK) == (row["to_mark"] is not None)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + len(rows)
    assert "never" in next(line for line in printed if "no teacher" in line)
    # The teacher's minutes count for the start that it is for.
    assert rows["start of q_D"]["seconds"] > 0.5 * rows["UMAP + mixture"]["seconds"]


def test_a_training_stops_at_the_mark_and_measuring_does_not_count(small, monkeypatch):
    looks, steps = iter([0.5, 0.9, 0.97]), []
    monkeypatch.setattr(groups.measures, "accuracy", lambda data, model: next(looks))
    monkeypatch.setattr(groups, "time", SimpleNamespace(perf_counter=iter(range(100)).__next__))
    train = ablations.train_encoder

    def noted(*arguments):
        history = train(*arguments)
        steps.append(history.steps)
        return history

    monkeypatch.setattr(groups.ablations, "train_encoder", noted)
    objective = groups.Distillation(torch.full((400, 4), 0.25))
    model = digits.new_encoder(ablations.datasets.mnist(), 4, 0)
    found = groups._trained(model, [(objective, 12), (objective, 20), (objective, 7)], 0, before=10.0)
    # Looked at after 5, 10 and 12 steps, so the mark is reached by the first: nothing follows.
    assert steps == [12]
    assert found == {"seconds": 13.0, "accuracy": 0.97}


def test_the_folder_is_looked_for_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["groups", "--json", str(tmp_path / "none" / "file.json")])
    with pytest.raises(SystemExit):
        groups.main()
    assert "no folder" in capsys.readouterr().err
