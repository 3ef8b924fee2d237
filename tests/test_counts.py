"""The clock of more images, and the memory of a process."""

import sys

from benchmarks import counts, memory
from gmlvm_book.records import read_record


def test_every_count_is_timed_in_a_process_of_its_own(tmp_path, monkeypatch, capsys):
    asked = []

    def of_count(call, count):
        asked.append((call, count))
        return {"teacher": 1.0, "grouping": 0.1, "gigabytes_teacher": 0.5, "gigabytes": 0.6}

    monkeypatch.setattr(counts, "in_new_process", of_count)
    path = tmp_path / "counts.json"
    monkeypatch.setattr(sys, "argv", ["counts", "--json", str(path)])
    counts.main()
    assert asked == [(counts.of_count, count) for count in counts.COUNTS]
    assert list(read_record(path)["counts"]) == [str(count) for count in counts.COUNTS]
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(counts.COUNTS)


def test_the_recipe_is_run_with_as_many_images(small_data, monkeypatch):
    monkeypatch.setattr(counts.datasets, "mnist", lambda: small_data)
    monkeypatch.setattr(counts, "_WARM_UP", 100)
    monkeypatch.setattr(counts, "_STEPS", 2)
    monkeypatch.setitem(counts.digits.SETTINGS, "num_components", 4)
    seen = []
    monkeypatch.setattr(
        counts,
        "learn_components",
        lambda data, *args, learn=counts.learn_components, **kwargs: (
            seen.append(len(data.train.images)) or learn(data, *args, **kwargs)
        ),
    )
    found = counts.of_count(300)
    assert seen == [300]
    assert min(found.values()) > 0
    assert found["gigabytes"] >= found["gigabytes_teacher"]


def test_memory_is_that_of_the_process_alone():
    little, much = (memory.in_new_process(_after, count) for count in (1, 300_000_000))
    assert 0.2 < much - little < 0.4


def _after(count: int) -> float:
    """The largest memory of a process that has held so many bytes."""
    held = bytearray(count)
    held[::4096] = b"x" * len(held[::4096])
    return memory.peak_gigabytes()
