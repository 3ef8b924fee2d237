"""Checks that every part passes, the library's own and a reader's: run one on a part of your own before you train.

Each raises an ``AssertionError`` that says what was expected, what came, and what to do. They work on copies, on the CPU
and from fixed seeds, so that the part and torch's global generators stay as they were. What is random is compared in the
mean, within five standard errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from gmlvm.batches import Batch, Batches
from gmlvm.divergences import Divergence
from gmlvm.enumeration import Enumeration
from gmlvm.identity import differences, digest, structure
from gmlvm.kernels import Kernel
from gmlvm.model import GMLVM
from gmlvm.objectives import Objective
from gmlvm.posterior import Posterior
from gmlvm.prior import GaussianMixturePrior, Prior
from gmlvm.validation import check_number, check_type

_Part = TypeVar("_Part")
# Draws behind a mean of codes and of losses, and standard errors that it may be off: one in two million by chance.
_DRAWS, _REPEATS, _ERRORS = 4000, 30, 5.0
# Components of a prior that are looked at.
_COMPONENTS = 8
# Half the way of a finite difference, and how far a slope may be from it, relative to both.
_STEP, _SLOPE = 1e-6, 1e-3


def check_prior(prior: Prior) -> None:
    """Check that the draws, densities and divergences of a prior belong together, and that it learns what it has to.

    Args:
        prior: The prior; of many components the first eight are looked at.

    Raises:
        TypeError: If it is no :class:`gmlvm.Prior`.
        AssertionError: If it fails.

    Example:
        >>> check_prior(GaussianMixturePrior.simplex(3, 2, learn="loc"))
    """
    check_type("prior", prior, Prior)
    prior = _copy("the prior", prior).to("cpu", torch.float64)
    num_components, latent_dim = size = (prior.num_components, prior.latent_dim)
    loc, scale = prior.loc.detach(), prior.scale.detach()
    _tensor("logits of the prior", prior.logits, (num_components,))
    _tensor("loc of the prior", loc, size)
    _tensor("scale of the prior", scale, size)
    _require(bool((scale > 0).all()), f"scales of the prior must be positive, got {scale.min():g}")
    total = prior.probs.sum().item()
    _require(abs(total - 1) < 1e-6, f"the prior's weights must sum to one, got {total:g}; logits must be normalised")
    codes = _drawn("what sample_each of the prior draws", lambda g: prior.sample_each(_DRAWS, g)).detach()
    _tensor("what sample_each of the prior draws", codes, (num_components, _DRAWS, latent_dim))
    _tensor("component_log_prob of the prior", prior.component_log_prob(loc), (num_components, num_components))
    wider, generator = 1 + 0.6 / latent_dim**0.5, _generator()  # not so wide that few codes have all the weight
    with torch.no_grad():
        kl = prior.component_kl((loc + 0.5 * scale).expand(2, *size), (0.8 * scale).expand(2, *size))[1]
        _tensor("component_kl of the prior", kl, (num_components,))
        for k in range(min(num_components, _COMPONENTS)):
            of, z = f"component {k} of the prior", codes[k]
            _mean(f"the mean of codes drawn from {of}", z, loc[k], "loc and codes() have to agree")
            _mean(f"the variance of codes drawn from {of}", (z - loc[k]).square(), scale[k].square(), "scale is its root")
            wide, near = Normal(loc[k], wider * scale[k]), Normal(loc[k] + 0.5 * scale[k], 0.8 * scale[k])
            around, at = (q.mean + q.stddev * torch.randn(z.shape, generator=generator).double() for q in (wide, near))
            log_prob = prior.component_log_prob(around)[:, k]
            weight = (log_prob - wide.log_prob(around).sum(-1)).exp()
            _mean(f"the density of {of}, integrated,", weight, 1.0, "look for a constant or a factor D")
            gap = prior.component_log_prob(z)[:, k] - weight * log_prob
            _mean(f"the log density of {of} at codes drawn from it, less what it says itself,", gap, 0.0)
            ratio = near.log_prob(at).sum(-1) - prior.component_log_prob(at)[:, k] - kl[k]
            _mean(f"the log ratio of a Gaussian and {of}, less component_kl,", ratio, 0.0, "it has to be the mean")

    def figures() -> Tensor:
        apart = prior.component_kl(loc + scale, 2 * scale) @ torch.arange(num_components).to(loc)
        return apart + prior.log_prob(codes[:, :5]).sum() + prior.sample_each(2, _generator()).square().sum()

    if trained := _trained(prior):
        _gradients("the prior's densities and draws", figures, trained, exact=True)


def check_kernel(kernel: Kernel | Callable[[Tensor], Tensor]) -> None:
    """Check that a function of squared distances is a positive definite kernel, and what it says of Gaussians.

    Args:
        kernel: The kernel, or any function that :class:`gmlvm.MMD` takes.

    Raises:
        AssertionError: If it fails.

    Example:
        >>> check_kernel(lambda squared_distance: (-squared_distance).exp())
    """
    for dtype in (torch.float64, torch.float32):
        distances = torch.tensor([[0, 1e-9, 0.1], [1, 10, 1e6]], dtype=dtype)
        values = kernel(distances)
        _tensor("what a kernel gives", values, (2, 3), dtype)
        highest = bool((values <= values[0, 0]).all() and values[0, 0] > 0)
        _require(highest, f"a kernel must be positive and largest at distance zero, got {values.tolist()}")
        leaf = {"squared distances, zero among them: codes can coincide": distances.requires_grad_()}
        _gradients("a kernel", lambda d=distances: kernel(d).sum(), leaf)  # type: ignore[misc]
    for width in (0.1, 1.0, 10.0):
        for latent_dim in (1, 2, 8):
            points = width * torch.randn(60, latent_dim, generator=_generator(), dtype=torch.float64)
            low, high = torch.linalg.eigvalsh(kernel((points[:, None] - points).square().sum(-1))).aminmax()
            _require(
                bool(low > -1e-9 * high),
                f"a kernel must be positive definite, got the eigenvalues {low:.3g} to {high:.3g} for 60 codes of size "
                f"{width} in {latent_dim} dimensions: the MMD would reward some codes that are not the prior's",
            )
    if isinstance(kernel, Kernel) and kernel.has_closed_form:
        difference, noise = torch.randn(2, _DRAWS, 5, 4, generator=_generator(), dtype=torch.float64)
        difference, variance = difference[0], torch.linspace(0.1, 2, 20, dtype=torch.float64).view(5, 4)
        expected = kernel.expected(difference, variance)
        _tensor("expected() of a kernel", expected, (5,))
        samples = kernel((difference + variance.sqrt() * noise).square().sum(-1))
        _mean("the mean of a kernel over draws", samples, expected, "expected() says so", slack=1e-3)


def check_divergence(divergence: Divergence, prior: Prior | None = None, *, exact_gradient: bool = True) -> None:
    """Check that a divergence is small where codes have the prior's distribution, and trains what has to be trained.

    Args:
        divergence: The divergence.
        prior: A prior that it can take; a simplex of three components in the plane if left out.
        exact_gradient: Whether its gradient in the posterior is that of its value; not so if gradients are stopped or
            reversed on purpose, as for a critic.

    Raises:
        TypeError: If it is no :class:`gmlvm.Divergence`.
        AssertionError: If it fails.

    Example:
        >>> from gmlvm import MMD
        >>> check_divergence(MMD("codes"))
    """
    check_type("divergence", divergence, Divergence)
    divergence = _copy("the divergence", divergence).to("cpu", torch.float64).eval()
    prior = GaussianMixturePrior.simplex(3, 2) if prior is None else prior
    prior = _copy("the prior", prior).to("cpu", torch.float64).requires_grad_(False)

    def value(codes: dict[str, Tensor], generator: torch.Generator, rows: Tensor | slice = slice(None)) -> Tensor:
        logits, loc, scale, noise = (tensor[rows] for tensor in codes.values())
        return divergence(Posterior(logits, loc, scale), loc + scale * noise, prior, generator)

    near, far, certain = _codes(prior), _codes(prior, shift=4.0), _codes(prior, sharpness=1e3)
    alike = {name: tensor[:1].expand_as(tensor).contiguous() for name, tensor in near.items()}
    _tensor("a divergence", _drawn("a divergence", lambda g: value(near, g)), ())
    _tensor("a divergence of two images", value(near, _generator(), slice(2)), ())
    order = torch.randperm(len(near["loc"]), generator=_generator())
    with torch.no_grad():
        small, large = (
            torch.stack([value(_codes(prior, seed, shift), _generator(seed)) for seed in range(_REPEATS)]).mean()
            for shift in (0.0, 4.0)
        )
        change = [value(near, _generator(s), order) - value(near, _generator(s)) for s in range(_REPEATS)]
    _require(
        bool(large > 0 and small.abs() < large / 4),
        f"a divergence must be near zero for codes drawn from the prior, got {small:.4g} on average, and {large:.4g} for "
        "codes that are four standard deviations off; is a sign wrong, or a part missing?",
    )
    _mean("the change of a divergence when images change places", torch.stack(change), 0.0, "it knows no order")
    leaves = {name: far[name].requires_grad_() for name in ("logits", "loc")} | _trained(divergence)
    _gradients("a divergence", lambda: value(far, _generator()), leaves, exact=exact_gradient)
    for case, codes in {"a certain posterior": certain, "codes that coincide": alike}.items():
        leaves = {name: codes[name].requires_grad_() for name in ("logits", "loc", "scale")}
        _gradients(f"a divergence, for {case},", lambda c=codes: value(c, _generator()), leaves, reach=False)  # type: ignore[misc]
    if isinstance(prior, GaussianMixturePrior):
        prior = GaussianMixturePrior(prior.loc, prior.scale, prior.logits, learn=("loc", "scale", "weights"))
        _gradients("a divergence from a prior that learns", lambda: value(far, _generator()), _trained(prior))


def check_enumeration(rule: Enumeration, *, tolerance: float = 0.0, fixed_shape: bool = True) -> None:
    """Check that the terms which a rule selects stand for the sum over k, in value and in gradient.

    Args:
        rule: The rule.
        tolerance: Bias that it may have, in units of the range of what is summed, at least 0.
        fixed_shape: Whether the number of terms has to be the same for all values if that is asked for.

    Raises:
        TypeError: If it is no :class:`gmlvm.enumeration.Enumeration`.
        AssertionError: If it fails.

    Example:
        >>> from gmlvm.enumeration import Truncated
        >>> check_enumeration(Truncated(1e-4), tolerance=5e-4, fixed_shape=False)
    """
    check_type("rule", rule, Enumeration)
    check_number("tolerance", tolerance)
    logits = torch.randn(50, 6, generator=_generator(), dtype=torch.float64)
    logits = logits * torch.linspace(0, 8, 50, dtype=torch.float64)[:, None]  # from uniform to nearly certain

    def weights(logits: Tensor, generator: torch.Generator, fixed: bool = False) -> Tensor:
        """The selection as a matrix, (B, K), once it is found to be one."""
        image, component, weight = chosen = rule.select(logits.log_softmax(1), generator, fixed_shape=fixed)
        _tensor("the weights that a rule selects", weight, (len(weight),))
        for name, limit in (("image", len(logits)), ("component", 6)):
            index = _tensor(f"{name} that a rule selects", getattr(chosen, name), (len(weight),), torch.int64)
            low, high = index.min().item(), index.max().item()
            _require(0 <= low <= high < limit, f"{name} must lie in 0..{limit - 1}, got {low} to {high}")
        matrix = torch.zeros_like(logits).index_put((image, component), weight, accumulate=True)
        once = bool(((6 * image + component).bincount() <= 1).all())
        _require(once, "a rule must not select an image's component twice; add up the weights")
        low, high = matrix.sum(1).aminmax()
        _require(
            bool(low > 1 - 1e-6 and high < 1 + 1e-6),
            f"the weights of an image must sum to one, got {low:.6g} to {high:.6g}; let its most probable component have "
            "what the others leave",
        )
        return matrix

    _drawn("what a rule selects", lambda g: weights(logits, g))
    counts = [int(rule.select(l.log_softmax(1), _generator(), fixed_shape=True).weight.shape[0]) for l in (logits, 0 * logits, 50 * logits)]
    _require(
        not fixed_shape or len(set(counts)) == 1,
        f"with fixed_shape=True the number of terms must not depend on values, got {counts}; fill up with terms of "
        "weight zero, or check with fixed_shape=False",
    )
    weights(logits, _generator(), True)
    values = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64)  # a range of one
    for row in logits[[2, 20, 40]]:
        leaf = row.expand(_DRAWS, -1).clone().requires_grad_()
        sums = weights(leaf, _generator()) @ values
        probs = row.softmax(0)
        _mean("the sum over k that a rule estimates", sums.detach(), probs @ values, slack=tolerance)
        (gradient,) = torch.autograd.grad(sums.sum(), leaf)
        exact, advice = probs * (values - probs @ values), "terms that are drawn need a score function"
        _mean("the gradient of the sum over k that a rule estimates", gradient, exact, advice, 2 * tolerance)
    certain = torch.tensor([[100.0, 0, -100, -300, -300, -300]], dtype=torch.float64, requires_grad=True)
    leaves = {"logits of a certain posterior": certain}
    _gradients("the sum over k", lambda: (weights(certain, _generator()) @ values).sum(), leaves, reach=False)


def check_objective(objective: Objective, model: GMLVM | None = None, *, exact_gradient: bool = True) -> None:
    """Check that an objective names its terms, trains what it owns, and leaves the model as it was.

    Args:
        objective: The objective.
        model: A model that it can take; a small one for images of 6 x 5 pixels if left out.
        exact_gradient: Whether its gradient is that of its value, in its own parameters, the continuous encoder and
            the decoder; not so if gradients are stopped or reversed on purpose, as for a critic.

    Raises:
        TypeError: If it is no :class:`gmlvm.Objective`.
        AssertionError: If it fails.

    Example:
        >>> from gmlvm import VAE
        >>> check_objective(VAE(beta=2.0))
    """
    check_type("objective", objective, Objective)
    small = GMLVM.for_images((1, 6, 5), 3, 2, hidden_dim=8, component_hidden_dim=4)
    objective = _copy("the objective", objective).cpu()
    model = _copy("the model", small if model is None else model).cpu()
    grey = torch.randint(256, (8, *model.image_shape), generator=_generator(), dtype=torch.uint8)

    def loss(generator: torch.Generator, images: Tensor = grey, by: Objective = objective, order: slice | Tensor = slice(None)) -> Tensor:
        terms: Any = by(model, Batch(images[order], torch.arange(8)[order]), generator)
        named = terms._asdict() if hasattr(terms, "_asdict") else terms
        _require(
            isinstance(named, Mapping) and next(iter(named), None) == "loss",
            "an objective must give a named tuple or a mapping of terms, loss first, got "
            + (f"{list(named)}" if isinstance(named, Mapping) else type(terms).__name__),
        )
        for name, term in named.items():
            _tensor(f"the term {name}", term, (), term.dtype)
        return _tensor("the loss", named["loss"], (), model.prior.loc.dtype)

    before = _state(model.train())
    with _ambient():
        loss(_generator(), by=objective.train())
    _require(
        _state(model) == before,
        f"an objective must leave the model as it was ({differences(before, _state(model))})",
    )
    objective.double().eval(), model.double().eval()
    value = _drawn("the loss", loss)
    loss(_generator(), order=slice(2))
    _same("the loss of images / 255 in floating point", loss(_generator(), grey.double() / 255), value)
    twin = _copy("the objective", objective)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.fill_(0.5)
    twin.load_state_dict(objective.state_dict())
    _same("the loss by a copy that was given the objective's state", loss(_generator(), by=twin), value)
    order = torch.arange(8).flip(0)
    with torch.no_grad():
        change = [loss(_generator(s), order=order) - loss(_generator(s)) for s in range(_REPEATS)]
    _mean("the change of the loss when images change places", torch.stack(change), 0.0, "it knows no order")
    _gradients("the loss", lambda: loss(_generator()), _trained(model), reach=False)
    own, discrete = _trained(objective), {id(parameter) for parameter in model.discrete_encoder.parameters()}
    if own:
        _gradients("the loss", lambda: loss(_generator()), own)
    if exact_gradient:  # but for the discrete encoder, whose terms can be drawn, and the prior, in whose units others are
        networks = nn.ModuleList([model.continuous_encoder, model.decoder])
        leaves = own | {name: leaf for name, leaf in _trained(networks).items() if id(leaf) not in discrete}
        _gradients("the loss", lambda: loss(_generator()), leaves, reach=False, exact=True)


def check_model(model: GMLVM) -> None:
    """Check that a model's networks fit together, see each image by itself, and come back from a file bit for bit.

    Args:
        model: The model.

    Raises:
        TypeError: If it is no :class:`gmlvm.GMLVM`.
        AssertionError: If it fails.

    Example:
        >>> check_model(GMLVM.for_images((1, 6, 5), 3, 2, hidden_dim=8))
    """
    check_type("model", model, GMLVM)
    model = _copy("the model", model).cpu()
    num_components, latent_dim, dtype = model.num_components, model.latent_dim, model.prior.loc.dtype
    x = torch.randint(256, (5, *model.image_shape), generator=_generator(), dtype=torch.uint8)
    before = _state(model.train())
    uses = {"predict_proba": model.predict_proba, "transform": model.transform, "reconstruct": model.reconstruct}
    many = {name: torch.as_tensor(_drawn(name, lambda g, use=use: torch.as_tensor(use(x)))) for name, use in uses.items()}
    _require(_state(model) == before, f"a model must be left as it was ({differences(before, _state(model))})")
    model.eval()
    for name, use in uses.items():
        alone = torch.cat([torch.as_tensor(use(image)) for image in x.split(1)])
        _same(f"{name} of each image by itself", alone, many[name], "in evaluation mode no image must see the others")
    _same("predict", torch.as_tensor(model.predict(x.numpy())), many["predict_proba"].argmax(1))
    posterior = model.posterior(x)
    logits = _tensor("posterior logits", posterior.logits, (5, num_components), dtype)
    loc = _tensor("posterior loc", posterior.loc, (5, num_components, latent_dim), dtype)
    _tensor("posterior scale", posterior.scale, loc.shape, dtype)
    images = _tensor("decoder logits", model.decoder_logits(loc), (5, num_components, *model.image_shape), dtype)
    for name, output, part in (("logits", logits, model.discrete_encoder), ("loc", loc, model.continuous_encoder), ("decoder logits", images, model.decoder)):
    ...
