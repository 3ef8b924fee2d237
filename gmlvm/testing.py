"""Checks that every part passes, the library's own and a reader's: run one on a part of your own before you train.

Each raises an ``AssertionError`` that says what was expected, what came, and what to do. They work on copies, on the
CPU and from fixed seeds: the part and the global generators stay as they were. What is random is compared in the mean,
within five standard errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from gmlvm.assertions import (
    ambient,
    blank,
    copied,
    drawn,
    gradients,
    mean,
    normal,
    require,
    same,
    seeded,
    state,
    tensor,
    trained,
    unchanged,
)
from gmlvm.batches import Batch, Batches
from gmlvm.clusterer import Clusterer
from gmlvm.divergences import Divergence
from gmlvm.enumeration import Enumeration
from gmlvm.kernels import Kernel
from gmlvm.model import GMLVM
from gmlvm.objectives import Objective
from gmlvm.posterior import Posterior
from gmlvm.prior import GaussianMixturePrior, Prior
from gmlvm.validation import check_number, check_type

# Draws behind a mean: of codes, and of losses.
_DRAWS, _REPEATS = 4000, 20
# Components of a prior that are looked at, and values of all its codes: of a large one fewer are drawn.
_COMPONENTS, _VALUES = 8, 2**22


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
    prior = copied("the prior", prior).to("cpu", torch.float64)
    num_components, latent_dim = size = (prior.num_components, prior.latent_dim)
    tensor("logits of the prior", prior.logits, (num_components,))
    loc = tensor("loc of the prior", prior.loc, size).detach().clone()
    scale = tensor("scale of the prior", prior.scale, size).detach().clone()
    require(bool((scale > 0).all()), f"scales of the prior must be positive, got {scale.min():g}")
    total = prior.logits.exp().sum().item()
    require(abs(total - 1) < 1e-6, f"weights of the prior, exp(logits), must sum to one, got {total:g}: normalise them")
    draws = max(200, min(_DRAWS, _VALUES // (num_components * latent_dim)))
    codes = drawn("codes of the prior", lambda generator: prior.sample_each(draws, generator)).detach()
    tensor("codes of the prior", codes, (num_components, draws, latent_dim))
    tensor("component_log_prob of the prior", prior.component_log_prob(loc), (num_components, num_components))
    kl = prior.component_kl((loc + 0.5 * scale).expand(2, *size), (0.8 * scale).expand(2, *size)).detach()
    tensor("component_kl of the prior", kl, (2, num_components))
    generator, wider = seeded(), 1 + 0.6 / latent_dim**0.5  # not so wide that a few codes have all the weight
    for k in range(min(num_components, _COMPONENTS)):
        this, z = f"component {k} of the prior", codes[k]
        mean(f"the mean of codes of {this}", z, loc[k], "loc and codes() disagree")
        mean(f"the variance of codes of {this}", (z - loc[k]).square(), scale[k].square(), "scale and codes() disagree")
        wide, near = Normal(loc[k], wider * scale[k]), Normal(loc[k] + 0.5 * scale[k], 0.8 * scale[k])
        around, at = (q.mean + q.stddev * normal(generator, *z.shape) for q in (wide, near))
        with torch.no_grad():
            at_codes, at_around, at_near = (prior.component_log_prob(each)[:, k] for each in (z, around, at))
        weight = (at_around - wide.log_prob(around).sum(-1)).exp()
        mean(f"the density of {this}, integrated,", weight, 1.0, "is a constant missing, or a factor D?")
        gap = at_codes - weight * at_around
        mean(f"the log density of {this} over codes() less over itself", gap, 0.0, "they are two distributions")
        ratio = near.log_prob(at).sum(-1) - at_near
        mean(f"the KL divergence of a Gaussian from {this}", ratio, kl[1, k], "component_kl() and the density disagree")

    def figures() -> Tensor:
        apart = prior.component_kl(loc + scale, 2 * scale) @ torch.arange(1, num_components + 1).to(loc)
        return apart + prior.log_prob(codes[:, :5]).sum() + prior.sample_each(2, seeded()).square().sum()

    if learned := trained(prior):
        gradients("densities and codes of the prior", figures, learned, exact=True)


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
        distances = torch.tensor([[0, 1e-9, 0.1], [1, 10, 1e6]], dtype=dtype).requires_grad_()
        values = tensor("what the kernel gives", kernel(distances), (2, 3), dtype).detach()
        highest = bool(values[0, 0] > 0 and (values <= values[0, 0]).all())
        require(highest, f"a kernel must be positive and largest at distance zero, got {values.tolist()}")
        leaves = {"distances of zero and more (codes can coincide, where a square root has no slope)": distances}
        gradients("the kernel", lambda at=distances: kernel(at).sum(), leaves)  # type: ignore[misc]
    for width in (0.1, 1.0, 10.0):
        for latent_dim in (1, 2, 8):
            points = width * normal(seeded(), 60, latent_dim)
            low, high = torch.linalg.eigvalsh(kernel((points[:, None] - points).square().sum(-1))).aminmax()
            require(
                bool(low > -1e-9 * high),
                f"a kernel must be positive definite, got the eigenvalues {low:.3g} to {high:.3g} for 60 codes of size "
                f"{width} in {latent_dim} dimensions: its MMD can be smaller for other codes than for the prior's",
            )
    if isinstance(kernel, Kernel) and kernel.has_closed_form:
        difference, noise = normal(seeded(), 5, 4), normal(seeded(1), _DRAWS, 5, 4)
        variance = torch.linspace(0.1, 2, 20, dtype=torch.float64).view(5, 4)
        expected = tensor("expected() of the kernel", kernel.expected(difference, variance), (5,))
        samples = kernel((difference + variance.sqrt() * noise).square().sum(-1))
        advice = "expected() disagrees (for variances, not scales)"
        mean("the kernel over Gaussian draws", samples, expected, advice, slack=1e-3 * values[0, 0].item())


def check_divergence(divergence: Divergence, prior: Prior | None = None, *, exact_gradient: bool = True) -> None:
    """Check that a divergence is small where codes have the prior's distribution, and trains what has to be trained.

    Args:
        divergence: The divergence.
        prior: A prior that it can take; a simplex of three components in the plane if left out.
        exact_gradient: Whether its gradient is that of its value; not so if gradients are stopped or reversed on
            purpose, as for a critic.

    Raises:
        TypeError: If it is no :class:`gmlvm.Divergence`.
        AssertionError: If it fails.

    Example:
        >>> from gmlvm import MMD
        >>> check_divergence(MMD("codes"))
    """
    check_type("divergence", divergence, Divergence)
    divergence = copied("the divergence", divergence).to("cpu", torch.float64).eval()
    prior = GaussianMixturePrior.simplex(3, 2) if prior is None else prior
    frozen = copied("the prior", prior).to("cpu", torch.float64).requires_grad_(False)

    def value(
        codes: dict[str, Tensor], seed: int | torch.Generator = 0, rows: Any = slice(None), prior: Prior = frozen
    ) -> Tensor:
        logits, loc, scale, noise = (each[rows] for each in codes.values())
        generator = seeded(seed) if isinstance(seed, int) else seed
        found = divergence(Posterior(logits, loc, scale), loc + scale * noise, prior, generator)
        return tensor("a divergence", found, ())

    near, far, certain = _codes(frozen), _codes(frozen, shift=4.0), _codes(frozen, sharpness=1e3)
    alike = {name: each[:1].expand_as(each).clone() for name, each in near.items()}
    drawn("a divergence", lambda generator: value(near, generator))
    value(near, rows=slice(2))
    half, seeds = len(near["loc"]) // 2, range(_REPEATS)
    mixed = {name: torch.cat([near[name][:half], far[name][half:]]) for name in near}
    order = torch.arange(2 * half).flip(0)
    with torch.no_grad():
        change = torch.stack([value(mixed, seed, order) - value(mixed, seed) for seed in seeds])
        small, large = (
            sum(value(_codes(frozen, seed, shift), seed).item() for seed in seeds) / len(seeds) for shift in (0.0, 4.0)
        )
    require(
        abs(small) < large / 4 or bool(trained(divergence)),  # one that has to be trained is nothing yet
        f"a divergence must be near zero for codes drawn from the prior, got {small:.4g} on average, and {large:.4g} "
        "for codes four standard deviations off: is a sign wrong, or a part missing?",
    )
    mean("the change of a divergence when images change places", change, 0.0, "images have no order")
    leaves = {f"posterior.{name}": far[name].requires_grad_() for name in ("logits", "loc")} | trained(divergence)
    gradients("a divergence", lambda: value(far), leaves, exact=exact_gradient)
    for case, codes in {"of a certain posterior": certain, "of codes that coincide": alike}.items():
        leaves = {f"posterior.{name}": codes[name].requires_grad_() for name in ("logits", "loc", "scale")}
        gradients(f"a divergence {case}", lambda codes=codes: value(codes), leaves, reach=False)  # type: ignore[misc]
    if isinstance(prior, GaussianMixturePrior):
        learning = GaussianMixturePrior(frozen.loc, frozen.scale, frozen.logits, learn=("loc", "scale", "weights"))
        gradients("a divergence from a prior that learns", lambda: value(far, prior=learning), trained(learning))


def check_enumeration(rule: Enumeration, *, tolerance: float = 0.0, fixed_shape: bool = True) -> None:
    """Check that the terms which a rule selects stand for the sum over k, in value and in gradient.

    Args:
        rule: The rule.
        tolerance: Bias that it may have, in units of the range of what is summed, at least 0.
        fixed_shape: Whether the number of terms has to be the same for all values where that is asked for.

    Raises:
        TypeError: If it is no :class:`gmlvm.enumeration.Enumeration`, or ``tolerance`` is no number.
        ValueError: If ``tolerance`` is negative.
        AssertionError: If it fails.

    Example:
        >>> from gmlvm.enumeration import Truncated
        >>> check_enumeration(Truncated(1e-4), tolerance=5e-4, fixed_shape=False)
    """
    check_type("rule", rule, Enumeration)
    check_number("tolerance", tolerance)
    logits = normal(seeded(), 50, 6) * torch.linspace(0, 8, 50).double()[:, None]  # from uniform to nearly certain

    def weights(logits: Tensor, generator: torch.Generator, fixed: bool = False) -> Tensor:
        chosen = rule.select(logits.log_softmax(1), generator, fixed_shape=fixed)
        count = len(chosen.weight)
        tensor("weight of a selection", chosen.weight, (count,))
        for name, limit in (("image", len(logits)), ("component", 6)):
            index = tensor(f"{name} of a selection", getattr(chosen, name), (count,), torch.int64)
            inside = bool(((index >= 0) & (index < limit)).all())
            require(inside, f"{name} of a selection must lie in 0..{limit - 1}, got {index.min()} to {index.max()}")
        pairs = len((6 * chosen.image + chosen.component).unique())
        require(
            pairs == count, f"a rule must select no pair twice, got {count} terms of {pairs} pairs: add the weights"
        )
        matrix = torch.zeros_like(logits).index_put((chosen.image, chosen.component), chosen.weight)  # (B, K)
        low, high = matrix.detach().sum(1).aminmax()
        require(
            bool(low > 1 - 1e-6 and high < 1 + 1e-6),
            f"weights of an image must sum to one, got {low:.6g} to {high:.6g}: let its most probable component have "
            "what the others leave",
        )
        return matrix

    drawn("the selection of a rule", lambda generator: weights(logits, generator))
    weights(logits, seeded(), fixed=True)
    counts = [
        len(rule.select(each.log_softmax(1), seeded(), fixed_shape=True).weight)
        for each in (logits, 0 * logits, 50 * logits)
    ]
    require(
        len(set(counts)) == 1 or not fixed_shape,
        f"with fixed_shape=True the number of terms must not depend on values, got {counts}: fill up with terms of "
        "weight zero, or check with fixed_shape=False",
    )
    values = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64)  # with a range of one
    for row in normal(seeded(1), 3, 6):  # none of them so sharp that a term is hardly ever drawn
        leaf, probs = row.expand(_DRAWS, -1).clone().requires_grad_(), row.softmax(0)
        sums, exact = weights(leaf, seeded()) @ values, probs * (values - probs @ values)
        (gradient,) = torch.autograd.grad(sums.sum(), leaf)
        mean(
            "the sum over k by a rule",
            sums.detach(),
            probs @ values,
            "it is biased; a tolerance can be given",
            tolerance,
        )
        advice = "it is biased: weights need q_D's gradient, and those of drawn terms a score function"
        mean("the gradient of the sum over k by a rule", gradient, exact, advice, 2 * tolerance)
    leaf = torch.tensor([[100.0, 0, -100, -300, -1e4, -1e4]], dtype=torch.float64).requires_grad_()
    certain = {"logits of a certain posterior": leaf}
    gradients("the sum over k by a rule", lambda: (weights(leaf, seeded()) @ values).sum(), certain, reach=False)


def check_objective(objective: Objective, model: Clusterer | None = None, *, exact_gradient: bool = True) -> None:
    """Check that an objective names its terms, trains what it owns, and leaves the model as it was.

    Args:
        objective: The objective.
        model: A model that it can take, a :class:`gmlvm.GMLVM` or a :class:`gmlvm.Clusterer`; a small one of three
            components for images of 6 x 5 pixels if left out.
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
    if model is None:
        model = GMLVM.for_images((1, 6, 5), 3, 2, hidden_dim=8, component_hidden_dim=4)
    model, own = copied("the model", model).cpu().train(), copied("the objective", objective).cpu().train()
    grey = torch.randint(256, (8, *model.image_shape), generator=seeded(), dtype=torch.uint8)

    def loss(
        seed: int | torch.Generator = 0, images: Tensor = grey, rows: Any = slice(None), by: Objective = own
    ) -> Tensor:
        generator = seeded(seed) if isinstance(seed, int) else seed
        terms: Any = by(model, Batch(images[rows], torch.arange(8)[rows]), generator)
        terms = terms._asdict() if hasattr(terms, "_asdict") else terms
        names = list(terms) if isinstance(terms, Mapping) else [type(terms).__name__]
        require(names[0] == "loss", f"terms must be a named tuple or a mapping, with loss first, got {names}")
        for name, term in terms.items():
            tensor(f"the term {name}", term, (), None)
        return tensor("the loss", terms["loss"], (), model.dtype)

    before = state(model)
    with ambient():
        loss()
    unchanged("an objective", model, before)
    model.double().eval(), own.double().eval()
    for parameter in model.parameters():  # off zero, where many a network begins and a rectifier has a kink
        parameter.data += 0.01 * normal(seeded(), *parameter.shape)
    value = drawn("the loss", loss)
    loss(rows=slice(2))
    same("the loss of images / 255 in floating point", loss(images=grey.double() / 255), value)
    twin = blank("the objective", own)
    twin.load_state_dict(own.state_dict())
    same("the loss by a copy that was given the objective's state", loss(by=twin), value)
    with torch.no_grad():
        change = [loss(seed, rows=torch.arange(8).flip(0)) - loss(seed) for seed in range(_REPEATS)]
    mean("the change of the loss when images change places", torch.stack(change), 0.0, "images have no order")
    gradients("the loss", loss, trained(model), reach=False)
    if leaves := trained(own):
        gradients("the loss", loss, leaves)
    if exact_gradient and isinstance(model, GMLVM):
        # Not in the discrete encoder, from which terms can be drawn, nor in the prior, in whose units others are.
        drawn_from = {id(parameter) for parameter in model.discrete_encoder.parameters()}
        networks = nn.ModuleDict({"continuous_encoder": model.continuous_encoder, "decoder": model.decoder})
        leaves |= {name: leaf for name, leaf in trained(networks).items() if id(leaf) not in drawn_from}
    if exact_gradient and leaves:
        gradients("the loss", loss, leaves, reach=False, exact=True)


