"""The page to touch: its networks are the library's, and in a browser it does what it says."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from gmlvm import FullGaussianMixturePrior, GaussianMixturePrior, pretrained, weights
from gmlvm.networks import deep_discrete_encoder
from gmlvm_book import compact, touch

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "book" / "touch.md"
PROBABILITY, PIXEL = 1e-5, 1e-5  # how far the page may be from the library


@cache
def written():
    """The script as it is written; it takes a while."""
    return touch.script()


@cache
def read():
    """What the script holds, read by another reader than the page's."""
    text = re.fullmatch(r"const touchData = (\{.*\});\n", written()).group(1)
    data = json.loads(text)
    bits = "".join(f"{ord(character) - 0x3000:015b}" for character in data["text"])[: 8 * data["bytes"]]
    content = memoryview(zlib.decompress(int(bits, 2).to_bytes(data["bytes"], "big")))

    def take(kind, *shape):
        nonlocal content
        size = np.dtype(kind).itemsize * int(np.prod(shape))
        values, content = np.frombuffer(content[:size], kind).reshape(shape), content[size:]
        return values

    networks = []
    for sizes in data["networks"]:
        layers = []
        for inputs, outputs in pairwise(sizes):
            factor, bias = take("<f4", outputs), take("<f4", outputs)
            planes = take("u1", 2, inputs, outputs).astype(int)
            code = planes[0] + 256 * planes[1]
            number = np.where(code % 2, -(code + 1) // 2, code // 2)
            layers.append(((number * factor.astype(float)).T, bias.astype(float)))
        networks.append(layers)
    models = {}
    for model in data["models"]:
        encoder, decoder = (networks[model[part]] for part in ("encoder", "decoder"))
        k, d = len(model["digits"]), decoder[0][0].shape[1]
        loc, axes = take("<f4", k, d).astype(float), take("<f4", k, d, d).astype(float)
        models[model["name"]] = SimpleNamespace(**{**model, "encoder": encoder, "decoder": decoder}, loc=loc, axes=axes)
    images = take("u1", len(data["digits"]), 1, 28, 28)
    assert not content
    return SimpleNamespace(models=models, images=images, digits=data["digits"], places=data["places"])


def run(layers, x):
    *before, (weight, bias) = layers
    for inner, shift in before:
        x = np.maximum(x @ inner.T + shift, 0)
    return x @ weight.T + bias


class TestCompact:
    def test_batch_norms_go_into_the_layers_before_them(self):
        generator = torch.Generator().manual_seed(0)
        network = deep_discrete_encoder((1, 4, 3), 5, 7)
        for module in network:
            if isinstance(module, nn.BatchNorm1d):
                for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                    tensor.uniform_(0.2, 3, generator=generator)
            elif isinstance(module, nn.Linear):
                module.weight.data.mul_(2**10).round_().div_(2**10)
        layers = [(layer.weight().numpy(), layer.bias) for layer in compact.compact(network.eval())]
        assert [weight.shape for weight, _ in layers] == [(7, 12), (7, 7), (5, 7)]
        x = torch.rand(50, 1, 4, 3, generator=generator)
        expected = network.double()(x.double()).detach()
        np.testing.assert_allclose(run(layers, x.flatten(1).double().numpy()), expected, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("name", weights.NAMES)
    def test_a_compact_network_is_the_network(self, name, mnist):
        model, generator = pretrained(name), torch.Generator().manual_seed(0)
        x, z = mnist.test.images[:500].double() / 255, model.prior.sample(500, generator=generator).double()
        for network, inputs in ((model.discrete_encoder, x), (model.decoder, z)):
            layers = [(layer.weight().numpy(), layer.bias.astype(float)) for layer in compact.compact(network)]
            expected = network.double()(inputs).flatten(1).detach().numpy()
            np.testing.assert_allclose(run(layers, inputs.flatten(1).numpy()), expected, atol=1e-5)

    @pytest.mark.parametrize(
        "network",
        [
            nn.Sequential(),
            nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
            nn.Sequential(nn.Linear(2, 2), nn.ReLU()),
            nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)),
            nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.BatchNorm1d(2), nn.Linear(2, 2)),
            nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2)),
            nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)),
        ],
        ids=["empty", "no ReLU", "ReLU last", "norm first", "norm after ReLU", "two norms", "tanh"],
    )
    def test_other_networks_are_refused(self, network):
        for module in network:
            if isinstance(module, nn.Linear):
                nn.init.ones_(module.weight)
        with pytest.raises(ValueError, match="must be linear layers with a ReLU between them, got Sequential"):
            compact.compact(network)

    @pytest.mark.parametrize("values", [[1 / 3, 1.0], [1.0, 2.0**-20], [2.0**-30, 0.0]])
    def test_matrices_of_other_values_are_refused(self, values):
        with pytest.raises(ValueError, match=r"shape \(1, 2\) must hold multiples of a power of two"):
            compact.counted(torch.tensor([values]))

    def test_a_step_is_the_largest_there_is(self):
        integers, step = compact.counted(torch.tensor([[24.0, -40.0], [0.0, 32.0]]))
        assert (integers.tolist(), step) == ([[3, -5], [0, 4]], 8)
        integers, step = compact.counted(torch.tensor([[1.0, -(2.0**-14)]]))
        assert (integers.tolist(), step) == ([[2**14, -1]], 2.0**-14)


