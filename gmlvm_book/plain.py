"""Pages of the book as plain Markdown, which any notebook shows: numbers, links and citations are those of the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import singledispatchmethod
from typing import Any

from docutils import nodes
from sphinx_proof.nodes import proof_node

# What Markdown would take for markup: a bracket only before another, a low line only at the edge of a word.
_MARKUP = re.compile(r"[\\`*$<|~]|(?<![^\W_])_|_(?![^\W_])|\](?=\()")
# What at its beginning would make a paragraph a heading, a quotation or a part of a list.
_OPENING = re.compile(r"^(\d*)([-#+>.)])(?=\s)")


class Markdown:
    """Writes the nodes of a page, references resolved, as Markdown.

    Args:
        label: The name and number of a node, such as ``"Theorem 1"`` or, for a formula, ``"1"``; empty if it has none.
        link: The address that a reference leads to.
        picture: The address of an image file.
    """

    def __init__(
        self,
        label: Callable[[nodes.Element], str],
        link: Callable[[nodes.Element], str],
        picture: Callable[[nodes.Element], str],
    ) -> None:
        self.label, self.link, self.picture = label, link, picture

    def blocks(self, children: Iterable[nodes.Node]) -> str:
        """Write paragraphs, lists, formulas and the like one below the other."""
        return "\n\n".join(filter(None, map(self.write, children)))

    def inline(self, node: nodes.Element) -> str:
        """Write what stands in one line."""
        return "".join(map(self.write, node.children))

    @singledispatchmethod
    def write(self, node: Any) -> str:
        """Write a node. One without a form of its own is what it holds."""
        if all(isinstance(child, (nodes.Inline, nodes.Text)) for child in node.children):
            return self.inline(node)
        return self.blocks(node.children)

    @write.register(nodes.Invisible)
    @write.register(nodes.raw)
    def _(self, node: nodes.Node) -> str:
        return ""

    @write.register
    def _(self, node: nodes.Text) -> str:
        return re.sub(r"\s*\n\s*", " ", _MARKUP.sub(r"\\\g<0>", node.astext()))

    @write.register
    def _(self, node: nodes.paragraph) -> str:
        return _OPENING.sub(r"\1\\\2", self.inline(node))

    @write.register
    def _(self, node: nodes.title) -> str:
        return f"{'#' * node['level']} {self.inline(node)}"

    @write.register
    def _(self, node: nodes.emphasis) -> str:
        return f"*{self.inline(node)}*"

    @write.register
    def _(self, node: nodes.strong) -> str:
        return f"**{self.inline(node)}**"

    @write.register
    def _(self, node: nodes.literal) -> str:
        return f"`{node.astext()}`"

    @write.register
    def _(self, node: nodes.math) -> str:
        return f"${node.astext()}$"

    @write.register
    def _(self, node: nodes.reference) -> str:
        return f"[{self.inline(node)}]({self.link(node)})"

    @write.register
    def _(self, node: nodes.image) -> str:
        return f"![{node.get('alt', '')}]({self.picture(node)})"

    @write.register
    def _(self, node: nodes.math_block) -> str:
        number = self.label(node)
        return "\n".join(("$$", node.astext().strip() + (f" \\tag{{{number}}}" if number else ""), "$$"))

    @write.register
    def _(self, node: nodes.literal_block) -> str:
        return "\n".join((f"```{node.get('language', '')}", node.astext().rstrip("\n"), "```"))

    @write.register
    def _(self, node: nodes.caption) -> str:
        return f"**{self.label(node.parent)}.** {self.inline(node)}"

    @write.register
    def _(self, node: nodes.block_quote) -> str:
        return "> " + self.blocks(node.children).replace("\n", "\n> ")

    @write.register(nodes.bullet_list)
    @write.register(nodes.enumerated_list)
    def _(self, node: nodes.Element) -> str:
        first = node.get("start", 1)
        items = []
        for number, item in enumerate(node.children, first):
            mark = "- " if isinstance(node, nodes.bullet_list) else f"{number}. "
            items.append(mark + self.blocks(item.children).replace("\n", "\n" + " " * len(mark)))
        return ("\n\n" if any(len(item.children) > 1 for item in node.children) else "\n").join(items)

    @write.register
    def _(self, node: nodes.table) -> str:
        head, *body = node.findall(nodes.row)
        rule = ["---:" if "text-right" in entry["classes"] else "---" for entry in head.children]
        rows = [[self.write(entry) for entry in row.children] for row in (head, *body)]
        return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))

    @write.register
    def _(self, node: proof_node) -> str:
        # Its one child is a box without a title.
        return self.blocks(node.children[0].children) + " ∎"

    @write.register
    def _(self, node: nodes.Admonition) -> str:
        title, *content = node.children
        if not isinstance(title, nodes.title):
            title, content = nodes.title(text=type(node).__name__.capitalize()), node.children
        name = f"{self.label(node)}{self.inline(title)}"
        if "dropdown" in node["classes"]:
            return f"<details>\n<summary>{title.astext()}</summary>\n\n{self.blocks(content)}\n\n</details>"
        return f"**{name}.**\n\n{self.blocks(content)}"
