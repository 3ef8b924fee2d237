"""Result files say how they were made, and one that does not is refused."""

import errno
import json
import os
import re
from importlib.metadata import version

import numpy as np
import pytest

from gmlvm_book.records import describe_origin, read_record, write_record


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "out.json"
    figures = {"settings": {"steps": 3}, "runs": [{"seed": 0, "accuracy": 0.5}]}
    write_record(path, "python -m experiments.x", figures)
    record = read_record(path)
    assert record["settings"] == {"steps": 3}
    assert record["runs"] == [{"seed": 0, "accuracy": 0.5}]
    assert record["versions"]["torch"] == version("torch")


def test_origin_names_everything_in_lines_that_fit_a_page():
    versions = {f"package{index}": "1.2.3" for index in range(12)}
    record = {"command": "make " + "x " * 60, "date": "2026-01-02", "machine": "a cat", "versions": versions}
    text = describe_origin(record)
    words = " ".join(text.split())
    assert words.startswith(f"{record['command'].strip()} 2026-01-02 on a cat package0 1.2.3, ")
    assert all(f"{name} 1.2.3" in words for name in versions)
    assert max(map(len, text.splitlines())) <= 80


def test_origins_of_several_name_versions_once_where_they_agree():
    one, other = ({"command": f"make {n}", "date": f"2026-01-0{n}", "machine": "a cat", "versions": {}} for n in (1, 2))
    one["versions"] = other["versions"] = {"torch": "2.0"}
    assert describe_origin(one, other).splitlines() == [
        "make 1",
        "2026-01-01 on a cat",
        "make 2",
        "2026-01-02 on a cat",
        "torch 2.0",
    ]
    other = {**other, "versions": {"torch": "2.1"}}
    assert describe_origin(one, other) == f"{describe_origin(one)}\n{describe_origin(other)}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a result file"),
        ("[1, 2]", "lacks command, date, machine, versions"),
        (json.dumps({"command": "", "date": "", "versions": {}}), "lacks machine"),
    ],
)
def test_a_file_that_does_not_say_how_it_was_made_is_refused(tmp_path, content, message):
    path = tmp_path / "out.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_record(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no result file at .*out\.json"):
        read_record(tmp_path / "out.json")


class TestAWriteThatFails:
    @pytest.fixture
    def old(self, tmp_path):
        """A record that was there before."""
        path = tmp_path / "out.json"
        write_record(path, "old", {"loss": 1})
        return path

    def test_as_the_disk_is_full_leaves_the_old_file_and_nothing_beside_it(self, old, monkeypatch):
        before = old.read_bytes()

        def full(descriptor):
            assert len(list(old.parent.iterdir())) == 2
            raise OSError(errno.ENOSPC, "no space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space left"):
            write_record(old, "new", {"loss": 2})
        assert old.read_bytes() == before
        assert list(old.parent.iterdir()) == [old]

    @pytest.mark.parametrize(
        ("figures", "place"),
        [
            ({"runs": [{"loss": 0.5}, {"loss": float("nan")}]}, "['runs'][1]['loss'] = nan"),
            ({"a": {"b": -float("inf")}, "c": (0, float("inf"))}, "['a']['b'] = -inf, ['c'][1] = inf"),
            ({"steps": np.int64(3)}, "['steps'] = np.int64(3)"),
        ],
    )
    def test_for_a_figure_that_is_no_json_names_its_place(self, old, figures, place):
        before = old.read_bytes()
        with pytest.raises(
            ValueError, match=re.escape(f"figures must be JSON values, and numbers finite; got {place}")
        ):
            write_record(old, "new", figures)
        assert old.read_bytes() == before


def test_a_link_still_leads_to_the_file_that_is_written(tmp_path):
    link, target = tmp_path / "link.json", tmp_path / "target.json"
    target.write_text("old")
    link.symlink_to(target)
    write_record(link, "new", {"loss": 2})
    assert link.is_symlink()
    assert read_record(target)["loss"] == 2