def check_model(model: GMLVM) -> None:
    """Check that a model's networks see each image by itself, learn, and come back from a file bit for bit.

    Args:
        model: The model.

    Raises:
        TypeError: If it is no :class:`gmlvm.GMLVM`.
        AssertionError: If it fails.

    Example:
        >>> check_model(GMLVM.for_images((1, 6, 5), 3, 2, hidden_dim=8))
    """
    check_type("model", model, GMLVM)
    model = copied("the model", model).cpu().train()
    before, size, dtype = state(model), (5, model.num_components), model.prior.loc.dtype
    x = torch.randint(256, (5, *model.image_shape), generator=seeded(), dtype=torch.uint8)
    for use in (model.predict_proba, model.transform, model.reconstruct):
        together = drawn(f"what {use.__name__} gives", lambda _, use=use: torch.as_tensor(use(x)))  # type: ignore[misc]
        advice = "in evaluation mode no image may see the others"
        try:
            alone = torch.cat([torch.as_tensor(use(image)) for image in x.split(1)])
        except ValueError as error:  # as of a batch norm that keeps no statistics
            raise AssertionError(f"{use.__name__} must take a single image, got {error}: {advice}") from error
        same(f"what {use.__name__} gives for each image alone", alone, together, advice)
    drawn("what sample gives", lambda generator: model.sample(3, generator=generator))
    unchanged("looking at a model", model, before)
    model.eval()
    codes = model.posterior(x).loc.detach().requires_grad_()
    outputs: dict[str, tuple[Callable[[], Tensor], tuple[int, ...]]] = {
        "discrete_encoder": (lambda: model.posterior(x).logits, size),
        "continuous_encoder": (lambda: model.posterior(x).loc + model.posterior(x).scale, (*size, model.latent_dim)),
        "decoder": (lambda: model.decoder_logits(codes), (*size, *model.image_shape)),
    }
    for name, (output, shape) in outputs.items():
        tensor(f"what {name} gives", output(), shape, dtype)
        if leaves := trained(getattr(model, name)) | ({"the codes": codes} if name == "decoder" else {}):
            gradients(f"what {name} gives", lambda output=output: output().square().sum(), leaves)  # type: ignore[misc]
    with TemporaryDirectory() as folder:
        path = Path(folder, "model")
        model.save(path)
        read = [GMLVM.load(path, into=blank("the model", model)), *([GMLVM.load(path)] if model.can_be_rebuilt else [])]
    for other in read:
        for name, weight in model.state_dict().items():
            same(f"{name}, read from a file,", other.state_dict()[name], weight, exact=True)
        same("an image by a model read from a file", other.reconstruct(x), model.reconstruct(x), exact=True)


