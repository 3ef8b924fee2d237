"""Result files say how they were made, and one that does not is refused."""

import json
from importlib.metadata import version

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
