r"""Whether images drawn from a component are taken for that component by :math:`q_D(k|x)`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmlvm import distributed
from gmlvm.model import GMLVM
from gmlvm.vat import running_statistics_kept


def inconsistency(model: GMLVM, count: int, generator: torch.Generator | None = None) -> Tensor:
    r"""How surely q_D misses the component that an image was drawn from.

    .. math:: - E_k E_{z \sim p_C(z|k)} \log q_D(k|G(z))

    with equally many draws of each component. The gradient goes into the decoder alone: it is to draw what belongs to
    the component, while q_D is the judge and is not to learn from images that are not data. Nor do batch norms
    remember what was drawn. Several processes share the draws of the whole batch.

    Args:
        model: The model.
        count: Images to draw in each process, about; at least one of each component in all.
        generator: Source of randomness, on the model's device; torch's global one if left out.

    Returns:
        Nats, a scalar, mean over the images, differentiable in the decoder's weights.

    Source: chapter "Components that mean digits".
    """
    prior, processes = model.prior, distributed.world_size()
    each = max(1, count * processes // prior.num_components)
    own = slice(distributed.rank(), None, processes)
    with torch.no_grad():
        z = prior.sample_each(each, generator).flatten(0, 1)  # (K M, D), the same in every process
        component = torch.arange(prior.num_components, device=z.device).repeat_interleave(each)
    with running_statistics_kept(nn.ModuleList([model.decoder, model.discrete_encoder])):
        images = model.decoder_logits(z[own]).sigmoid()
        with torch.enable_grad():
            judged = images.detach().requires_grad_()
            loss = F.cross_entropy(model.discrete_encoder(judged), component[own], reduction="sum") * processes / len(z)
    (slope,) = torch.autograd.grad(loss, judged, materialize_grads=True)
    # Of this value and gradient: what stands behind q_D gets none.
    return loss.detach() + ((images - images.detach()) * slope).sum()
