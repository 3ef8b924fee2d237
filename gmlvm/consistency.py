r"""Whether images drawn from a component are taken for that component by :math:`q_D(k|x)`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gmlvm.model import GMLVM
from gmlvm.vat import running_statistics_kept


def inconsistency(model: GMLVM, count: int, generator: torch.Generator | None = None) -> Tensor:
    r"""How surely q_D misses the component that an image was drawn from.

    .. math:: - E_k E_{z \sim p_C(z|k)} \log q_D(k|G(z))

    with equally many draws of each component. The gradient goes into the decoder alone: it is to draw what belongs to
    the component, while q_D is the judge and is not to learn from images that are not data.

    Args:
        model: The model.
        count: Images to draw, about; at least one of each component.
        generator: Source of randomness, on the model's device; torch's global one if left out.

    Returns:
        Nats, a scalar, mean over the images, differentiable in the decoder's weights.

    Source: chapter "Components that mean digits".
    """
    prior = model.prior
    each = max(1, count // prior.num_components)
    with torch.no_grad():
        z = prior.sample_each(each, generator).flatten(0, 1)  # (K M, D)
        component = torch.arange(prior.num_components, device=z.device).repeat_interleave(each)
    images = model.decoder_logits(z).sigmoid()
    with torch.enable_grad(), running_statistics_kept(model.discrete_encoder):
        judged = images.detach().requires_grad_()
        loss = F.cross_entropy(model.discrete_encoder(judged), component)
        (slope,) = torch.autograd.grad(loss, judged, materialize_grads=True)
    # Of this value and gradient: what stands behind q_D gets none.
    return loss.detach() + ((images - images.detach()) * slope).sum()
