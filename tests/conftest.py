"""Fixtures that several test modules share."""

import signal

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from gmlvm import GMLVM, GaussianMixturePrior, datasets

# The models here are tiny: one thread is fastest, and repeats bit for bit.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mnist():
    return datasets.mnist()


@pytest.fixture(scope="session")
def small_data():
    """400 + 200 images of 6 x 5 pixels in four classes: a bright quadrant each, with noise."""
    rng = np.random.default_rng(0)

    def split(count):
        labels = rng.integers(4, size=count)
        images = rng.uniform(0, 0.2, size=(count, 6, 5))
        for image, label in zip(images, labels, strict=True):
            row, column = 3 * (label // 2), 2 * (label % 2)
            image[row : row + 3, column : column + 3] += 0.7
        return images, labels

    return datasets.from_arrays(*split(400), *split(200), name="quadrants")


@pytest.fixture
def small_model(small_data):
    return GMLVM.for_images(
        small_data.image_shape, num_components=4, latent_dim=3, hidden_dim=12, component_hidden_dim=5, seed=1
    )


@pytest.fixture
def double_model():
    """A model in float64 with unequal weights and scales, for comparison with the oracles."""
    generator = torch.Generator().manual_seed(0)
    prior = GaussianMixturePrior(
        torch.randn(3, 2, generator=generator, dtype=torch.float64),
        torch.rand(3, 2, generator=generator, dtype=torch.float64) + 0.5,
        torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64),
    )
    model = GMLVM.for_images((1, 4, 3), 3, 2, prior=prior, hidden_dim=6, component_hidden_dim=4, seed=3)
    return model.double()


@pytest.fixture
def ax():
    figure, axis = plt.subplots()
    yield axis
    plt.close(figure)


@pytest.fixture
def terminal():
    """Ctrl-C means what it does in a terminal: a process in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def browser():
    """A Chromium that is installed, driven by Playwright."""
    from gmlvm_book.pdf import BROWSERS, find_browser

    path = find_browser()
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Bars are to be seen, and so to be measured.
        browser = playwright.chromium.launch(executable_path=path, ignore_default_args=["--hide-scrollbars"])
        yield browser
        browser.close()
