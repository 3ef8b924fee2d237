"""The standard networks by their sizes, from which a saved model is built again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from gmlvm import networks as nets
from gmlvm.validation import check_choice, check_image_shape, check_positive_int


@dataclass(frozen=True)
class Architecture:
    """The sizes from which :meth:`GMLVM.for_images` builds a model, and which a saved file carries.

    Attributes:
        image_shape: (C, H, W).
        num_components: Number of components K, at least 1.
        latent_dim: Dimension D of a code, at least 1.
        networks: ``"mlp"``, ``"deep"`` or ``"conv"``: kind of discrete encoder and decoder; with ``"deep"`` that
            of :func:`gmlvm.networks.deep_discrete_encoder` and the decoder of ``"mlp"``.
        hidden_dim: Hidden units of the discrete encoder and the decoder (not of ``"conv"``).
        component_hidden_dim: Hidden units of each component's continuous encoder.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is out of range or ``networks`` is unknown.
    """

    image_shape: tuple[int, int, int]
    num_components: int = 10
    latent_dim: int = 9
    networks: str = "mlp"
    hidden_dim: int = 512
    component_hidden_dim: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_shape", check_image_shape(self.image_shape))
        for name in ("num_components", "latent_dim", "hidden_dim", "component_hidden_dim"):
            object.__setattr__(self, name, check_positive_int(name, getattr(self, name)))  # NumPy's become Python's
        check_choice("networks", self.networks, ("mlp", "deep", "conv"))

    def build(self) -> tuple[nn.Module, nets.ComponentEncoder, nn.Module]:
        """Build the networks with PyTorch's own start.

        Returns:
            Discrete encoder, continuous encoder and decoder, on the CPU.
        """
        shape, k, d = self.image_shape, self.num_components, self.latent_dim
        with torch.device("cpu"):  # whatever the default: the same seed is to give the same weights
            if self.networks == "conv":
                discrete, decoder = nets.conv_discrete_encoder(shape, k), nets.conv_decoder(shape, d)
            else:
                encoder = nets.mlp_discrete_encoder if self.networks == "mlp" else nets.deep_discrete_encoder
                discrete = encoder(shape, k, self.hidden_dim)
                decoder = nets.mlp_decoder(shape, d, self.hidden_dim)
            return discrete, nets.ComponentEncoder(shape, k, d, self.component_hidden_dim), decoder
