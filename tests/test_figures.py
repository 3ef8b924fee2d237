"""Figures made light stay the same to the eye."""

import base64
import json
from io import BytesIO

import numpy as np
from PIL import Image

from gmlvm_book.figures import lighten, lighten_notebook


def png(array):
    out = BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def pixels(data):
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)


def test_a_grey_image_stays_exactly_as_it_is():
    grey = np.random.default_rng(0).integers(256, size=(60, 40, 1)).repeat(3, axis=2)
    np.testing.assert_array_equal(pixels(lighten(png(grey))), grey)


def test_a_smooth_picture_of_many_colours_is_a_palette_and_hardly_changes():
    y, x = np.mgrid[:200, :300]
    picture = np.stack([x * 255 / 300, y * 255 / 200, np.full_like(x, 128)], axis=2)
    light = lighten(png(picture))
    assert Image.open(BytesIO(light)).mode == "P"
    assert np.abs(pixels(light) - pixels(png(picture))).mean() < 6


def test_what_is_transparent_is_white():
    clear = np.zeros((4, 4, 4))
    assert (pixels(lighten(png(clear))) == 255).all()


def test_a_notebook_keeps_all_but_its_pictures_and_a_second_run_changes_nothing(tmp_path):
    picture = base64.b64encode(png(np.full((8, 8, 3), 7))).decode()
    size = {"image/png": {"height": 4, "width": 4}}
    output = {"data": {"image/png": picture, "text/plain": ["é"]}, "metadata": size, "output_type": "display_data"}
    notebook = {"cells": [{"source": ["plt.show()"], "outputs": [output]}, {"source": ["text"]}], "nbformat": 4}
    path = tmp_path / "chapter.ipynb"
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    lighten_notebook(path)
    once = path.read_text(encoding="utf-8")
    light = json.loads(once)
    changed = light["cells"][0]["outputs"][0]["data"].pop("image/png")
    output["data"].pop("image/png")
    assert light == notebook
    assert (pixels(base64.b64decode(changed)) == 7).all()
    lighten_notebook(path)
    assert path.read_text(encoding="utf-8") == once
