r"""A network that assigns images to components: :math:`q_D(k|x)` by itself, without a latent code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from gmlvm.images import as_images
from gmlvm.inference import inference
from gmlvm.trial import try_clusterer
from gmlvm.validation import (
    as_unit_interval,
    check_finite,
    check_image_shape,
    check_positive_int,
    check_shape,
    check_type,
)


class Clusterer(nn.Module):
    r"""Images to components: a discrete encoder that is trained and used by itself.

    A :class:`gmlvm.GMLVM` is one with a prior, a continuous encoder and a decoder besides.

    Args:
        discrete_encoder: Module from images (B, C, H, W) to ``posterior_logits`` (B, K).
        image_shape: (C, H, W).

    Raises:
        TypeError: If the network is not a module, or gives something that isn't a tensor.
        ValueError: If ``image_shape`` is not three positive integers, or the network raises an error or gives something
            else than logits.

    Source: Hu et al. (2017), section 2; chapter "Components that mean digits".
    """

    def __init__(self, discrete_encoder: nn.Module, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.image_shape = check_image_shape(image_shape)
        check_type("discrete_encoder", discrete_encoder, nn.Module)
        self.discrete_encoder = discrete_encoder
        self._num_components = try_clusterer(discrete_encoder, self.image_shape)

    @property
    def num_components(self) -> int:
        """K, the number of components."""
        return self._num_components

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return self._weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its numbers."""
        return self._weight.dtype

    @property
    def _weight(self) -> Tensor:
        """One of the network's weights; an empty one if it has none."""
        return next(self.discrete_encoder.parameters(), torch.empty(0))

    def forward(self, x: Tensor) -> Any:
        """Logits of q_D(k|x), (B, K), for images in [0, 1], (B, C, H, W); not checked."""
        return self.discrete_encoder(x)

    def pixels(self, x: Tensor | ArrayLike) -> Tensor:
        """Images as the networks take them.

        Args:
            x: Images, (B, C, H, W), ``uint8`` or floating point in [0, 1].

        Returns:
            The same in [0, 1], in the model's dtype and on its device.

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1].
        """
        return as_unit_interval("x", self._images(x).to(self.device)).to(self.dtype)

    def predict_proba(self, x: Tensor | ArrayLike, batch_size: int = 1000) -> NDArray[np.float64]:
        """q_D(k|x) for many images; the continuous encoder is not run.

        Args:
            x: Images, (N, C, H, W), ``uint8`` or floating point in [0, 1].
            batch_size: Images encoded at once, at least 1.

        Returns:
            Probabilities in float64, shape (N, K), rows summing to one.

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1], or what the network gives is not finite.

        Source: Gaujac, Feige and Barber (2018), figure 5; chapter "Training the GM-WAE".
        """
        with inference(self):
            logits = [self.discrete_encoder(self.pixels(batch)).cpu() for batch in self._batches(x, batch_size)]
        return check_finite("q_D(k|x)", torch.cat(logits).double().softmax(1)).numpy()

    def predict(self, x: Tensor | ArrayLike, batch_size: int = 1000) -> NDArray[np.int64]:
        """The most probable component of each image, as a clustering in scikit-learn's sense.

        Args:
            x: Images, (N, C, H, W), ``uint8`` or floating point in [0, 1].
            batch_size: Images encoded at once, at least 1.

        Returns:
            Components, int64, shape (N,).

        Raises:
            TypeError: If ``x`` has another dtype.
            ValueError: If ``x`` has another shape or lies outside [0, 1], or what the network gives is not finite.
        """
        components: NDArray[np.int64] = self.predict_proba(x, batch_size).argmax(1)
        return components

    def _images(self, x: Tensor | ArrayLike) -> Tensor:
        """Images of the model's size, whatever they came as, with the values that came."""
        # The model's own shape is channels first, though an array of another might be either.
        channels = "first" if getattr(x, "shape", ())[1:] == self.image_shape else None
        images = x if isinstance(x, Tensor) else as_images("x", x, channels)
        return check_shape("x", images, (None, *self.image_shape), " (batch, channels, height, width)")

    def _batches(self, x: Tensor | ArrayLike, batch_size: int) -> tuple[Tensor, ...]:
        """Images, a batch at a time."""
        images = self._images(x)
        return torch.split(images, check_positive_int("batch_size", batch_size))
