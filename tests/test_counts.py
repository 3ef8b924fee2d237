"""The clock of more images."""

import sys

import torch

from benchmarks import counts
from gmlvm_book.records import read_record


def test_every_set_is_timed_in_a_process_of_its_own(tmp_path, monkeypatch, capsys):
    asked = []

    def of_set(call, *images):
        asked.append((call, images))
        return {"teacher": 1.0, "grouping": 0.1, "gigabytes_teacher": 0.5, "gigabytes": 0.6}

    monkeypatch.setattr(counts, "in_new_process", of_set)
    path = tmp_path / "counts.json"
    monkeypatch.setattr(sys, "argv", ["counts", "--json", str(path)])
    counts.main()
    assert asked == [(counts.of_set, images) for images in counts.SETS]
    assert list(read_record(path)["counts"]) == [f"{n} x {side} x {side}" for n, side in counts.SETS]
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(counts.SETS)


def test_the_recipe_is_run_with_as_many_images_of_that_size(small_data, monkeypatch):
    monkeypatch.setattr(counts.datasets, "mnist", lambda: small_data)
    monkeypatch.setattr(counts.embedding, "teacher", lambda images, k: torch.eye(k)[torch.arange(len(images)) % k])
    monkeypatch.setattr(counts, "_STEPS", 2)
    monkeypatch.setitem(counts.digits.SETTINGS, "num_components", 4)
    seen = []
    monkeypatch.setattr(
        counts,
        "learn_components",
        lambda data, *args, learn=counts.learn_components, **kwargs: (
            seen.append(tuple(data.train.images.shape)) or learn(data, *args, **kwargs)
        ),
    )
    found = counts.of_set(300, 8)
    assert seen == [(300, 1, 8, 8)]
    assert min(found.values()) > 0
    assert found["gigabytes"] >= found["gigabytes_teacher"]
