"""All pages in one, for paper."""

import pytest
from bs4 import BeautifulSoup

from gmlvm_book.pdf import find_browser, single_page, write_pdf

PAGE = """<html><head><title>t</title>{next}</head><body><div id="jb-print-docs-body">Contents</div>
<article class="bd-article">{body}</article></body></html>"""
FIRST = """<h1 id="title">One</h1><a href="#title">here</a><a href="two.html">there</a>
<a href="two.html#title">below</a>
<a href="../_images/x.png"><img src="../_images/x.png"></a><a href="https://arxiv.org/abs/1806.04465">out</a>"""
SECOND = (
    """<h1 id="title">Two</h1><a href="one.html#title">back</a><div class="output text_html"><p id="map"></p></div>"""
)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "index.html").write_text('<meta http-equiv="Refresh" content="0; url=book/one.html" />')
    after = '<link rel="next" href="two.html">'
    (tmp_path / "book" / "one.html").write_text(PAGE.format(next=after, body=FIRST))
    (tmp_path / "book" / "two.html").write_text(PAGE.format(next="", body=SECOND))
    return tmp_path


def test_pages_stand_in_their_order_and_link_to_each_other(root):
    soup = BeautifulSoup(single_page(root), "html.parser")
    assert [heading.text for heading in soup.find_all("h1")] == ["One", "Two"]
    links = {link.text: link["href"] for link in soup.find_all("a")}
    assert links == {
        "here": "#one.html-title",
        "there": "#two.html",
        "below": "#two.html-title",
        "back": "#one.html-title",
        "out": "https://arxiv.org/abs/1806.04465",
    }
    ids = {element["id"] for element in soup.find_all(id=True)}
    assert {link.removeprefix("#") for link in links.values() if link.startswith("#")} <= ids
    assert "map" in ids  # a script in an output looks for it
    assert "Contents" not in soup.text
    assert len(soup.find_all("img")) == 1


def test_no_book_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"built book, got .* without an index\.html"):
        single_page(tmp_path)


def test_is_printed_by_the_browser_that_is_there(root, browser):
    write_pdf(root, root / "book.pdf", find_browser())
    assert (root / "book.pdf").read_bytes().startswith(b"%PDF")
    assert not (root / "book" / "all-pages.html").exists()


def test_a_browser_that_prints_nothing_is_an_error(root):
    with pytest.raises(ValueError, match="printed nothing"):
        write_pdf(root, root / "book.pdf", "false")
