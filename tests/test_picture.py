"""The README's picture is a figure of the book."""

import base64
import json

import pytest

from gmlvm_book import picture


def test_the_picture_is_what_the_chapter_drew():
    assert picture.drawn(*picture.SOURCE) == picture.PICTURE.read_bytes(), "run python -m gmlvm_book.picture"


@pytest.fixture
def notebook(tmp_path):
    def write(outputs):
        cell = {"cell_type": "code", "metadata": {"mystnb": {"figure": {"name": "fig"}}}, "outputs": outputs}
        path = tmp_path / "one.ipynb"
        path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "metadata": {}}, cell]}))
        return path

    return write


def test_a_figure_is_found_by_its_name(notebook):
    data = {"image/png": base64.b64encode(b"drawn").decode() + "\n"}
    assert picture.drawn(notebook([{"text": "12"}, {"data": data}]), "fig") == b"drawn"


def test_what_is_not_there_is_said(notebook):
    path = notebook([])
    with pytest.raises(ValueError, match=r"one\.ipynb was not run: its figure fig has no picture"):
        picture.drawn(path, "fig")
    with pytest.raises(ValueError, match=r"one\.ipynb has no figure named other"):
        picture.drawn(path, "other")
