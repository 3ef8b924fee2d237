"""The hover map holds what it was given."""

import base64
import json
import re
from io import BytesIO

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from gmlvm_book.interactive import hover_map

POINTS = [[-1.0, 2.0], [3.0, 4.0], [1.0, 3.0]]
BLANK = np.zeros((3, 1, 4, 4))
LABELS = {"component": [1, 0, 1], "digit": [1, 2, 1]}


def embedded(page):
    """The data inside a page."""
    return json.loads(re.search(r"data = (\{.*\});\n", page).group(1))


def test_points_fill_a_grid_whose_rows_go_down():
    data = embedded(hover_map(POINTS, BLANK, LABELS))
    assert data["x"] == [0, data["grid"], data["grid"] / 2]
    assert data["y"] == [data["grid"], 0, data["grid"] / 2]
    assert [(panel["name"], panel["labels"]) for panel in data["panels"]] == list(LABELS.items())


def test_images_whose_labels_differ_are_told_apart():
    page = hover_map(POINTS, BLANK, LABELS)
    assert embedded(page)["apart"] == [1]
    assert "only those whose component and digit differ, 1 of 3" in page
    assert '<input type="checkbox">' not in hover_map(POINTS, BLANK, {"digit": [1, 0, 1]})
    assert '<input type="checkbox">' not in hover_map(POINTS, BLANK, {"one": [1, 0, 1], "other": [1, 0, 1]})


def test_a_group_is_named_at_the_point_nearest_to_its_median():
    points = [[0, 0], [9, 0], [1, 0], [2, 0], [2, 9]]
    (panel,) = embedded(hover_map(points, np.zeros((5, 1, 4, 4)), {"digit": [3, 5, 3, 3, 3]}))["panels"]
    assert panel["centres"] == [2, 1]  # the median of the first is (1.5, 0), whose neighbours are images 2 and 3


def luminance(color):
    """WCAG 2.2, relative luminance."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.array(to_rgb(color))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_labels_can_be_told_from_the_background_and_from_each_other(theme):
    data = embedded(hover_map(POINTS, BLANK, LABELS))
    behind = luminance(data["backgrounds"][theme])
    for ink in data["inks"][theme]:
        low, high = sorted([luminance(ink), behind])
        assert (high + 0.05) / (low + 0.05) >= 2.99, ink
    assert len(set(data["inks"][theme])) == 10


def sprite(data):
    """The picture that holds all images, ink from 0 to 1."""
    sheet = Image.open(BytesIO(base64.b64decode(data["sprite"])))
    return 1 - np.asarray(sheet.convert("L"), dtype=float) / 255


def test_images_stand_in_one_picture_in_their_order():
    images = np.random.default_rng(0).integers(0, 4, size=(43, 1, 4, 4)) / 3
    data = embedded(hover_map(np.zeros((43, 2)), images, {"digit": [0] * 43}))
    sheet = sprite(data)
    assert data["columns"] == 7
    assert sheet.shape == (28, 28)
    np.testing.assert_allclose(sheet[24:, :4], images[42, 0])  # seventh row, first place
    np.testing.assert_allclose(sheet[:4, 4:8], images[1, 0])


def test_large_images_are_brought_down_each_for_itself():
    images = np.zeros((4, 1, 60, 60))
    images[1, 0, :30], images[2] = 1, 1
    sheet = sprite(embedded(hover_map(np.zeros((4, 2)), images, {"digit": [0] * 4})))
    expected = np.zeros((40, 40))
    expected[:10, 20:], expected[20:, :20] = 1, 1
    np.testing.assert_array_equal(sheet.round(), expected)


def test_ten_thousand_images_of_mnist_are_small(mnist):
    page = hover_map(np.zeros((10000, 2)), mnist.test.images / 255, {"digit": mnist.test.labels})
    assert len(page) < 600_000


def test_text_cannot_leave_the_script():
    page = hover_map([[0, 0]], np.zeros((1, 1, 2, 2)), {"</script><b>": [0]}, description='a "map".')
    assert page.count("</script>") == 1
    assert "<b>" not in page.partition("<script>")[0]
    assert 'aria-label="a &quot;map&quot;. By &lt;/script&gt;&lt;b&gt;."' in page
    assert "http" not in page


# In a browser.


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a map in a dark page on a phone."""
    contexts = []

    def open_map(*arguments):
        (tmp_path / "map.html").write_text(
            f"<!doctype html><html data-theme=dark><body>{hover_map(*arguments)}</body></html>"
        )
        contexts.append(browser.new_context(viewport={"width": 390, "height": 1000}, has_touch=True))
        page = contexts[-1].new_page()
        page.goto((tmp_path / "map.html").as_uri())
        return page

    yield open_map
    for context in contexts:
        context.close()


def spot(canvas, x, y):
    """Where on the screen a place of a map is, in shares of its sides."""
    box = canvas.bounding_box()
    return box["x"] + box["width"] * x, box["y"] + box["height"] * y