class TestScript:
    def test_it_has_the_models_of_the_package(self):
        assert tuple(read().models) == weights.NAMES
        assert tuple(re.findall(r'data-touch-about="([^"]+)"', PAGE.read_text(encoding="utf-8"))) == weights.NAMES

    @pytest.mark.parametrize("name", weights.NAMES)
    def test_probabilities_are_the_librarys(self, name, mnist):
        logits = run(read().models[name].encoder, mnist.test.images.flatten(1).numpy() / 255)
        found = torch.from_numpy(logits).softmax(1).numpy()
        np.testing.assert_allclose(found, pretrained(name).predict_proba(mnist.test.images), rtol=0, atol=PROBABILITY)

    @pytest.mark.parametrize("name", weights.NAMES)
    def test_images_are_the_librarys(self, name):
        model = pretrained(name)
        z = model.prior.sample(2000, generator=torch.Generator().manual_seed(1))
        found = 1 / (1 + np.exp(-run(read().models[name].decoder, z.double().numpy())))
        np.testing.assert_allclose(found, model.decode(z).flatten(1).numpy(), rtol=0, atol=PIXEL)

    @pytest.mark.parametrize("name", weights.NAMES)
    def test_each_component_has_its_digit(self, name, mnist):
        model, labels = read().models[name], mnist.test.labels.numpy()
        components = pretrained(name).predict(mnist.test.images)
        for k, (digit, share) in enumerate(zip(model.digits, model.shares, strict=True)):
            counts = np.bincount(labels[components == k], minlength=10)
            if not counts.any():
                assert digit is share is None
                continue
            assert counts[digit] == counts.max()
            assert share == pytest.approx(counts.max() / counts.sum(), abs=1e-3)

    def test_most_components_of_the_collapsed_vae_take_no_image(self):
        assert {name: model.digits.count(None) > 5 for name, model in read().models.items()} == {
            name: name == "gm-vae" for name in weights.NAMES
        }

    def test_there_is_a_test_image_of_each_digit(self, mnist):
        assert read().digits == list(range(10))
        assert mnist.test.labels[read().places].tolist() == read().digits
        assert np.array_equal(read().images, mnist.test.images[read().places].numpy())

    def test_the_page_puts_drawings_where_mnist_has_its_digits(self, mnist):
        images, middle = mnist.test.images[:, 0].double() / 255, torch.arange(28).double() + 0.5
        sides = torch.stack([(images.amax(axis) > 0).sum(1) for axis in (1, 2)]).amax(0)
        assert (sides == 20).double().mean() > 0.99
        for axis in (1, 2):
            assert (images.sum(axis) @ middle / images.sum((1, 2))).mean() == pytest.approx(14.5, abs=0.02)

    def test_all_that_the_page_loads_takes_at_most_four_megabytes(self, tmp_path):
        touch.write_script(tmp_path, written())
        files = [tmp_path / touch.SCRIPT, *(ROOT / "assets" / "touch").iterdir()]
        assert sum(file.stat().st_size for file in files) <= 4_000_000