def check_batches(batches: Batches) -> None:
    """Check that a source gives batches of images, and goes on from where it was when its state was taken.

    Args:
        batches: The source before its first batch; it is copied. One that ends before eight batches is tried as far
            as it goes.

    Raises:
        TypeError: If it is no :class:`gmlvm.batches.Batches`.
        AssertionError: If it fails.

    Example:
        >>> from gmlvm.batches import TensorBatches
        >>> check_batches(TensorBatches(torch.zeros(10, 1, 6, 5, dtype=torch.uint8), batch_size=4))
    """
    check_type("batches", batches, Batches)
    source, later, generator = copied("the source", batches), copied("the source", batches), seeded()
    with ambient():
        source.restore(source.state())  # of one that has given nothing yet
        described = _description(source)
        _draw(source, generator, 3)
        kept = {name: _cloned(f"{name} of state()", each) for name, each in source.state().items()}
        of_generators = generator.get_state(), torch.get_rng_state()
        expected = _draw(source, generator, 5)
        torch.default_generator.manual_seed(1)  # as another process finds it
        later.restore(kept)
        generator.set_state(of_generators[0])
        torch.set_rng_state(of_generators[1])
        got = _draw(later, generator, 5)
    require(
        len(got) == len(expected) and all(map(torch.equal, got, expected)),
        "a source that is given its state, with the generators as they were, must go on with the same batches, got "
        "others: let state() hold all that decides the next batch, and draw from the generator that is given",
    )
    same_text = described == _description(source) == _description(later)
    require(same_text, f"describe() must say the same of the same source, got {described} and {_description(source)}")


