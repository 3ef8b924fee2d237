r"""A prior whose components are Gaussians with full covariances."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributions import LowerCholeskyTransform, MultivariateNormal

from gmlvm.prior import Prior, check_learn, check_logits, check_means, register
from gmlvm.validation import check_shape


class FullGaussianMixturePrior(Prior):
    r"""A mixture of K Gaussians with full covariances over codes of dimension D.

    .. math:: p(z) = \sum_{k=1}^K p_D(k)\, N(z;\, m_k, L_k L_k^T)

    What :class:`gmlvm.GaussianMixturePrior` says of learning and of copies holds here as well. Objectives whose
    divergence is estimated from samples take it; closed forms of the MMD are for diagonal Gaussians.

    Args:
        loc: Means :math:`m_k`, shape (K, D), floating point and finite; copied.
        scale_tril: Lower triangular :math:`L_k` with positive diagonal, shape (K, D, D).
        logits: Unnormalised log weights, shape (K,). Uniform weights if left out.
        learn: What is trained: any of ``"loc"``, ``"scale"`` and ``"weights"``; here ``"scale"`` is :math:`L_k`.

    Raises:
        TypeError: If ``loc`` is not a floating-point tensor.
        ValueError: If a shape does not fit, a value is not finite, ``scale_tril`` is not lower triangular with a
            positive diagonal, ``learn`` has another name, or a value asks for gradients and is not to be learned.

    Source: Bishop (2006), section 9.2; chapter "Components that mean digits".
    """

    scale_tril: Tensor

    def __init__(
        self, loc: Tensor, scale_tril: Tensor, logits: Tensor | None = None, *, learn: Iterable[str] = ()
    ) -> None:
        super().__init__()
        check_means(loc)
        self.learn = check_learn(learn, loc=loc, scale=scale_tril, weights=logits)
        size = (*loc.shape, loc.shape[1])
        factor = (
            check_shape("scale_tril", scale_tril, size, " (num_components, latent_dim, latent_dim)").detach().to(loc)
        )
        positive = bool((factor.diagonal(dim1=1, dim2=2) > 0).all())
        if not bool(factor.isfinite().all()) or not positive or not torch.equal(factor, factor.tril()):
            raise ValueError("scale_tril must be finite and lower triangular with a positive diagonal")
        register(self, "loc", loc.detach().clone(), self.learn)
        register(self, "scale_tril", factor.clone(), self.learn, _Cholesky())
        register(self, "logits", check_logits(logits, loc), self.learn)

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        """Standard deviations of the components in each direction, shape (K, D)."""
        return self.scale_tril.square().sum(2).sqrt()

    def component_log_prob(self, z: Tensor) -> Tensor:
        r"""Log density of each component, :math:`\log N(z; m_k, L_k L_k^T)`; see :class:`Prior`."""
        self._check_codes(z)
        gaussians = MultivariateNormal(self.loc, scale_tril=self.scale_tril, validate_args=False)
        log_prob: Tensor = gaussians.log_prob(z.unsqueeze(-2))
        return log_prob

    def component_kl(self, loc: Tensor, scale: Tensor) -> Tensor:
        r"""KL divergence of diagonal Gaussians from the components; see :class:`Prior`.

        .. math::
            \tfrac12 \big( \lVert L^{-1} \operatorname{diag} s \rVert_F^2 + \lVert L^{-1} (\mu - m) \rVert^2 - D \big)
            + \log \det L - \textstyle\sum_d \log s_d
        """
        inverse = torch.linalg.solve_triangular(  # (K, D, D)
            self.scale_tril, torch.eye(self.latent_dim).to(self.loc), upper=False
        )
        offset = torch.einsum("kde,...ke->...kd", inverse, loc - self.loc).square().sum(-1)
        spread = torch.einsum("kde,...ke->...k", inverse.square(), scale.square())
        log_ratio = self.scale_tril.diagonal(dim1=1, dim2=2).log().sum(1) - scale.log().sum(-1)
        return 0.5 * (spread + offset - self.latent_dim) + log_ratio

    def codes(self, noise: Tensor, component: Tensor) -> Tensor:
        r"""Codes :math:`m_k + L_k \epsilon` from noise; see :class:`Prior`."""
        return self.loc[component] + (self.scale_tril[component] @ noise.unsqueeze(-1)).squeeze(-1)


class _Cholesky(nn.Module):
    """Keeps a learned factor lower triangular with a positive diagonal."""

    def forward(self, free: Tensor) -> Tensor:
        factor: Tensor = LowerCholeskyTransform()(free)
        return factor

    def right_inverse(self, factor: Tensor) -> Tensor:
        free: Tensor = LowerCholeskyTransform().inv(factor)
        return free
