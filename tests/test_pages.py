"""Every page of the built book, as files and in a browser: what a reader meets on a screen, a phone, on paper, by ear.

The book is what ``make book`` left in ``_build``; ``make pages`` builds it first.
"""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

BOOK = Path(__file__).parents[1] / "_build" / "html"
PAGES = sorted(path.relative_to(BOOK).as_posix() for path in BOOK.rglob("*.html") if "_static" not in path.parts)
# Index, search and one page of source code stand for their kind.
READ = [page for page in PAGES if page.startswith("book/")] + ["genindex.html", "search.html", "_modules/gmlvm/kl.html"]
PHONE, SCREEN = {"width": 390, "height": 800}, {"width": 1400, "height": 900}
BYTES = 3_000_000

pytestmark = pytest.mark.skipif(not PAGES, reason="the book is not built: make book")


class Outline(HTMLParser):
    """Ids, links and metadata of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.meta = [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[name] for name in ("href", "src") if attrs.get(name)]
        if tag == "meta":
            self.meta[attrs.get("name") or attrs.get("property")] = attrs.get("content")


@pytest.fixture(scope="module")
def outlines():
    return {page: Outline((BOOK / page).read_text(encoding="utf-8")) for page in PAGES}


@pytest.mark.parametrize("name", PAGES)
class TestFile:
    def test_every_id_occurs_once(self, name, outlines):
        assert [id for id, count in Counter(outlines[name].ids).items() if count > 1] == []

    def test_every_link_leads_somewhere(self, name, outlines):
        dead = []
        for link in outlines[name].links:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (BOOK / name).parent / unquote(address.path) if address.path else BOOK / name
            page = target.resolve().relative_to(BOOK.resolve()).as_posix()
            known = outlines[page].ids if page in outlines else ()
            if not target.exists() or (address.fragment and unquote(address.fragment) not in known):
                dead.append(link)
        assert dead == []


@pytest.mark.parametrize("name", [page for page in READ if page.startswith("book/")])
def test_chapters_say_what_they_are(name, outlines):
    text = (BOOK / name).read_text(encoding="utf-8")
    (title,) = re.findall(r"<title>(.*?)</title>", text)
    assert len(set(title.split(" &#8212; "))) == len(title.split(" &#8212; "))
    assert 'rel="icon"' in text
    assert outlines[name].meta["og:title"]
    if name not in ("book/api.html", "book/references.html"):
        assert 40 < len(outlines[name].meta["description"]) <= 200


# In a browser.


@pytest.fixture(scope="module", params=READ)
def opened(browser, request):
    """A page, and what was noticed while it loaded."""
    context = browser.new_context(viewport=SCREEN, color_scheme="light")
    page = context.new_page()
    page.noticed, page.loaded = [], set()
    page.on("console", lambda m: page.noticed.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.noticed.append(str(error)))
    page.on("request", lambda request: page.loaded.add(request.url.partition("?")[0]))
    page.goto((BOOK / request.param).as_uri())
    page.wait_for_load_state("networkidle")
    page.evaluate("document.fonts.ready")
    yield page
    context.close()


def show(page, size, theme="light", media="screen"):
    page.set_viewport_size(size)
    page.emulate_media(color_scheme=theme, media=media)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_loads_without_an_error(opened):
    assert opened.noticed == []


def test_needs_nothing_from_outside_and_weighs_little(opened):
    assert {urlsplit(url).scheme for url in opened.loaded} <= {"file", "data"}
    files = [Path(unquote(urlsplit(url).path)) for url in opened.loaded if url.startswith("file:")]
    models = [path for path in files if path.parent.name == "touch"]  # whole networks, on the page to touch alone
    assert sum(path.stat().st_size for path in models) <= 4_000_000
    assert sum(path.stat().st_size for path in files if path not in models) <= BYTES


def test_equations_and_icons_are_drawn(opened):
    assert opened.locator(".katex-error").count() == 0
    assert opened.locator(".math:not(:has(.katex))").count() == 0
    # A line can end where a part of an equation does, and not at the bar of p(z | k); absolute values have two.
    parts = opened.locator(".katex-html > .base").all_text_contents()
    assert not [part for part in parts if part.strip().endswith("\u2223") and part.count("\u2223") % 2]
    assert opened.locator("i[class*=fa-]").count() == 0  # Font Awesome replaced them all
    # A question mark stands for an icon that its script doesn't have.
    assert opened.locator("svg[class*=fa-]:has(g)").count() == 0


# Only the first of each kind of what a page has hundreds of: colours of code, entries of the library.
THIN = """() => {
  const seen = new Set(), first = kind => !seen.has(kind) && seen.add(kind);
  const all = kind => document.querySelectorAll(kind);
  for (const token of all("pre span"))
    if (!first(token.closest(".highlight").className + token.className)) token.replaceWith(token.textContent);
  for (const entry of all("dl.py")) if (!first(entry.className)) entry.remove();
  for (const equation of all(".katex-html")) equation.remove();  // screen readers read the MathML beside it
  all("head")[0].insertAdjacentHTML("beforeend", "<style>* { transition: none !important }</style>");
}"""


def violations(page, **options):
    found = page.evaluate("options => axe.run(document, {resultTypes: ['violations'], ...options})", options)
    serious = [violation for violation in found["violations"] if violation["impact"] in ("serious", "critical")]
    return [(violation["id"], node["html"]) for violation in serious for node in violation["nodes"]]


def test_phone_scrolls_nothing_but_boxes_that_show_it(opened):
    show(opened, PHONE)
    assert opened.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    wider = """() => [...document.querySelectorAll("main *")].filter(e =>
      e.clientWidth > 30 && e.scrollWidth > e.clientWidth + 2 && getComputedStyle(e).overflowX !== "visible")
      .map(e => [e.className, getComputedStyle(e).overflowX, e.offsetHeight - e.clientHeight])"""
    hidden = [box for box in opened.evaluate(wider) if box[1] not in ("auto", "scroll") or box[2] < 4]
    assert hidden == []
    # By keyboard too; the theme looks a moment after a change of size.
    opened.wait_for_function("""() => [...document.querySelectorAll("main *")].every(e =>
      e.scrollWidth <= e.clientWidth + 2 || getComputedStyle(e).overflowX !== "auto" ||
      e.tabIndex === 0 || e.querySelector("a, button, [tabindex='0']"))""")


def test_paper_cuts_nothing(opened):
    # A4 less its margins, in CSS pixels.
    show(opened, {"width": 672, "height": 1000}, media="print")
    cut = """() => [...document.querySelectorAll("article *")].filter(e => {
      const box = e.getBoundingClientRect();
      return box.width && !e.closest("svg, .katex-mathml") && (box.right > innerWidth + 1 || box.left < -1);
    }).map(e => e.tagName + "." + e.className + ": " + e.textContent.slice(0, 80))"""
    assert opened.evaluate(cut) == []
    framed = "article div.cell_input, article figure"
    assert {e.evaluate("e => getComputedStyle(e).breakInside") for e in opened.locator(framed).all()} <= {"avoid"}
    assert opened.locator("article details:not([open]):visible").count() == 0
    for solution in opened.locator("article .toggle-hidden > section").all():
        assert solution.evaluate("e => e.clientHeight >= e.firstElementChild.clientHeight && e.clientHeight > 0")
        assert solution.is_visible()
        assert solution.evaluate("e => getComputedStyle(e).opacity") == "1"


def test_has_no_serious_barrier(opened):
    from axe_playwright_python.base import AXE_SCRIPT

    opened.evaluate(AXE_SCRIPT)
    show(opened, SCREEN)
    opened.evaluate(THIN)
    # What scrolls by keyboard is asked on the phone, where something scrolls.
    found = violations(opened, rules={"scrollable-region-focusable": {"enabled": False}})
    show(opened, SCREEN, theme="dark")
    assert opened.evaluate("document.documentElement.dataset.theme") == "dark"
    found += violations(opened, runOnly=["color-contrast"])
    assert found == []


def test_figures_keep_their_shape(opened):
    for size in (SCREEN, {"width": 900, "height": 900}, PHONE):
        show(opened, size)
        stretched = """() => [...document.querySelectorAll("article img")].filter(e => e.clientWidth &&
          Math.abs(e.clientHeight * e.naturalWidth / (e.clientWidth * e.naturalHeight) - 1) > 0.02).map(e => e.src)"""
        assert opened.evaluate(stretched) == []


def test_figures_in_the_dark_are_as_they_were_drawn(opened):
    show(opened, SCREEN, theme="dark")
    for figure in opened.locator("article img").all():
        style = figure.evaluate(
            "e => { const s = getComputedStyle(e); return [s.filter, s.padding, s.backgroundColor]; }"
        )
        assert style == ["none", "0px", "rgb(255, 255, 255)"]


def test_figures_are_legible_on_a_phone_and_open_alone(opened):
    show(opened, PHONE)
    for figure in opened.locator("article .cell_output img").all():
        shown, dots = figure.evaluate("e => [e.getBoundingClientRect().width, e.naturalWidth]")
        assert shown >= 0.65 * dots / 2  # two dots make a pixel of the figure as it was drawn
        assert figure.evaluate("e => e.closest('a.image-reference')?.href === e.src")
