"""What the project says of itself is true."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import gmlvm
from gmlvm_book.records import read_record

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
MODULES = (
    "datasets", "divergences", "expectations", "metrics", "networks", "plots", "interactive", "smoothness",
    "closed_form", "records",
)  # fmt: skip
# Each module imports only from those to its left.
LAYERS = (
    "validation", "prior", "networks", "storage", "model", "divergences", "expectations", "smoothness", "closed_form",
    "objectives", "datasets", "checkpoints", "training", "metrics", "records",
)  # fmt: skip


def public_objects():
    """Every public function, class and method, by name."""
    found = {name: getattr(gmlvm, name) for name in gmlvm.__all__}
    for module in MODULES:
        for name, value in vars(importlib.import_module(f"gmlvm.{module}")).items():
            if not name.startswith("_") and getattr(value, "__module__", "") == f"gmlvm.{module}":
                found[f"{module}.{name}"] = value
    methods = {}
    for name, value in found.items():
        if inspect.isclass(value):
            for member, function in vars(value).items():
                if not member.startswith("_") and inspect.isfunction(inspect.unwrap(getattr(value, member))):
                    methods[f"{name}.{member}"] = function
    return {name: value for name, value in found.items() if not inspect.ismodule(value)} | methods


OBJECTS = public_objects()


def plain(value):
    """What a classmethod or staticmethod wraps; anything else as it is."""
    return value.__func__ if isinstance(value, (classmethod, staticmethod)) else value


def doc(value):
    return inspect.getdoc(plain(value)) or ""


class TestDocstrings:
    def test_finds_the_public_names(self):
        assert {"fit", "GMLVM.sample", "WAE", "divergences.squared_mmd", "plots.image_grid"} <= set(OBJECTS)

    @pytest.mark.parametrize("name", sorted(OBJECTS))
    def test_documents_every_argument(self, name):
        value = OBJECTS[name]
        text = doc(value)
        assert text, f"{name} has no docstring"
        if name.endswith((".forward", ".select")):
            return  # described where it is abstract, or by its class
        signature = inspect.signature(plain(value))
        for parameter in signature.parameters.values():
            if parameter.name in ("self", "cls"):
                continue
            assert re.search(rf"^\s*\**{parameter.name}: ", text, re.M), f"{name} does not describe {parameter.name}"

    @pytest.mark.parametrize("name", sorted(n for n in OBJECTS if "." not in n or n.split(".")[0] in MODULES))
    def test_names_its_source(self, name):
        assert "Source: " in doc(OBJECTS[name]) or name.count(".") == 2, f"{name} names no source"

    def test_chapters_that_docstrings_name_exist(self):
        titles = set()
        for path in (ROOT / "book").glob("*.ipynb"):
            first = json.loads(path.read_text())["cells"][0]["source"]
            titles.add("".join(first).splitlines()[0].removeprefix("# "))
        named = {title for text in map(doc, OBJECTS.values()) for title in re.findall(r'chapter\s+"([^"]+)"', text)}
        assert named
        assert named <= titles


def test_modules_import_only_what_stands_before_them():
    for index, module in enumerate(LAYERS):
        source = (ROOT / "gmlvm" / f"{module}.py").read_text()
        imported = set(re.findall(r"^from gmlvm\.(\w+) import", source, re.M))
        imported |= set(re.findall(r"^from gmlvm import (\w+)", source, re.M))
        assert imported <= set(LAYERS[:index]), f"{module} imports {imported - set(LAYERS[:index])}"
    assert "gmlvm" not in re.findall(r"^(?:from|import) (\w+)", (ROOT / "gmlvm/plots.py").read_text(), re.M)


def test_environment_names_the_packages_own_extras():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == [f"-e .[{','.join(extras)}]"]


def test_version_is_the_same_everywhere():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == gmlvm.__version__
    assert f"## {gmlvm.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_repository_url_is_the_same_everywhere():
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"] == url
    for path in ("README.md", "book/intro.md", "CITATION.cff"):
        assert url in (ROOT / path).read_text(), path


def test_readme_names_only_make_targets_that_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    for path in ("README.md", "CONTRIBUTING.md", "book/intro.md"):
        named = set(re.findall(r"(?:`|\$ )make (\w+)", (ROOT / path).read_text()))
        assert named <= targets, path


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json")), ids=lambda path: path.stem)
def test_result_files_say_how_they_were_made(path):
    record = read_record(path)
    assert record["command"].startswith(("python -m experiments.", "python -m benchmarks "))
    assert f"results/{path.name}" in record["command"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert record["machine"]
    assert {"python", "gmlvm", "torch", "numpy"} <= set(record["versions"])
    assert all("seed" in run for run in record["runs"]) if "runs" in record else "seed" in record["settings"]


def test_the_package_imports_without_the_extras():
    # Colab installs the library alone: nothing in it may need the book's or the tests' packages.
    code = "import sys; sys.modules.update(dict.fromkeys(['pytest', 'umap', 'myst_nb', 'yaml'])); import gmlvm"
    subprocess.run([sys.executable, "-c", code], check=True)
