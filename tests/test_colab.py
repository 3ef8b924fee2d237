"""What a reader on Colab gets: plain notebooks true to the chapters, and a runtime that is set up."""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import yaml
from PIL import Image

from gmlvm_book.colab import ColabBuilder
from gmlvm_book.numbers import glue
from gmlvm_book.records import write_record
from gmlvm_book.setup_cell import main, setup_cell

ROOT = Path(__file__).parents[1]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
URL = CONFIG["repository"]["url"]
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
# The rocket button opens what lies below this folder.
PLAIN = ROOT / CONFIG["repository"]["path_to_book"] / "book"
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def cells(path, kind):
    return [cell for cell in read(path).cells if cell.cell_type == kind]


def text(path):
    return "\n\n".join(cell.source for cell in cells(path, "markdown"))


def without_pictures(path):
    """A notebook, with its pictures taken out, and the pictures."""
    notebook, pictures = read(path), []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                png = base64.b64decode(output.data.pop("image/png"))
                pictures.append(np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=float))
    return notebook, pictures


class TestPlainNotebooks:
    def test_are_true_to_their_source(self, tmp_path):
        command = [Path(sys.executable).with_name("jupyter-book"), "build", ROOT, "--all", "-W", "-n", "--keep-going"]
        command += ["--path-output", tmp_path, "--builder", "custom", "--custom-builder", "colab"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        made = tmp_path / "_build" / "colab" / "book"
        for folder in (made, PLAIN):
            assert {path.name for path in folder.iterdir()} == {path.name for path in CHAPTERS}, "run `make colab`"
        for path in made.iterdir():
            new, new_pictures = without_pictures(path)
            kept, pictures = without_pictures(PLAIN / path.name)
            assert kept == new, f"run `make colab`: {path.name}"
            # Another version of Pillow may choose other colours, by a hair.
            assert [picture.shape for picture in pictures] == [picture.shape for picture in new_pictures]
            for one, other in zip(pictures, new_pictures, strict=True):
                assert abs(one - other).mean() < 2, f"run `make colab`: {path.name}"

    @each_chapter
    def test_hold_no_markup_that_only_the_book_knows(self, path):
        assert re.search(r"\{[\w:.-]+\}`", text(path)), "there is some to be found in the chapter"
        prose = re.sub(r"```.*?```", "", text(PLAIN / path.name), flags=re.S)
        assert not re.findall(r"\{[\w:.-]+\}`|:::|\{(?:figure|math|exercise|solution|prf|glue)\b", prose)
        assert not re.findall(r"^```\{", text(PLAIN / path.name), flags=re.M)

    @each_chapter
    def test_show_the_numbers_of_the_run(self, path):
        numbers = {}
        for chapter in CHAPTERS:
            for output in (output for cell in cells(chapter, "code") for output in cell.outputs):
                if "scrapbook" in output.get("metadata", {}):
                    value = ast.literal_eval(output.data["application/papermill.record/text/plain"])
                    numbers[chapter.name, output.metadata.scrapbook.name] = value
        plain = text(PLAIN / path.name)
        for place in re.findall(r"\{glue:text\}`([^`]+)`", text(path)):
            chapter, _, key = place.rpartition("::")
            name, _, form = key.partition(":")
            number = format(numbers[chapter or path.name, name], form)
            assert number in plain, place
            plain = plain[plain.index(number) + len(number) :]

    @each_chapter
    def test_have_the_code_and_a_caption_for_every_figure(self, path):
        plain = read(PLAIN / path.name).cells
        code = [cell for cell in plain if cell.cell_type == "code"]
        assert [cell.source for cell in code] == [cell.source for cell in cells(path, "code")]
        assert [cell.metadata.get("cellView") for cell in code[:2]] == ["form", None], "the set-up is folded"
        captions = [c.source for b, c in pairwise(plain) if b.cell_type == "code" and "plt.show()" in b.source]
        assert captions
        assert all(re.match(r"\*\*Fig\. \d+\.\*\* ", caption) for caption in captions)

    @each_chapter
    def test_fold_every_solution(self, path):
        plain = text(PLAIN / path.name)
        numbers = re.findall(r"^\*\*Exercise (\d+)\b", plain, flags=re.M)
        assert len(numbers) == text(path).count(":::{exercise}")
        assert re.findall(r"<details>\n<summary>Solution to Exercise (\d+)", plain) == numbers
        assert plain.count("</details>") == len(numbers)

    @each_chapter
    def test_lead_to_cells_and_pages_that_are_there(self, path):
        notebook = read(PLAIN / path.name)
        pages = {f"{CONFIG['html']['baseurl']}/book/{page.stem}.html" for page in (ROOT / "book").iterdir()}
        pages.add(f"{CONFIG['html']['baseurl']}/index.html")
        names = {cell.id for cell in notebook.cells}
        links = re.findall(
            r"\]\(((?:http|#|\.|/)[^)\s]*)\)", re.sub(r"```.*?```", "", text(PLAIN / path.name), flags=re.S)
        )
        assert links
        for link in links:
            if link.startswith("#"):
                assert link.removeprefix("#scrollTo=") in names
            elif link.startswith(CONFIG["html"]["baseurl"]):
                assert link.partition("#")[0] in pages
            else:
                assert link.startswith("https://")

    @each_chapter
    def test_say_what_they_are(self, path):
        plain = read(PLAIN / path.name)
        about = plain.cells[0].source
        trains = any(re.search(r"\bfit\(", cell.source) for cell in cells(path, "code"))
        assert trains <= ("GPU is used" in about) == (plain.metadata.get("accelerator") == "GPU")
        assert f"]({CONFIG['html']['baseurl']}/book/{path.stem}.html)" in about
        times = [json.loads(record.read_text()) for record in (ROOT / "results").glob("chapters*.json")]
        assert about.count("All cells took") == sum(path.stem in record["seconds"] for record in times)

    @pytest.mark.parametrize(("seconds", "words"), [(44.6, "45 seconds"), (170.0, "3 minutes"), (None, "")])
    def test_say_how_long_they_take_where_it_was_measured(self, seconds, words, tmp_path):
        (tmp_path / "results").mkdir()
        figures = {"settings": {"threads": 1, "seed": 0}, "seconds": {} if seconds is None else {"a": seconds}}
        write_record(tmp_path / "results" / "chapters.json", "python -m benchmarks.chapters", figures)
        builder = ColabBuilder.__new__(ColabBuilder)
        builder.srcdir = tmp_path
        builder.config = SimpleNamespace(html_title="A book", html_baseurl="https://example.org")
        about = builder._about("https://example.org/book/a.html", trains=False)
        assert f"All cells took {words} on one thread of " in about if words else "took" not in about

    def test_are_small(self):
        assert sum(path.stat().st_size for path in PLAIN.iterdir()) < 8_000_000  # pictures with twice the dots

    @each_chapter
    def test_show_outputs_but_no_pages_of_html(self, path):
        outputs = [output for cell in cells(PLAIN / path.name, "code") for output in cell.outputs]
        assert any("image/png" in output.get("data", {}) for output in outputs)
        assert {kind for output in outputs for kind in output.get("data", {})} <= {"image/png", "text/plain"}


class TestSetupCell:
    @each_chapter
    def test_is_the_same_in_every_chapter(self, path):
        first, *others = cells(path, "code")
        expected = setup_cell(URL, "\n".join(cell.source for cell in others))
        assert first.source == expected, "run `make notebooks`"

    def test_the_command_writes_it(self, tmp_path, monkeypatch):
        (tmp_path / "_config.yml").write_text("repository:\n  url: https://example.org/other\n")
        code = ["old", "x = 1", "glue('x', x)"]
        for name, sources in {"with": code, "without": code[:2]}.items():
            notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
            nbformat.write(notebook, tmp_path / f"{name}.ipynb")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["setup_cell", "with.ipynb", "without.ipynb"])
        main()
        first, *others = [cell.source for cell in cells(tmp_path / "with.ipynb", "code")]
        assert "https://example.org/other" in first
        assert "import glue" in first
        assert others == code[1:]
        assert "glue" not in cells(tmp_path / "without.ipynb", "code")[0].source

    def test_numbers_go_to_the_book_where_it_is_built(self, monkeypatch):
        put = []
        monkeypatch.setattr("myst_nb.glue", lambda *arguments, **options: put.append((arguments, options)))
        glue("a", 1.5, display=False)
        monkeypatch.setattr("gmlvm_book.numbers.find_spec", lambda name: None)
        glue("b", 2.5)
        assert put == [(("a", 1.5), {"display": False})]