def test_answers_a_finger_and_keys_says_what_it_shows_and_is_dark_where_the_page_is(opened):
    page = opened(POINTS, BLANK, LABELS)
    left, right = page.locator("canvas").all()
    says, card = page.locator("[role=status]"), page.locator("figure")
    page.touchscreen.tap(*spot(left, 0.96, 0.04))
    assert says.text_content() == "Image 2 of 3: component 0, digit 2"
    assert card.is_visible()
    page.touchscreen.tap(*spot(left, 0.5, 0.1))
    assert says.text_content() == ""
    assert not card.is_visible()
    right.focus()
    page.keyboard.press("ArrowLeft")
    assert says.text_content() == "Image 3 of 3: component 1, digit 1"
    page.keyboard.press("ArrowRight")
    assert says.text_content() == "Image 1 of 3: component 1, digit 1"
    page.keyboard.press("Escape")
    assert not card.is_visible()
    colour = "getComputedStyle(document.querySelector('canvas')).backgroundColor"
    assert page.evaluate(colour) == "rgb(20, 24, 30)"
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    page.wait_for_function(f"{colour} === 'rgb(255, 255, 255)'")


def test_marks_the_image_in_both_maps_and_shows_it_where_one_points(opened):
    page = opened(POINTS, BLANK, LABELS)
    maps, marks, card = page.locator("canvas").all(), page.locator("i"), page.locator("figure").bounding_box
    for canvas in maps:
        page.mouse.move(*spot(canvas, 0.5, 0.5))
        for other, mark in zip(maps, marks.all(), strict=True):
            box = mark.bounding_box()
            middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            assert middle == pytest.approx(spot(other, 0.5, 0.5), abs=1)
        assert spot(canvas, 0, 0)[1] <= card()["y"] <= spot(canvas, 0, 1)[1]
    assert page.locator("figure").text_content() == "component 1, digit 1"


def test_maps_stand_side_by_side_or_on_a_phone_one_below_the_other(opened):
    page = opened(POINTS, BLANK, LABELS)
    left, right = page.locator("canvas").all()
    assert right.bounding_box()["y"] > spot(left, 1, 1)[1]
    assert right.bounding_box()["width"] > 350
    page.set_viewport_size({"width": 1200, "height": 800})
    assert right.bounding_box()["y"] == left.bounding_box()["y"]
    assert right.bounding_box()["x"] > spot(left, 1, 1)[0]


def test_a_tick_leaves_only_the_images_whose_labels_differ(opened):
    page = opened(POINTS, BLANK, LABELS)
    left, _ = page.locator("canvas").all()
    says = page.locator("[role=status]")
    page.get_by_label("only those whose component and digit differ, 1 of 3").check()
    page.touchscreen.tap(*spot(left, 0.5, 0.5))
    assert says.text_content() == ""
    left.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
        assert says.text_content() == "Image 2 of 3: component 0, digit 2"
    page.locator("input").uncheck()
    assert says.text_content() == ""
    page.touchscreen.tap(*spot(left, 0.5, 0.5))
    assert says.text_content() == "Image 3 of 3: component 1, digit 1"


def test_shows_the_right_image(opened):
    images = np.zeros((3, 1, 4, 4))
    images[2] = 1
    page = opened(POINTS, images, LABELS)
    page.locator("canvas").first.focus()
    shades = []
    for _ in images:
        page.keyboard.press("ArrowRight")
        shot = page.locator("figure div").screenshot()
        shades.append(np.asarray(Image.open(BytesIO(shot)).convert("L"), dtype=float)[20:60, 20:60].mean())
    assert shades == [255, 255, 0]


def painted(page, number, x, y):
    """What a map has drawn around a place, (24, 24, 4)."""
    script = """([number, x, y]) => { const canvas = document.querySelectorAll("canvas")[number];
      return [...canvas.getContext("2d").getImageData(x * 800 - 12, y * 800 - 12, 24, 24).data]; }"""
    return np.array(page.evaluate(script, [number, x, y])).reshape(24, 24, 4)


def test_many_points_are_squares_in_the_colour_of_their_label_and_few_are_numerals(opened):
    inks = embedded(hover_map(POINTS, BLANK, LABELS))["inks"]["dark"]
    corner = 0.035, 0.035  # the first point
    few = opened([[0, 1], [1, 0]], BLANK[:2], {"digit": [4, 4]})
    assert (painted(few, 0, *corner)[..., 3] > 0).sum() > 100
    grid = np.stack(np.meshgrid(np.arange(30), np.arange(30, 0, -1)), -1).reshape(900, 2)
    many = opened(grid, np.zeros((900, 1, 4, 4)), {"component": [4] * 900, "digit": [4] * 870 + [2] * 30})
    for number in (0, 1):
        square = painted(many, number, *corner)
        assert (square[..., 3] > 0).sum() <= 25
        assert to_hex(square[12, 12] / 255).upper() == inks[4]
    assert to_hex(painted(many, 1, 1 - corner[0], 1 - corner[1])[12, 12] / 255).upper() == inks[2]
    # In the middle stands a part of the label of all, large and white.
    assert (painted(many, 0, 0.5, 0.5) == 255).all(-1).sum() > 25
