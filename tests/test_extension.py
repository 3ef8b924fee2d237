"""What the book's own extension of Sphinx does to a page."""

import pytest
from docutils import nodes
from docutils.frontend import get_default_settings
from docutils.parsers.rst import Parser
from docutils.utils import new_document

from gmlvm_book.pages import describe, head_cells, keep_icons, keep_percents

GLASS = '"magnifying-glass":[512,512,[128269,"search"],"f002","M1 2z"],'
ROCKET, SUN = 'rocket:[512,512,[],"f135",["M3","M4"]],', 'sun:[512,512,[9728],"f185","M5z"]'
ICONS = f'var e={{{GLASS}{ROCKET}{SUN}}};d("fas",e)'


def document(text):
    parsed = new_document("page", get_default_settings(Parser))
    Parser().parse(f"Title\n=====\n\n{text}", parsed)
    return parsed


def test_description_is_the_first_paragraph_without_an_equation():
    assert describe(document("With :math:`k`.\n\n* In a list.\n\nOf two\nlines.")) == "Of two lines."
    assert describe(document("* In a list.")) == ""


def test_long_descriptions_end_between_words():
    text = describe(document("word " * 60))
    assert len(text) <= 200
    assert text == " ".join(["word"] * 39 + ["…"])


def test_a_percent_sign_stays_beside_its_number_but_not_in_code():
    page = document("Of 5 % or *7* % take ``n % 5``.\n\n::\n\n    n % 10")
    keep_percents(page)
    assert page[0][1].astext() == "Of 5\xa0% or 7\xa0% take n % 5."
    assert page[0][2].astext() == "n % 10"


def test_cells_of_a_table_in_blocks_say_what_their_column_is_and_others_do_not():
    plain = "========  ========\nwhat      why\n========  ========\none       two\n========  ========\n\n"
    page = document(plain + plain)
    tables = [*page.findall(nodes.table)]
    tables[1]["classes"].append("in-blocks")
    head_cells(page)
    cells = [[entry.astext() for entry in table.findall(nodes.entry)] for table in tables]
    assert cells == [["what", "why", "one", "two"], ["what", "why", "one", "why\n\ntwo"]]
    (name,) = page.findall(nodes.inline)
    assert name["classes"] == ["cell-head"]


def test_icons_that_are_used_are_kept_by_any_of_their_names():
    assert keep_icons(ICONS, {"search", "sun", "lg"}) == f'var e={{{GLASS}{SUN}}};d("fas",e)'
    assert keep_icons(ICONS, {"rocket"}) == f'var e={{{ROCKET}}};d("fas",e)'


def test_a_script_without_icons_is_an_error():
    with pytest.raises(ValueError, match=r"some of the icons \['rocket'\], got none"):
        keep_icons("var e={}", {"rocket"})
