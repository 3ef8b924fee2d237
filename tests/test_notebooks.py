"""Committed notebooks are whole: nbval alone would pass one that was stripped of its outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_notebooks_and_the_book_lists_them():
    chapters = yaml.safe_load((ROOT / "_toc.yml").read_text())["chapters"]
    listed = {ROOT / f"{chapter['file']}.ipynb" for chapter in chapters}
    assert NOTEBOOKS
    assert set(NOTEBOOKS) <= listed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_is_valid(self, path):
        nbformat.validate(nbformat.read(path, as_version=4))

    def test_was_run_from_top_to_bottom(self, path):
        cells = code_cells(path)
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))

    def test_has_no_error(self, path):
        kinds = {output.output_type for cell in code_cells(path) for output in cell.outputs}
        assert "error" not in kinds

    def test_has_no_warning_or_progress_bar(self, path):
        streams = {output.get("name") for cell in code_cells(path) for output in cell.outputs}
        assert "stderr" not in streams
        assert "widgets" not in nbformat.read(path, as_version=4).metadata

    def test_has_its_outputs(self, path):
        silent = ("import ", "try:", "def ")
        for cell in code_cells(path):
            if "print(" in cell.source or "plt.show()" in cell.source:
                assert cell.outputs, cell.source
            elif not cell.outputs:
                assert cell.source.startswith(silent), f"a cell without output: {cell.source}"

    def test_every_figure_has_a_caption_and_alt_text(self, path):
        for cell in code_cells(path):
            if "plt.show()" in cell.source:
                rendering = cell.metadata["mystnb"]
                assert len(rendering["image"]["alt"]) > 40
                assert len(rendering["figure"]["caption"]) > 40

    def test_is_small(self, path):
        assert path.stat().st_size <= 1_500_000

    def test_first_code_cell_installs_on_colab(self, path):
        first = code_cells(path)[0]
        url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
        assert "hide-input" in first.metadata["tags"]
        assert "except ModuleNotFoundError" in first.source
        assert url in first.source