class TestAxes:
    @pytest.mark.parametrize("name", ["gm-wae-digits", "gm-vae-digits"])
    def test_they_give_the_covariance_longest_first(self, name):
        prior = pretrained(name).prior
        axes = touch.axes(prior).astype(float)
        assert isinstance(prior, FullGaussianMixturePrior)
        factor = prior.scale_tril.double().numpy()
        np.testing.assert_allclose(axes.swapaxes(1, 2) @ axes, factor @ factor.swapaxes(1, 2), atol=1e-5)
        products = axes @ axes.swapaxes(1, 2)  # orthogonal to each other
        lengths = np.diagonal(products, axis1=1, axis2=2)
        np.testing.assert_allclose(products, lengths[:, None] * np.eye(9), atol=1e-5)
        assert (np.diff(lengths, axis=1) <= 0).all()

    def test_where_none_is_longest_they_are_those_of_the_code(self):
        prior = GaussianMixturePrior(torch.zeros(2, 3), torch.full((2, 3), 0.5))
        np.testing.assert_allclose(touch.axes(prior), np.broadcast_to(np.eye(3) / 2, (2, 3, 3)))

    def test_a_diagonal_prior_has_its_widest_axis_first(self):
        prior = GaussianMixturePrior(torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 3.0]]))
        np.testing.assert_allclose(touch.axes(prior)[0], [[0, 0, 3], [0, 2, 0], [1, 0, 0]], atol=1e-6)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page's own part, without the theme around it."""
    folder = tmp_path_factory.mktemp("touch")
    touch.write_script(folder, written())
    shutil.copytree(ROOT / "assets" / "touch", folder / "_static" / "touch", dirs_exist_ok=True)
    (own,) = re.findall(r"```\{raw\} html\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    path = folder / "book" / "touch.html"
    path.parent.mkdir()
    path.write_text(f'<!DOCTYPE html><meta charset="utf-8"><meta name="viewport" content="width=device-width">{own}')
    return path.as_uri()


@pytest.fixture
def page(browser, address, request):
    """The page when it is ready; nothing may go wrong in it, and nothing may come from elsewhere."""
    context = browser.new_context(**getattr(request, "param", {}))
    page, wrong, loaded = context.new_page(), [], []
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: loaded.append(request.url))
    page.goto(address)
    page.wait_for_selector("#touch.touch-ready")
    yield page
    context.close()
    assert not wrong
    assert all(url.startswith("file:") for url in loaded)


def state(page):
    """What the page shows: the image, its probabilities, the decoded image, the component and the steps."""
    found = page.evaluate(
        "(({image, probs, decoded, k, steps}) => [...[image, probs, decoded].map(a => [...a]), k, steps])(touch.state)"
    )
    arrays = dict(zip(("image", "probs", "decoded"), map(np.array, found[:3]), strict=True))
    return SimpleNamespace(**arrays, k=found[3], steps=found[4])


def shown(page):
    """The probabilities in the rows."""
    return [float(row.split()[-1]) for row in page.locator('[data-touch="bars"] button').all_inner_texts()]


def trace(image):
    """A digit's strokes, as lists of (x, y) in [0, 1]: the middle of narrow runs of ink, the whole of wide ones."""
    for y, row in enumerate(image > 0.5):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        for start, end in edges.reshape(-1, 2):
            ends = [(start + end) / 2] if end - start <= 5 else [start + 1.5, end - 1.5]
            yield [(x / 28, (y + 0.5) / 28) for x in ends]


def draw(page, strokes):
    page.get_by_role("button", name="Clear").click()
    box = page.locator('[data-touch="field"]').bounding_box()
    for stroke in strokes:
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place)
        page.mouse.up()


def seen(page):
    """The image that the network sees, (1, 28, 28)."""
    return state(page).image.reshape(1, 28, 28)


