"""Committed notebooks are whole: nbval alone would pass one that was stripped of its outputs."""

from __future__ import annotations

import ast
import base64
import json
import re
from io import BytesIO
from pathlib import Path

import nbformat
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def text(path):
    """All prose of a chapter, captions included."""
    cells = nbformat.read(path, as_version=4).cells
    prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
    return "\n".join(prose + [json.dumps(cell.metadata.get("mystnb", {})) for cell in cells])


def library_names(path):
    """What a chapter uses of the library, but for its set-up: functions and classes, by their names below ``gmlvm``."""
    nodes = list(ast.walk(ast.parse("\n".join(cell.source for cell in code_cells(path)[1:]))))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gmlvm")]
    names = {f"{node.module}.{alias.name}".removeprefix("gmlvm.") for node in imports for alias in node.names}
    modules = {name for name in names if (ROOT / "gmlvm" / f"{name}.py").exists()}
    attributes = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    return names - modules | {f"{node.value.id}.{node.attr}" for node in attributes if node.value.id in modules}


def test_there_are_notebooks_and_the_book_lists_them():
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    listed = {ROOT / f"{chapter['file']}.ipynb" for part in parts for chapter in part["chapters"]}
    assert NOTEBOOKS
    assert set(NOTEBOOKS) <= listed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_is_valid(self, path):
        nbformat.validate(nbformat.read(path, as_version=4))

    def test_no_backslash_was_lost_to_an_escape(self, path):
        # A "beta" with its backslash begins with a backspace once a plain string of Python has had it.
        cells = nbformat.read(path, as_version=4).cells
        shown = [part for cell in cells for part in cell.metadata.get("mystnb", {}).values()]
        words = [cell.source for cell in cells] + [value for part in shown for value in part.values()]
        assert not [word for word in words if re.search(r"[\x00-\x09\x0b-\x1f\x7f]", word)]

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
        silent = ("import ", "from ", "def ")
        for cell in code_cells(path)[1:]:
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

    def test_every_figure_is_sharp_at_twice_the_density_and_light(self, path):
        for cell in code_cells(path):
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    picture = Image.open(BytesIO(base64.b64decode(output.data["image/png"])))
                    assert picture.mode == "P"
                    assert picture.width // 2 == output.metadata["image/png"]["width"]

    def test_is_small(self, path):
        assert path.stat().st_size <= 1_750_000

    def test_folds_its_set_up(self, path):
        assert "hide-input" in code_cells(path)[0].metadata["tags"]

    def test_folds_what_reads_results_or_judges(self, path):
        for cell in code_cells(path):
            reads = "read_record(" in cell.source and cell.source.count("\n") >= 20
            if reads or "claims = {" in cell.source:
                assert "hide-input" in cell.metadata.get("tags", []), cell.source

    def test_has_figures_exercises_and_an_end(self, path):
        assert sum("plt.show()" in cell.source for cell in code_cells(path)) >= 3
        prose = text(path)
        exercises = re.findall(r":::\{exercise\}\n:label: (\S+)", prose)
        assert len(exercises) >= 2
        assert re.findall(r":::\{solution\} (\S+)\n:class: dropdown", prose) == exercises
        assert "## What was seen" in prose

    def test_links_every_part_of_the_library_that_it_uses(self, path):
        found = re.findall(r"\}`~?(gmlvm(?:_book)?\.[\w.]+)`", text(path))
        links = {link.removeprefix("gmlvm.") for link in found}
        for name in library_names(path):
            # A link to a method shows its class; that to the module of figures stands for all of them.
            assert any(f"{link}.".startswith(f"{name}.") for link in links) or (
                name.startswith("plots.") and "plots" in links
            ), f"{name} is used and not linked"
