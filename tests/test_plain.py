"""Pages as plain Markdown: what a reader of Markdown makes of it is what the page said."""

import re
from html import unescape

import pytest
from docutils import nodes
from docutils.core import publish_doctree
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from gmlvm_book.plain import Markdown

READER = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin)
WRITER = Markdown(
    label=lambda node: {"fig": "Fig. 3", "eq": "7"}.get("".join(node["ids"]), ""),
    link=lambda node: node["refuri"],
    picture=lambda node: f"https://book/{node['uri']}",
)


def page(text):
    """A page, from reStructuredText."""
    doctree = publish_doctree(text, settings_overrides={"report_level": 5})
    for message in list(doctree.findall(nodes.system_message)):
        message.parent.remove(message)
    return doctree


def written(text):
    """The blocks of a page as Markdown."""
    return WRITER.blocks(page(text).children)


def words(text):
    return " ".join(text.split())


def shown(markdown):
    """What a reader of Markdown sees, without markup."""
    return words(unescape(re.sub(r"<[^>]+>", "", READER.render(markdown))))


@pytest.mark.parametrize(
    "text",
    [
        "Stars \\* and 2 * 3 * 4, low_lines and \\_edges\\_ and \\__both\\__, a ~~line~~, 1 < 2 <b>, \\`ticks\\`",
        "$5 and $6, a | b",
        "brackets [1](2) and [3], back\\\\slash, snake_case_name, q_D",
        "*emphasis*, **strong** and ``code * with _ marks``",
        "- one\n- two *three*\n\n  more of two\n- four",
        "3. three\n4. four\n\n   - a\n   - b",
        "para\n\n  quoted\n\n  twice",
        "== ==\na  b\n== ==\n1  *2*\n3  4\n== ==",
    ],
)
def test_reads_as_it_was(text):
    assert shown(written(text)) == words(page(text).astext())


@pytest.mark.parametrize("text", ["1. no list", "2) nor this", "- or this", "# no heading", "> no quotation", "+ 3"])
def test_a_paragraph_stays_one(text):
    assert READER.render(WRITER.write(nodes.paragraph(text=text))) == f"<p>{text.replace('>', '&gt;')}</p>\n"


def test_markup_stays_markup():
    html = READER.render(written("*a* **b** ``c`` `d <https://x/y#z>`__\n\n- e\n\n  f\n- g\n\n2. h"))
    for part in ("<em>a</em>", "<strong>b</strong>", "<code>c</code>", '<a href="https://x/y#z">d</a>'):
        assert part in html
    assert html.count("<li>") == 3
    assert '<ol start="2">' in html


def test_a_table_has_its_head_and_its_sides():
    table = page("== ==\na  b\n== ==\n1  2\n== ==")
    html = READER.render(WRITER.blocks(table.children))
    assert html.count("<th>") == html.count("<td>") == 2
    for entry in list(table.findall(nodes.entry))[1::2]:
        entry["classes"] = ["text-right"]
    assert 'style="text-align:right">2</td>' in READER.render(WRITER.blocks(table.children))


def test_formulas_keep_their_tex_and_number():
    block = nodes.math_block(text="\na_b \\\\ c\n", ids=["eq"])
    assert WRITER.write(block) == "$$\na_b \\\\ c \\tag{7}\n$$"
    assert WRITER.write(nodes.math_block(text="x")) == "$$\nx\n$$"
    assert WRITER.write(nodes.math(text="a_b * c")) == "$a_b * c$"


def test_code_keeps_its_language_and_lines():
    block = nodes.literal_block(text="a = 1\n\nb = '*'\n", language="python")
    assert WRITER.write(block) == "```python\na = 1\n\nb = '*'\n```"


def test_figures_are_linked_and_numbered():
    figure = nodes.figure("", nodes.image(uri="a.png", alt="a cat"), nodes.caption(text="See it."), ids=["fig"])
    assert WRITER.write(figure) == "![a cat](https://book/a.png)\n\n**Fig. 3.** See it."


def test_boxes_are_named_and_folded_where_the_book_folds_them():
    box = nodes.admonition("", nodes.title(text="Why"), nodes.paragraph(text="So."))
    assert WRITER.write(box) == "**Why.**\n\nSo."
    box["classes"] = ["dropdown"]
    assert WRITER.write(box) == "<details>\n<summary>Why</summary>\n\nSo.\n\n</details>"
    assert WRITER.write(nodes.note("", nodes.paragraph(text="So."))) == "**Note.**\n\nSo."


def test_what_no_reader_sees_is_left_out():
    assert written("a\n\n.. comment\n\n.. _target:\n\nb") == "a\n\nb"
    assert WRITER.write(nodes.raw(text="<script>", format="html")) == ""