def _codes(
    prior: Prior, seed: int = 0, shift: float = 0.0, sharpness: float = 0.5, batch: int = 24
) -> dict[str, Tensor]:
    """A posterior, and noise to draw from it, whose codes are about the prior's, or ``shift`` scales off."""
    generator, size = seeded(seed), (batch, prior.num_components, prior.latent_dim)
    logits = prior.logits + sharpness * normal(generator, *size[:2])
    loc = prior.codes(normal(generator, *size), torch.arange(size[1]).expand(size[:2])) + shift * prior.scale
    scale = (0.1 * prior.scale).expand(size).clone()
    return {"logits": logits, "loc": loc, "scale": scale, "noise": normal(generator, *size)}


def _draw(source: Batches, generator: torch.Generator, count: int) -> list[Tensor]:
    """The images of the next batches, as many as there are, if they are what a batch holds."""
    images: list[Tensor] = []
    while len(images) < count:
        try:
            batch = source.draw(generator)
        except EOFError:
            break
        fine = isinstance(batch, Batch) and isinstance(batch.images, Tensor)
        require(fine, f"a source must give a Batch whose images are a tensor, got {type(batch).__name__}")
        shape = tuple(batch.images.shape)
        require(len(shape) == 4 and min(shape) > 0, f"images must have shape (B, C, H, W), none zero, got {shape}")
        low, high, dtype = batch.images.min().item(), batch.images.max().item(), batch.images.dtype
        fine = dtype == torch.uint8 or (dtype.is_floating_point and 0 <= low <= high <= 1)
        require(fine, f"images must be uint8 or floating point in [0, 1], got {dtype} from {low:g} to {high:g}")
        if batch.indices is not None:
            tensor("indices of a batch", batch.indices, (len(batch.images),), torch.int64)
        images.append(batch.images)
    return images


def _cloned(what: str, value: object) -> Tensor:
    return tensor(what, value, getattr(value, "shape", ()), None).clone()


def _description(source: Batches) -> str:
    """What a source says of itself, as a checkpoint keeps it."""
    try:
        return json.dumps(source.describe())
    except TypeError as error:
        raise AssertionError(f"describe() must give what JSON can hold, got {source.describe()} ({error})") from error
