"""What the project says of itself is true."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from torch.nn import Module

import gmlvm
from gmlvm_book.records import read_record

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
# Each module imports only from those to its left.
LAYERS = (
    "validation", "images", "identity", "kl", "prior", "full_prior", "posterior", "distributed", "networks",
    "architecture", "storage", "inference", "trial", "clusterer", "model", "weights", "kernels", "pieces", "mmd",
    "closed_form", "enumeration", "divergences", "transport", "vat", "consistency", "datasets", "batches", "objectives",
    "clustering", "ambient", "checkpoints", "history", "optimisation", "run", "training", "embedding", "merging",
    "start", "prior_fit", "metrics", "generation", "recipe", "likelihood", "assertions", "testing",
)  # fmt: skip
# What a reader may import from; the rest is behind the names of the package itself.
MODULES = (
    "images", "kl", "networks", "kernels", "mmd", "closed_form", "enumeration", "divergences", "transport", "vat",
    "datasets", "batches", "objectives", "metrics", "generation", "likelihood", "embedding", "merging", "testing",
    "weights", "plots",
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
        assert {"fit", "GMLVM.sample", "WAE", "mmd.squared_mmd", "plots.image_grid"} <= set(OBJECTS)

    @pytest.mark.parametrize("name", sorted(OBJECTS))
    def test_documents_every_argument(self, name):
        value = OBJECTS[name]
        text = doc(value)
        assert text, f"{name} has no docstring"
        if "; see :class:`" in text or name.endswith(".forward"):
            return  # described where it is abstract, or by its class
        if inspect.isclass(value) and "__init__" not in vars(value) and issubclass(value, Module):
            return  # an abstract part, which is made of nothing
        signature = inspect.signature(plain(value))
        for parameter in signature.parameters.values():
            if parameter.name in ("self", "cls"):
                continue
            assert re.search(rf"^\s*\**{parameter.name}: ", text, re.M), f"{name} does not describe {parameter.name}"

    @pytest.mark.parametrize("name", sorted(name for name, value in OBJECTS.items() if "Source:" in doc(value)))
    def test_names_a_source_that_says_something(self, name):
        source = doc(OBJECTS[name]).partition("Source:")[2]
        assert re.search(r'\(\d{4}\)|chapter\s+"|notation page|license|CC BY|scikit-learn|torchvision', source), source

    def test_no_source_is_a_phrase_that_stands_everywhere(self):
        sources = [" ".join(doc(value).partition("Source:")[2].split()) for value in set(OBJECTS.values())]
        assert max(Counter(filter(None, sources)).values()) <= 12

    def test_chapters_that_docstrings_name_exist(self):
        titles = set()
        for path in (ROOT / "book").glob("*.ipynb"):
            first = json.loads(path.read_text())["cells"][0]["source"]
            titles.add("".join(first).splitlines()[0].removeprefix("# "))
        named = {title for text in map(doc, OBJECTS.values()) for title in re.findall(r'chapter\s+"([^"]+)"', text)}
        assert named
        assert named <= titles


def sources(module):
    """The text of a module, or of all modules of a package."""
    path = ROOT / "gmlvm" / module
    files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return "\n".join(file.read_text() for file in files)


def imported(text):
    """The modules of the library that a text imports."""
    names = set(re.findall(r"^\s*from gmlvm\.(\w+)[\w.]* import", text, re.M))
    for line in re.findall(r"^\s*from gmlvm import (.+)$", text, re.M):
        names |= {name.split(" as ")[0].strip() for name in line.strip("()").split(",")}
    return names


def test_every_module_has_its_place():
    paths = (ROOT / "gmlvm").iterdir()
    modules = {path.stem for path in paths if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert modules - {"__init__"} == {*LAYERS, "plots"}


@pytest.mark.parametrize(("index", "module"), list(enumerate(LAYERS)))
def test_modules_import_only_what_stands_before_them(index, module):
    assert imported(sources(module)) - {module} <= set(LAYERS[:index])


def test_plots_know_nothing_of_models():
    assert not imported(sources("plots"))


def test_the_library_needs_none_of_the_books_own_tools():
    assert not any("gmlvm_book" in sources(module) for module in (*LAYERS, "plots"))


def test_environment_names_the_packages_own_extras():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-e .[book,test]"]
    assert {"book", "test"} <= set(extras)


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
    assert record["command"].startswith(("python -m experiments.", "python -m benchmarks ", "python -m benchmarks."))
    assert f"results/{path.name}" in record["command"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert record["machine"]
    assert {"python", "gmlvm", "torch", "numpy"} <= set(record["versions"])
    assert all("seed" in run for run in record["runs"]) if "runs" in record else "seed" in record["settings"]


def test_the_package_imports_without_the_extras():
    # Colab installs the library alone: nothing in it may need the book's or the tests' packages.
    code = "import sys; sys.modules.update(dict.fromkeys(['pytest', 'umap', 'myst_nb', 'yaml'])); import gmlvm"
    subprocess.run([sys.executable, "-c", code], check=True)
