"""What the built pages need beyond the theme: an extension of Sphinx.

Equations by KaTeX, from ``assets/katex``; only the icons that are used; a description and a preview picture of each
page; ids that occur once; no line that ends before a %; tables that a phone shows in blocks; links to PyTorch and
NumPy; links back from source code that lead somewhere; references that a screen reader can read.
"""

from __future__ import annotations

import re
from collections import Counter
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from myst_parser.sphinx_ext.mathjax import html_visit_displaymath
from sphinx.ext.mathjax import html_visit_math

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

# What docstrings and chapters name of other projects, and where it is explained. Sphinx would ask the network for that.
_ELSEWHERE = {
    "torch.Tensor": "https://docs.pytorch.org/docs/stable/tensors.html#torch.Tensor",
    "numpy.ndarray": "https://numpy.org/doc/stable/reference/generated/numpy.ndarray.html",
    "numpy.dtype": "https://numpy.org/doc/stable/reference/generated/numpy.dtype.html",
    "numpy.float64": "https://numpy.org/doc/stable/reference/arrays.scalars.html#numpy.float64",
}
# Longer descriptions are cut by search engines and previews.
_DESCRIPTION = 200
# One icon of Font Awesome as its script holds it: name, width, height, other names, code, paths.
_ICON = re.compile(r'"?(?P<name>[A-Za-z0-9-]+)"?:\[\d+,\d+,(?P<others>\[[^\]]*\]),"[^"]*",(?:"[^"]*"|\[[^\]]*\])\],?')
_BACK = re.compile(r'id="(?P<name>[\w.]+)">\s*<a class="viewcode-back" href="(?P<page>[^"#]*)#[^"]*">')


def describe(document: nodes.document) -> str:
    """A page in a sentence or two: its first paragraph without equations, cut between words.

    Args:
        document: The page, as Sphinx resolved it.

    Returns:
        The text; empty if there is no such paragraph.
    """
    for paragraph in document.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section) and not any(paragraph.findall(nodes.math)):
            text = " ".join(paragraph.astext().split())
            return text if len(text) <= _DESCRIPTION else text[: _DESCRIPTION - 1].rsplit(" ", 1)[0] + " …"
    return ""


def keep_percents(document: nodes.document) -> None:
    """No line ends between a number and its %: the number is often a glued one, a node of its own.

    Args:
        document: The page, changed in place; code stays as it is.
    """
    for text in [*document.findall(nodes.Text)]:
        if " %" in text and not isinstance(text.parent, nodes.literal | nodes.literal_block):
            text.parent.replace(text, nodes.Text(text.replace(" %", "\N{NO-BREAK SPACE}%")))


def head_cells(document: nodes.document) -> None:
    """In tables of class ``in-blocks``, whose rows a phone shows as blocks, each cell says what its column is.

    Args:
        document: The page, changed in place.
    """
    for table in document.findall(nodes.table):
        if "in-blocks" in table["classes"]:
            heads = [entry.astext() for head in table.findall(nodes.thead) for entry in head.findall(nodes.entry)]
            for row in (row for body in table.findall(nodes.tbody) for row in body.findall(nodes.row)):
                for head, entry in zip(heads[1:], row.children[1:], strict=True):
                    entry.insert(0, nodes.inline("", head, classes=["cell-head"]))


def keep_icons(script: str, used: set[str]) -> str:
    """The script of Font Awesome with the icons that are used, and no others.

    Args:
        script: The whole script, minified.
        used: Names of icons.

    Raises:
        ValueError: If the script has none of the icons: it is not written as this function expects.
    """
    found: set[str] = set()

    def keep(icon: re.Match[str]) -> str:
        names = {icon["name"], *re.findall(r'"([^"]+)"', icon["others"])} & used
        found.update(names)
        return icon[0] if names else ""

    smaller = _ICON.sub(keep, script)
    if not found:
        raise ValueError(f"the script of Font Awesome must have some of the icons {sorted(used)}, got none of them")
    return smaller


def _elsewhere(
    app: Sphinx, env: BuildEnvironment, node: nodes.Element, content: nodes.Element
) -> nodes.reference | None:
    """A link to what another project explains."""
    address = _ELSEWHERE.get(node["reftarget"])
    return nodes.reference("", "", content, refuri=address, internal=False) if address else None