def cell_of(chapter):
    return cells(PLAIN / chapter.name, "code")[0].source


# What a chapter needs after its set-up: the library, not a folder of its name; another package; the results.
LOOK = """
import umap
print(find_spec("gmlvm").origin, find_spec("gmlvm_book").origin, Path("../results/collapse.json").exists())"""
READY = re.compile(r"\S+/gmlvm/__init__.py \S+/gmlvm_book/__init__.py True")


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git, to stand in for the repository")
class TestRuntime:
    """A rehearsal of Colab without the network: its packages, an empty working folder, restarts in between."""

    @pytest.fixture
    def repository(self, tmp_path):
        """What there is to clone: this working tree, in a commit of its own."""
        git = ["git", f"--git-dir={tmp_path / 'repository'}", f"--work-tree={ROOT}"]
        git += ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "The working tree"]):
            subprocess.run([*git, *command], check=True)
        return tmp_path / "repository"

    @pytest.fixture
    def umap(self, runtime, tmp_path):
        """A wheel that stands in for umap-learn, which would be long to install."""
        path, info = tmp_path / "wheels" / "umap_learn-1.0-py3-none-any.whl", "umap_learn-1.0.dist-info"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("umap/__init__.py", "")
            file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: umap-learn\nVersion: 1.0\n")
            file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            file.writestr(f"{info}/RECORD", "")
        return path

    @pytest.fixture
    def runtime(self, tmp_path):
        """Runs cells in a new process, as after a restart, with the repository and the wheels that there are."""
        packages, content, python = (tmp_path / name for name in ("packages", "content", "python"))
        for folder in (packages, content, tmp_path / "wheels"):
            folder.mkdir()
        # All that is installed here, without the library, what builds the book, and umap.
        absent = re.compile(r"gmlvm|__editable__|myst_nb|jupyter_book|umap", re.IGNORECASE)
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if not absent.match(entry.name):
                (packages / entry.name).symlink_to(entry)
        venv.create(python, with_pip=False)
        (site,) = python.glob("lib/python*/site-packages")
        (site / "colab.pth").write_text(f"{packages}\n")
        own = ("PYTHON", "PIP_", "GIT_")
        settings = {name: value for name, value in os.environ.items() if not name.startswith(own)} | {
            "HOME": str(tmp_path),
            "MPLBACKEND": "agg",
            "PYTHONPATH": str(content),  # Colab looks there from every folder
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{tmp_path / 'repository'}.insteadOf",
            "GIT_CONFIG_VALUE_0": URL,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(tmp_path / "wheels"),
            "PIP_NO_BUILD_ISOLATION": "0",
        }

        def run(*sources):
            notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
            nbformat.write(notebook, tmp_path / "notebook.ipynb")
            command = [python / "bin" / "python", "-m", "IPython", "--colors=NoColor", tmp_path / "notebook.ipynb"]
            done = subprocess.run(command, cwd=content, env=settings, capture_output=True, text=True)
            return (done.stdout + done.stderr).strip()

        run.content, run.packages = content, packages
        return run

    def test_runs_chapters(self, runtime, repository, umap):
        # Only the library is missing, of which there is a clone that isn't installed; then only the other package.
        subprocess.run(["git", "clone", "-q", f"file://{repository}", runtime.content / "gmlvm"], check=True)
        zipfile.ZipFile(umap).extractall(runtime.packages)
        assert READY.fullmatch(runtime(cell_of(CHAPTERS[0]), LOOK))
        for part in runtime.packages.glob("umap*"):
            shutil.rmtree(part)
        for cell in {cell_of(chapter) for chapter in CHAPTERS}:
            assert READY.fullmatch(runtime(cell, LOOK)), cell
        output = runtime(*(cell.source for cell in cells(PLAIN / "mixtures.ipynb", "code")), "print('the end')")
        assert output.endswith("the end"), output

    def test_without_a_repository_stops_with_a_sentence(self, runtime):
        output = runtime(cell_of(CHAPTERS[0]), "print('the end')")
        assert "The book can't be set up: fatal: " in output
        assert "the end" not in output
        assert "Traceback" not in output

    def test_without_a_package_stops_with_a_sentence(self, runtime, repository):
        output = runtime(cell_of(CHAPTERS[0]), "print('the end')")
        assert "The book can't be set up: ERROR: " in output
        assert "umap-learn" in output
        assert "the end" not in output
        assert "Traceback" not in output
