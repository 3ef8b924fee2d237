r"""Both posteriors of a batch of images, :math:`q_D(k|x)` and :math:`q_C(z|k,x)`."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gmlvm.validation import check_finite


@dataclass(frozen=True)
class Posterior:
    """Both posteriors of a batch of images.

    Attributes:
        logits: Unnormalised log probabilities of q_D(k|x), shape (B, K).
        loc: Means of q_C(z|k,x), shape (B, K, D).
        scale: Standard deviations of q_C(z|k,x), shape (B, K, D), positive.
        log_probs: Normalised log q_D(k|x), nats, shape (B, K); computed from ``logits``.

    Source: Gaujac, Feige and Barber (2018), section 2; chapter "Training the GM-WAE".
    """

    logits: Tensor
    loc: Tensor
    scale: Tensor
    log_probs: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Here and not when it is first asked for, which may be where no gradients are kept.
        object.__setattr__(self, "log_probs", self.logits.log_softmax(-1))

    @property
    def probs(self) -> Tensor:
        """q_D(k|x), shape (B, K), rows summing to one."""
        return self.logits.softmax(-1)

    def check(self) -> None:
        """Raise unless these are distributions: networks of one's own may give others, and weights of NaN do.

        Raises:
            ValueError: If a probability or a mean is not finite, or a scale not positive and finite.
        """
        check_finite("q_D(k|x)", self.probs)  # not its logits: minus infinity rules a component out
        check_finite("means of q_C(z|k,x)", self.loc)
        if not bool((self.scale.isfinite() & (self.scale > 0)).all()):
            raise ValueError(
                f"scales of q_C(z|k,x) must be positive and finite, got values from {self.scale.min().item():g} to "
                f"{self.scale.max().item():g}; is it a log-scale, give its exponential"
            )

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        r"""Draw one code for each image and component, :math:`z = \mathrm{loc} + \mathrm{scale} \cdot \epsilon`.

        Args:
            generator: Source of randomness, on the posterior's device; torch's global one if left out.

        Returns:
            Codes z, shape (B, K, D), differentiable in ``loc`` and ``scale``.
        """
        noise = torch.randn(self.loc.shape, generator=generator, device=self.loc.device, dtype=self.loc.dtype)
        return self.loc + self.scale * noise
