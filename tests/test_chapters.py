"""The clock of the chapters."""

import sys

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from benchmarks import chapters
from gmlvm_book.records import read_record


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of two chapters, of which one takes half a second longer."""
    folder = tmp_path / "book"
    folder.mkdir()
    (folder / "here.txt").touch()
    for name, code in {"long": "import time; time.sleep(0.5)", "short": "open('here.txt').close()"}.items():
        write(folder / f"{name}.ipynb", code)
    monkeypatch.setattr(chapters, "BOOK", folder)
    return folder


def write(path, code):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), path)


def test_every_chapter_is_run_where_it_lies_and_timed(book, tmp_path, monkeypatch, capsys):
    before = (book / "short.ipynb").read_bytes()
    monkeypatch.setattr(sys, "argv", ["chapters", "--json", str(tmp_path / "times.json")])
    chapters.main()
    seconds = read_record(tmp_path / "times.json")["seconds"]
    assert list(seconds) == ["long", "short"]
    assert seconds["long"] >= 0.5
    assert seconds["short"] > 0
    assert (book / "short.ipynb").read_bytes() == before
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_chapter_that_fails_has_no_time(book, tmp_path, monkeypatch):
    write(book / "short.ipynb", "1 / 0")
    monkeypatch.setattr(sys, "argv", ["chapters", "--json", str(tmp_path / "times.json")])
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        chapters.main()
    assert not (tmp_path / "times.json").exists()


def test_the_folder_is_looked_for_before_any_work(book, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["chapters", "--json", str(tmp_path / "none" / "file.json")])
    with pytest.raises(SystemExit):
        chapters.main()
    assert "no folder" in capsys.readouterr().err
