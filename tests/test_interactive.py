"""The hover map holds what it was given."""

import base64
import json
import re
from io import BytesIO

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from gmlvm_book.interactive import hover_map

POINTS = [[-1.0, 2.0], [3.0, 4.0], [1.0, 3.0]]


def embedded(page):
    """The data inside a page."""
    return json.loads(re.search(r"data = (\{.*\});\n", page).group(1))


def test_points_fill_the_unit_square_together_with_the_background():
    images = np.zeros((3, 1, 4, 4))
    data = embedded(hover_map(POINTS, images, [1, 0, 1], ["a", "b", "c"], background=[[7.0, 2.0]]))
    assert data["points"] == [[0, 0], [0.5, 1], [0.25, 0.5]]
    assert data["background"] == [[1, 0]]
    assert data["labels"] == [1, 0, 1]
    assert data["names"] == ["a", "b", "c"]


def luminance(color):
    """WCAG 2.2, relative luminance."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.array(to_rgb(color))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_labels_can_be_told_from_the_background_and_from_each_other(theme):
    data = embedded(hover_map(POINTS, np.zeros((3, 1, 4, 4)), [1, 0, 1], ["a", "b", "c"]))
    behind = luminance(data["backgrounds"][theme])
    for ink in data["inks"][theme]:
        low, high = sorted([luminance(ink), behind])
        assert (high + 0.05) / (low + 0.05) >= 2.99, ink
    assert len(set(data["inks"][theme])) == 10


def test_images_stand_in_one_picture_in_their_order():
    images = np.random.default_rng(0).integers(0, 16, size=(43, 1, 4, 4)) / 15
    sprite = embedded(hover_map(np.zeros((43, 2)), images, [0] * 43, [""] * 43))["sprite"]
    sheet = np.asarray(Image.open(BytesIO(base64.b64decode(sprite))), dtype=float)
    assert sheet.shape == (8, 160)
    np.testing.assert_allclose(1 - sheet[4:, 8:12] / 255, images[42, 0])  # second row, third place
    np.testing.assert_allclose(1 - sheet[:4, 4:8] / 255, images[1, 0])


def test_text_cannot_leave_the_script():
    page = hover_map([[0, 0]], np.zeros((1, 1, 2, 2)), [0], ["</script><b>"], description='a "map"')
    assert page.count("</script>") == 1
    assert 'aria-label="a &quot;map&quot;"' in page
    assert "http" not in page


def test_answers_a_finger_and_keys_says_what_it_shows_and_is_dark_where_the_page_is(browser, tmp_path):
    page_file = tmp_path / "map.html"
    body = hover_map(POINTS, np.zeros((3, 1, 4, 4)), [1, 0, 1], ["first", "second", "third"])
    page_file.write_text(f"<!doctype html><html data-theme=dark><body>{body}</body></html>")
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True)
    page = context.new_page()
    page.goto(page_file.as_uri())
    box = page.locator("canvas").bounding_box()
    says, card = page.locator("[role=status]"), page.locator("figure")
    page.touchscreen.tap(box["x"] + box["width"] * 616 / 640, box["y"] + box["height"] * 24 / 560)
    assert says.text_content() == "Image 2 of 3: second"
    assert card.is_visible()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.1)
    assert says.text_content() == ""
    assert not card.is_visible()
    page.locator("canvas").focus()
    page.keyboard.press("ArrowLeft")
    assert says.text_content() == "Image 3 of 3: third"
    page.keyboard.press("Escape")
    assert not card.is_visible()
    colour = "getComputedStyle(document.querySelector('canvas')).backgroundColor"
    assert page.evaluate(colour) == "rgb(20, 24, 30)"
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    page.wait_for_function(f"{colour} === 'rgb(255, 255, 255)'")
    context.close()
