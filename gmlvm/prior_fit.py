r"""A prior fitted to the codes of a trained model: what the decoder has seen is what is drawn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmlvm.batches import whole_images
from gmlvm.full_prior import FullGaussianMixturePrior
from gmlvm.inference import inference
from gmlvm.model import GMLVM
from gmlvm.prior import GaussianMixturePrior, Prior
from gmlvm.validation import check_choice, check_positive_int, check_type

#: Shapes of a component's Gaussian.
COVARIANCES = ("diagonal", "full")


@torch.inference_mode(False)
def fit_prior(model: GMLVM, data: Any, covariance: str = "full", *, batch_size: int = 1000) -> Prior:
    r"""Give a model the Gaussians that its codes have, component by component; no label is looked at.

    .. math::
        w_k = \frac1N \sum_n q_{nk}, \qquad
        m_k = \frac{1}{N w_k} \sum_n q_{nk}\, \mu_{nk}, \qquad
        \Sigma_k = \frac{1}{N w_k} \sum_n q_{nk} \big( \operatorname{diag} \sigma_{nk}^2
            + (\mu_{nk} - m_k)(\mu_{nk} - m_k)^T \big)

    with :math:`q_{nk} = q_D(k|x_n)` and :math:`q_C(z|k,x_n) = N(\mu_{nk}, \operatorname{diag} \sigma_{nk}^2)`. Among
    all mixtures of K such Gaussians this one has the largest ELBO with the networks as they are: the maximisation step
    of expectation maximisation, exact and without samples.

    Args:
        model: The model, which gets the prior; its networks are left as they are.
        data: An :class:`gmlvm.datasets.ImageData`, of which the training split is used, or images as an array or
            tensor. A Gaussian that stands for a handful of them says little: see ``least_share`` of
            :func:`gmlvm.learn_components`.
        covariance: ``"diagonal"`` or ``"full"``.
        batch_size: Images encoded at once.

    Returns:
        The prior, which learns nothing further.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range, or a component has no images.

    Source: Bishop (2006), section 9.3.1; chapter "Components that mean digits".
    """
    check_type("model", model, GMLVM)
    check_choice("covariance", covariance, COVARIANCES)
    images = whole_images(data, "a prior is fitted to the codes of all images")
    old = model.prior
    weight, loc, second = _moments(model, images, check_positive_int("batch_size", batch_size))
    covariances = second - torch.einsum("kd,ke->kde", loc, loc)
    try:
        factor = torch.linalg.cholesky(covariances)
    except RuntimeError as error:
        shares = ", ".join(f"{share:.2g}" for share in (weight / weight.sum()).tolist())
        raise ValueError(
            f"every component needs images enough for a Gaussian in {old.latent_dim} dimensions; "
            f"their shares of the images are {shares}"
        ) from error
    logits = weight.log().to(old.loc)
    prior: Prior
    if covariance == "full":
        prior = FullGaussianMixturePrior(loc.to(old.loc), factor.to(old.loc), logits)
    else:
        scale = covariances.diagonal(dim1=1, dim2=2).sqrt()
        prior = GaussianMixturePrior(loc.to(old.loc), scale.to(old.loc), logits)
    model.prior = prior
    return prior


def _moments(model: GMLVM, images: Tensor, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of q_D, (K,), and means of z, (K, D), and of its outer product, (K, D, D), under the posteriors."""
    k, d = model.num_components, model.latent_dim
    weight, first, second = (torch.zeros(size, dtype=torch.float64) for size in ((k,), (k, d), (k, d, d)))
    with inference(model):
        for batch in images.split(batch_size):
            posterior = model.posterior(batch)
            q, loc, scale = (t.cpu().double() for t in (posterior.probs, posterior.loc, posterior.scale))
            weight += q.sum(0)
            first += torch.einsum("nk,nkd->kd", q, loc)
            second += torch.einsum("nk,nkd,nke->kde", q, loc, loc)
            second += torch.diag_embed(torch.einsum("nk,nkd->kd", q, scale.square()))
    return weight, first / weight[:, None], second / weight[:, None, None]