class TestBrowser:
    def test_drawn_digits_get_the_probabilities_of_the_library(self, page):
        models = {name: pretrained(name) for name in weights.NAMES}
        agreed, of_vae = 0, []
        for image, digit in zip(read().images, read().digits, strict=True):
            draw(page, trace(image[0] / 255))
            for name, model in models.items():
                page.get_by_role("radio", name=name, exact=True).check()
                found = state(page)
                expected = model.predict_proba(found.image.reshape(1, 1, 28, 28))[0]
                np.testing.assert_allclose(found.probs, expected, rtol=0, atol=PROBABILITY)
                np.testing.assert_allclose(shown(page), expected, rtol=0, atol=6e-4)  # three digits
                if name == "gm-vae":
                    of_vae.append(int(found.probs.argmax()))
                if name == "gm-wae-digits":
                    agreed += read().models[name].digits[int(found.probs.argmax())] == digit
        assert agreed >= 9
        assert max(map(of_vae.count, of_vae)) >= 9  # it collapsed

    @pytest.mark.parametrize("name", weights.NAMES)
    def test_a_component_says_what_it_takes(self, page, name):
        page.get_by_role("radio", name=name, exact=True).check()
        rows, model = page.locator('[data-touch="bars"] button'), read().models[name]
        for k, (digit, share) in enumerate(zip(model.digits, model.shares, strict=True)):
            words = "none" if digit is None else f"mostly {digit}" if share >= 0.5 else f"often {digit}"
            assert rows.nth(k).locator("span").all_inner_texts()[1] == words

    def test_a_drawing_becomes_as_those_of_mnist_are(self, page):
        image = read().images[2, 0] / 255
        images = []
        for scale, shift in ((1, 0), (0.5, 0.4)):  # wherever it is drawn, and however large
            draw(page, ([(x * scale + shift, y * scale + shift) for x, y in stroke] for stroke in trace(image)))
            images.append(seen(page)[0])
        np.testing.assert_allclose(*images, atol=0.2)
        assert images[0].min() == 0
        assert images[0].max() == 1
        mass, middle = images[0].sum(), np.arange(28) + 0.5
        assert images[0].sum(0) @ middle / mass == pytest.approx(14.5, abs=0.1)
        assert images[0].sum(1) @ middle / mass == pytest.approx(14.5, abs=0.1)
        rows, columns = (np.flatnonzero(images[0].max(axis) > 0.3) for axis in (1, 0))
        assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 21

    def test_a_line_is_as_wide_as_those_of_mnist(self, page, mnist):
        ones = mnist.train.images[mnist.train.labels == 1][:1000, 0].numpy() / 255
        draw(page, [[(0.5, 0.1), (0.5, 0.9)]])
        drawn, theirs = (images[:, 10:18].sum(2).mean() for images in (seen(page), ones))  # without the ends
        assert drawn == pytest.approx(theirs, rel=0.15)

    def test_a_letter_too_is_given_to_a_component(self, page):
        draw(page, [[(0.3, 0.2), (0.3, 0.8)], [(0.7, 0.2), (0.7, 0.8)], [(0.3, 0.5), (0.7, 0.5)]])
        assert page.locator("input:checked").input_value() == "gm-wae-digits"
        assert state(page).probs.max() > 0.9

    def test_bars_move_while_one_draws(self, page):
        page.get_by_role("button", name="Clear").click()
        box = page.locator('[data-touch="field"]').bounding_box()
        page.mouse.move(box["x"] + 140, box["y"] + 60)
        page.mouse.down()
        seen = []
        for y in (120, 160, 200):
            page.mouse.move(box["x"] + y - 40, box["y"] + y)
            seen.append(shown(page))
        assert seen[0] != seen[1] != seen[2]
        page.mouse.up()

    @pytest.mark.parametrize("name", weights.NAMES)
    def test_a_code_gives_the_image_of_the_library(self, page, name):
        model, own = pretrained(name), read().models[name]
        page.get_by_role("radio", name=name, exact=True).check()
        for k, steps in ((0, (0.0, 0.0)), (3, (1.0, -0.5)), (9, (-3.0, 3.0))):
            page.get_by_role("button", name=f"k = {k} ").click()
            for i, step in enumerate(steps):
                page.get_by_role("slider", name=f"Direction {i + 1}").fill(str(step))
            found = state(page)
            assert (found.k, found.steps) == (k, list(steps))
            z = own.loc[k] + np.array(steps) @ own.axes[k, :2]
            expected = model.decode(torch.from_numpy(z).float()).flatten().numpy()
            np.testing.assert_allclose(found.decoded, expected, rtol=0, atol=PIXEL)
            np.testing.assert_allclose(pixels(page, '[data-touch="decoded"]'), expected, rtol=0, atol=PIXEL + 1 / 255)

    def test_samples_come_from_the_components_own_gaussian(self, page):
        page.get_by_role("radio", name="gm-wae-digits", exact=True).check()
        codes = page.evaluate("[...Array(4000)].map(() => [...touch.draw(touch.models[0], 4)])")
        prior = pretrained("gm-wae-digits").prior
        np.testing.assert_allclose(np.mean(codes, 0), prior.loc[4].numpy(), atol=0.15)
        factor = prior.scale_tril[4].numpy()
        np.testing.assert_allclose(np.cov(codes, rowvar=False), factor @ factor.T, atol=0.2)

    def test_a_test_image_chooses_its_component(self, page):
        for image in page.locator('[data-touch="images"] button').all()[:4]:
            image.click()
            found = state(page)
            assert found.k == int(np.argmax(found.probs))
            pressed = page.locator('[data-touch="bars"] button[aria-pressed="true"]').all_inner_texts()
            assert [text.split()[2] for text in pressed] == [str(found.k)]

    def test_others_are_drawn_when_asked(self, page):
        samples = '[data-touch="samples"] canvas >> nth=0'
        before = pixels(page, samples)
        assert before.max() > 0.3
        page.get_by_role("button", name="Draw others").click()
        assert not np.array_equal(pixels(page, samples), before)

    def test_the_pad_moves_the_sliders(self, page):
        page.locator('[data-touch="pad"]').scroll_into_view_if_needed()
        box = page.locator('[data-touch="pad"]').bounding_box()
        page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"])
        assert state(page).steps == pytest.approx([1.5, 1.5], abs=0.1)
        assert float(page.get_by_role("slider", name="Direction 1").input_value()) == state(page).steps[0]

    def test_everything_is_reached_by_keys(self, page):
        reached = []
        while not reached or reached[-1] != "BODY":
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.dataset.touch || document.activeElement.tagName"))
        kinds = {kind: reached.count(kind) for kind in reached}
        own = {"field": 1, "clear": 1, "again": 1, "direction-0": 1, "direction-1": 1, "BODY": 1}
        assert kinds == {"INPUT": 1, "BUTTON": 20, **own}

    def test_one_draws_and_chooses_by_keys(self, page):
        page.get_by_role("button", name="Clear").focus()
        page.keyboard.press("Enter")
        assert page.get_by_role("status").inner_text() == "The field is empty."
        page.keyboard.press("Shift+Tab")
        while page.evaluate("document.activeElement.dataset.touch") != "field":
            page.keyboard.press("Shift+Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        page.keyboard.press("Space")
        for _ in range(12):
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Space")
        found = state(page)
        name = page.locator("input:checked").input_value()
        expected = pretrained(name).predict_proba(found.image.reshape(1, 1, 28, 28))[0]
        np.testing.assert_allclose(found.probs, expected, rtol=0, atol=PROBABILITY)
        best = int(expected.argmax())
        assert read().models[name].digits[best] == 1
        assert (
            page.get_by_role("status").inner_text().startswith(f"Most probable: component {best}, with a probability")
        )
        page.get_by_role("button", name=f"k = {best} ").focus()
        page.keyboard.press("Enter")
        assert page.locator('[data-touch="bars"] [aria-pressed="true"]').inner_text().startswith(f"k = {best}")
        page.get_by_role("slider", name="Direction 2").focus()
        page.keyboard.press("ArrowRight")
        assert state(page).steps == [0, 0.1]
        page.locator('[data-touch="field"]').focus()
        page.keyboard.press("Delete")
        assert not state(page).image.any()

    @pytest.mark.parametrize("page", [{"has_touch": True, "viewport": {"width": 390, "height": 844}}], indirect=True)
    def test_a_finger_draws_on_a_phone(self, page):
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_role("button", name="Clear").tap()
        page.locator('[data-touch="field"]').tap(position={"x": 100, "y": 80})
        assert state(page).image.max() == 1
        page.locator('[data-touch="images"] button >> nth=7').tap()
        assert np.array_equal(np.rint(255 * state(page).image), read().images[7].ravel())


def pixels(page, selector):
    """A canvas as it was drawn, in [0, 1]."""
    code = "canvas => [...canvas.getContext('2d').getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0)"
    return np.array(page.locator(selector).evaluate(code)) / 255
