"""The built book on paper: all pages in one, printed by a Chromium that is installed (``make pdf``).

``python -m gmlvm_book.pdf _build/html _build/book.pdf``.
"""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urljoin

from bs4 import BeautifulSoup, Tag

#: Names under which a Chromium is found.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str | None:
    """The path of an installed Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def single_page(root: Path) -> str:
    """All pages of the book as one, in their order; links between them lead to places on it.

    Args:
        root: The folder of the built book.

    Returns:
        HTML to be read from the folder of the first page.

    Raises:
        ValueError: If there is no book.
    """
    if not (root / "index.html").exists():
        raise ValueError(f"root must be the folder of a built book, got {root} without an index.html")
    soup = BeautifulSoup((root / "index.html").read_text(encoding="utf-8"), "html.parser")
    refresh = soup.find("meta", attrs={"http-equiv": "Refresh"})
    first = root / str(refresh["content"]).partition("url=")[2] if isinstance(refresh, Tag) else root / "index.html"
    pages: dict[str, BeautifulSoup] = {}
    path: Path | None = first
    while path is not None and path.name not in pages:
        page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        pages[path.name] = page
        after = page.find("link", rel="next")
        path = path.parent / str(after["href"]) if isinstance(after, Tag) else None
    whole = copy.copy(pages[first.name])
    articles = whole.new_tag("article", attrs={"class": "bd-article"})
    for name, page in pages.items():
        article = page.find("article", class_="bd-article")
        assert isinstance(article, Tag)
        _rename(article, name, set(pages))
        chapter = whole.new_tag("div", attrs={"class": "chapter", "id": name})
        chapter.extend(list(article.contents))
        articles.append(chapter)
    place = whole.find("article", class_="bd-article")
    assert isinstance(place, Tag)
    place.replace_with(articles)
    for contents in whole.select("#jb-print-docs-body"):
        contents.decompose()
    return str(whole)


def _rename(article: Tag, name: str, pages: set[str]) -> None:
    """Make a page's ids its own, and links to pages links to ids."""
    for element in article.find_all(id=True):
        if not element.find_parent(class_="text_html"):  # scripts in outputs look for their ids
            element["id"] = f"{name}-{element['id']}"
    for link in article.find_all("a", href=True):
        page, _, place = urljoin(name, str(link["href"])).partition("#")
        if page in pages:
            link["href"] = f"#{page}-{place}" if place else f"#{page}"
        elif "://" not in page:
            link.unwrap()  # to a picture or to source code


def write_pdf(root: Path, output: Path, browser: str) -> None:
    """Print the book.

    Args:
        root: The folder of the built book.
        output: The file to write.
        browser: The path of a Chromium.

    Raises:
        ValueError: If there is no book, or the browser printed nothing.
    """
    # Beside the first page, so that what it loads is found.
    page = root / "book" / "all-pages.html"
    try:
        page.write_text(single_page(root), encoding="utf-8")
        with tempfile.TemporaryDirectory() as profile:
            command = [browser, "--headless", "--disable-gpu", f"--user-data-dir={profile}"]
            if getattr(os, "geteuid", lambda: 1)() == 0:
                command.append("--no-sandbox")  # Chromium has none for root
            command += ["--virtual-time-budget=60000", "--no-pdf-header-footer", "--generate-pdf-document-outline"]
            done = subprocess.run(
                [*command, f"--print-to-pdf={output.resolve()}", page.resolve().as_uri()],
                capture_output=True,
                text=True,
                check=False,
            )
    finally:
        page.unlink(missing_ok=True)
    if done.returncode or not output.exists():
        raise ValueError(f"{browser} printed nothing: {done.stderr.strip()}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    browser = find_browser()
    if browser is None:
        sys.exit(f"A Chromium or Chrome is needed to print the book; none of {', '.join(BROWSERS)} is installed.")
    write_pdf(arguments.root, arguments.output, browser)
    print(f"The book is printed: {arguments.output.resolve()}")


if __name__ == "__main__":
    main()