def _unique_ids(app: Sphinx, document: nodes.document, docname: str) -> None:
    """Ids of a page, each once: exercises, solutions and proofs have theirs from a fixed name, numbered here."""
    seen: Counter[str] = Counter()
    for node in document.findall(nodes.Element):
        seen.update(node["ids"])
        node["ids"] = [f"{name}-{seen[name]}" if seen[name] > 1 else name for name in node["ids"]]


def _in_blocks(app: Sphinx, document: nodes.document, docname: str) -> None:
    if app.builder.format == "html":
        head_cells(document)


def _page(app: Sphinx, pagename: str, template: str, context: dict[str, Any], document: nodes.document | None) -> None:
    """What is wrong or missing in a page, just before it is written."""
    # Sphinx doubles scripts without a file that an extension adds late: one has no name, the other an empty one.
    context["script_files"][:] = [script for script in context["script_files"] if script.filename is not None]
    if pagename == app.config.root_doc:
        # The book's title is the page's own, and stands once in the browser's tab.
        context["theme_logo"] = {**context.get("theme_logo", {}), "text": context["docstitle"]}
        context["docstitle"] = ""
    context["metatags"] = context.get("metatags", "") + _metatags(app, context, document)
    body = context.get("body", "")
    # docutils gives roles that ARIA no longer has, or not here.
    body = body.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    context["body"] = body.replace(' role="doc-biblioentry"', "")
    if pagename.startswith("_modules/"):
        context["body"] = _link_back(app, context["title"], context["body"])


def _link_back(app: Sphinx, module: str, body: str) -> str:
    """Source code with links to where objects are documented: under the name of their module, or a package above."""
    parts = module.split(".")
    places = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    objects = app.env.get_domain("py").objects  # type: ignore[attr-defined]

    def back(link: re.Match[str]) -> str:
        names = [f"{place}.{link['name']}" for place in places]
        place = next(objects[name].node_id for name in names if name in objects)
        return f'id="{link["name"]}"><a class="viewcode-back" href="{link["page"]}#{place}">'

    return _BACK.sub(back, body)


def _metatags(app: Sphinx, context: dict[str, Any], document: nodes.document | None) -> str:
    """Description and preview, for search engines and for whoever is sent a link."""
    title = re.sub("<[^>]*>", "", context.get("title", ""))
    tags = {"og:type": "article", "og:title": title, "og:site_name": app.config.html_title}
    description = describe(document) if document else ""
    if description:
        tags["og:description"] = description
    if app.config.html_baseurl:
        tags["og:image"] = f"{app.config.html_baseurl.rstrip('/')}/_static/samples.png"
    lines = [f'<meta property="{name}" content="{escape(value)}" />' for name, value in tags.items()]
    if description:
        lines.append(f'<meta name="description" content="{escape(description)}" />')
    return "\n".join(["", *lines])


def _icons(app: Sphinx, exception: Exception | None) -> None:
    """Leave out of Font Awesome's script whatever no page shows: 0.1 MB instead of 1.5."""
    if exception or app.builder.format != "html":
        return
    static = Path(app.outdir, "_static")
    scripts = [*static.glob("scripts/fontawesome.js"), *static.glob("vendor/fontawesome/*/js/all.min.js")]
    texts = [*Path(app.outdir).rglob("*.html"), *static.glob("scripts/*theme.js"), *static.glob("*.js")]
    used = {name for path in texts for name in re.findall(r"\bfa-([a-z0-9-]+)", path.read_text(encoding="utf-8"))}
    for script in scripts:
        script.write_text(keep_icons(script.read_text(encoding="utf-8"), used), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_html_math_renderer("katex", (html_visit_math, None), (html_visit_displaymath, None))
    app.add_css_file("katex/katex.min.css")
    for script in ("katex.min.js", "auto-render.min.js", "render.js"):
        app.add_js_file(f"katex/{script}", loading_method="defer")
    app.connect("missing-reference", _elsewhere)
    app.connect("doctree-resolved", _unique_ids)
    app.connect("doctree-resolved", lambda app, document, docname: keep_percents(document))
    app.connect("doctree-resolved", _in_blocks)
    app.connect("html-page-context", _page)
    app.connect("build-finished", _icons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
