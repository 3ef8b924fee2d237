"""The chapters for Colab: an extension of Sphinx, whose builder ``colab`` writes plain notebooks (``make colab``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from docutils import nodes
from sphinx.builders import Builder
from sphinx.domains.std import StandardDomain

from gmlvm_book.plain import Markdown
from gmlvm_book.records import read_record

if TYPE_CHECKING:
    from sphinx.application import Sphinx


class ColabBuilder(Builder):
    """Writes every page that is a notebook again: the text as Sphinx resolved it, the code as it is, small outputs."""

    name = format = "colab"
    epilog = "The plain notebooks are in %(outdir)s."
    supported_image_types = ["image/svg+xml", "image/png", "image/jpeg", "image/gif"]  # noqa: RUF012

    def get_outdated_docs(self) -> set[str]:
        """All pages: any may name another's numbers."""
        return self.env.found_docs

    def get_target_uri(self, docname: str, typ: str | None = None) -> str:
        """The address of a page of the book."""
        return f"{self.config.html_baseurl}/{docname}.html"

    def get_relative_uri(self, from_: str, to: str, typ: str | None = None) -> str:
        """The same: no page of the book is near Colab."""
        return self.get_target_uri(to)

    def prepare_writing(self, docnames: set[str]) -> None:
        """Nothing is shared by the chapters."""

    def write_doc(self, docname: str, doctree: nodes.document) -> None:
        """Write the notebook of a page, if it is one."""
        source = Path(self.env.doc2path(docname))
        if source.suffix != ".ipynb":
            return
        path = Path(self.outdir, f"{docname}.ipynb")
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(self._notebook(docname, doctree, nbformat.read(source, as_version=4)), path)

    def _notebook(self, docname: str, doctree: nodes.document, source: nbformat.NotebookNode) -> nbformat.NotebookNode:
        cells = {f"cell-{index:02}": cell for index, cell in enumerate(_cells(doctree))}
        places = {id: name for name, cell in cells.items() for block in cell for id in _ids(block)}
        page = self.get_target_uri(docname)

        def link(node: nodes.Element) -> str:
            address, _, place = node.get("refuri", page).partition("#")
            place = node.get("refid", place)
            # Within a notebook Colab follows links to cells alone.
            return f"#scrollTo={places[place]}" if address == page and place in places else str(node["refuri"])

        def picture(node: nodes.Element) -> str:
            return f"{self.config.html_baseurl}/_images/{Path(node['uri']).name}"

        markdown = Markdown(lambda node: self._label(docname, node), link, picture)
        about = nbformat.v4.new_markdown_cell(self._about(page, "accelerator" in source.metadata), id="about")
        plain: nbformat.NotebookNode = nbformat.v4.new_notebook(metadata=source.metadata, cells=[about])
        for name, (first, *others) in cells.items():
            if _is_code(first):
                cell = source.cells[first["cell_index"]]
                outputs = [output for output in cell.outputs if _is_shown(output)]
                folded = "hide-input" in cell.metadata.get("tags", [])
                cell.update(id=name, metadata={"cellView": "form"} if folded else {}, outputs=outputs)
            else:
                cell = nbformat.v4.new_markdown_cell(markdown.blocks([first, *others]), id=name)
            plain.cells.append(cell)
        return plain

    def _about(self, page: str, trains: bool) -> str:
        """What a notebook begins with: what it is, and how long it takes."""
        sentences = [
            f"This is a chapter of [{self.config.html_title}]({self.config.html_baseurl}/index.html), made for Colab; "
            f"[in the book]({page}) it can be read without running it.",
            "The numbers in the text, and the outputs until you run the cells, are those of the book's own run.",
            "The first code cell fetches the book and installs it.",
        ]
        if trains:
            sentences.append("A GPU is used if the runtime has one.")
        for path in sorted(Path(self.srcdir, "results").glob("chapters*.json")):
            record = read_record(path)
            seconds = record["seconds"].get(Path(page).stem)
            if seconds is not None:
                threads = record["settings"]["threads"]
                counted = "one thread" if threads == 1 else f"{threads} threads"
                sentences.append(f"All cells took {_duration(seconds)} on {counted} of {record['machine']}.")
        return "> " + " ".join(sentences)

    def _label(self, docname: str, node: nodes.Element) -> str:
        standard: StandardDomain = self.env.domains["std"]
        formula = isinstance(node, nodes.math_block)
        kind = "displaymath" if formula else standard.get_enumerable_node_type(node)
        numbers = self.env.toc_fignumbers.get(docname, {}).get(node.get("countertype", kind), {})
        number = ".".join(str(part) for id in node["ids"] for part in numbers.get(id, ()))
        if formula or not number:
            return number
        name: str = self.config.numfig_format[kind] % number
        return name[0].upper() + name[1:]


def _flat(node: nodes.Element, level: int = 0) -> Iterator[nodes.Element]:
    """The blocks of a page in their order; headings know their level."""
    for child in node.children:
        if isinstance(child, nodes.section):
            child[0]["level"], child[0]["ids"] = level + 1, child["ids"]
            yield from _flat(child, level + 1)
        else:
            yield child


def _cells(doctree: nodes.document) -> Iterator[list[nodes.Element]]:
    """What each cell of a notebook holds: code, the caption of what it shows, or text; a heading begins a cell."""
    text: list[nodes.Element] = []
    for block in _flat(doctree):
        if text and (_is_code(block) or isinstance(block, nodes.title)):
            yield text
            text = []
        if _is_code(block):
            yield [block]
            for caption in block.findall(nodes.caption):
                caption["ids"] = caption.parent["ids"]
                yield [caption]
        elif not isinstance(block, (nodes.Invisible, nodes.raw)):
            text.append(block)
    if text:
        yield text


def _is_code(block: nodes.Element) -> bool:
    return bool(block.get("nb_element") == "cell_code")


def _ids(block: nodes.Element) -> Iterator[str]:
    for node in block.findall(nodes.Element):
        yield from node["ids"]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _is_shown(output: nbformat.NotebookNode) -> bool:
    """Whether an output is text or a picture: not a number for the text, not a page of HTML."""
    data = output.get("data", {})
    return "text/html" not in data and not any(kind.startswith("application/") for kind in data)


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the builder."""
    app.add_builder(ColabBuilder)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
