"""When the discrete latent survives: the ELBO taken apart, and what its runs write."""

import json
from copy import deepcopy

import pytest
import torch

from experiments import causes, controls, price, survival, unmatched, ways_out
from experiments.elbo import (
    PULLS,
    Apart,
    CommonAlone,
    Cut,
    Encouraged,
    FreeBits,
    Priced,
    Relaxed,
    Scheduled,
    Shrunk,
    Slow,
    TowardsWAE,
    use,
)
from gmlvm import GMLVM, MMD, VAE, WAE, metrics
from gmlvm.batches import Batch
from gmlvm.enumeration import Dense, Truncated
from gmlvm.networks import deep_discrete_encoder


@pytest.fixture
def batch():
    return Batch(torch.rand(30, 1, 4, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64))


def seeded():
    return torch.Generator().manual_seed(3)


def terms_and_gradients(model, objective, batch):
    model.zero_grad()
    terms = objective(model, batch, seeded())
    terms.loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return terms, gradients


def of_discrete_encoder(gradients):
    return torch.cat([g.flatten() for name, g in gradients.items() if name.startswith("discrete_encoder")])


@pytest.mark.parametrize("objective", [Apart(Dense()), Cut(), TowardsWAE(0.0, 7.0), FreeBits(0.0)], ids=repr)
def test_put_together_again_it_is_the_vaes_elbo(double_model, batch, objective):
    objective.enumeration = Dense()
    (ours, our_gradients), (plain, gradients) = (
        terms_and_gradients(double_model, each, batch) for each in (objective, VAE())
    )
    torch.testing.assert_close(tuple(ours), tuple(plain))
    torch.testing.assert_close(our_gradients, gradients)


def test_a_cut_changes_the_gradient_of_q_d_and_nothing_else(double_model, batch):
    whole, gradients = terms_and_gradients(double_model, Cut(), batch)
    pulls = []
    for pull in PULLS:
        terms, cut = terms_and_gradients(double_model, Cut([pull]), batch)
        torch.testing.assert_close(tuple(terms), tuple(whole))
        for name in gradients:
            if not name.startswith("discrete_encoder"):
                torch.testing.assert_close(cut[name], gradients[name])
        pulls.append(of_discrete_encoder(gradients) - of_discrete_encoder(cut))
        assert pulls[-1].abs().max() > 1e-4
    torch.testing.assert_close(sum(pulls), of_discrete_encoder(gradients))
    _, none = terms_and_gradients(double_model, Cut(PULLS), batch)
    assert not any(name.startswith("discrete_encoder") and g.any() for name, g in none.items())


def test_what_is_common_to_all_images_is_taken_out_of_the_pulls(double_model, batch):
    """A decoder that likes one component for every image by the same amount pulls no more."""
    decode = double_model.decoder_logits
    double_model.decoder_logits = lambda codes: 0 * decode(codes)  # each image costs every component the same
    loc = double_model.continuous_encoder
    constant = [value[:1].detach() for value in loc(batch.images)]
    double_model.continuous_encoder.forward = lambda x: [v.expand(len(x), -1, -1) for v in constant]
    _, pulled = terms_and_gradients(double_model, Cut(["kl_k"]), batch)
    _, cut = terms_and_gradients(double_model, Cut(["kl_k"], common=True), batch)
    assert of_discrete_encoder(pulled).abs().max() > 1e-4
    assert of_discrete_encoder(cut).abs().max() < 1e-12


def test_what_is_common_and_what_is_not_are_the_whole_pull(double_model, batch):
    found = [
        terms_and_gradients(double_model, objective, batch)
        for objective in (Cut(["kl_k"]), Cut(["kl_k"], common=True), CommonAlone(["kl_k"]))
    ]
    for terms, gradients in found[1:]:
        torch.testing.assert_close(tuple(terms), tuple(found[0][0]))
        for name in ("continuous_encoder", "decoder"):
            for key in (key for key in gradients if key.startswith(name)):
                torch.testing.assert_close(gradients[key], found[0][1][key])
    whole, particular, common = (of_discrete_encoder(gradients) for _, gradients in found)
    assert min(particular.abs().max(), common.abs().max()) > 1e-4
    torch.testing.assert_close(particular + common, whole)


def pull_on_logits(model, objective, batch):
    """Gradient of the loss in the logits of q_D, (B, K)."""
    logits = []
    handle = model.discrete_encoder.register_forward_hook(lambda module, x, y: logits.append(y))
    loss = objective(model, batch, seeded()).loss
    handle.remove()
    (pull,) = torch.autograd.grad(loss, logits)
    return pull


def test_shrunk_pulls_point_where_the_whole_ones_do_and_are_as_strong_as_without_the_common_part(double_model, batch):
    whole, particular, shrunk = (
        pull_on_logits(double_model, objective, batch)
        for objective in (Cut(["kl_k"]), Cut(["kl_k"], common=True), Shrunk(["kl_k"]))
    )
    assert particular.norm() < 0.9 * whole.norm()
    torch.testing.assert_close(shrunk.norm(), particular.norm())
    torch.testing.assert_close(shrunk / shrunk.norm(), whole / whole.norm())
    with torch.no_grad():
        double_model.discrete_encoder[-1].bias[0] += 1e4  # where nothing pulls, nothing is shrunk either
    assert not pull_on_logits(double_model, Shrunk(["kl_k"]), batch).any()


def test_a_slow_q_d_has_whole_pulls_and_steps_as_much_shorter_as_the_cut_makes_the_pulls(double_model, batch):
    slow = Slow()
    (_, gradients), (_, whole) = (terms_and_gradients(double_model, objective, batch) for objective in (slow, Cut()))
    torch.testing.assert_close(gradients, whole)
    full, particular = (
        pull_on_logits(double_model, Cut(["kl_k"], common=common), batch).norm() for common in (False, True)
    )
    assert slow.factor == pytest.approx((particular / full).item())
    assert slow.factor < 0.9
    before = {name: parameter.detach().clone() for name, parameter in double_model.named_parameters()}
    trained = [parameter for parameter in double_model.parameters() if parameter.requires_grad]
    slow.optimizer(double_model, 1e-3)(trained).step()
    longest = {}
    for name, parameter in double_model.named_parameters():
        part = name.partition(".")[0]
        longest[part] = max(longest.get(part, 0.0), (parameter - before[name]).abs().max().item())
    # The first step of Adam is as long as the rate, whatever the gradient is.
    assert longest["discrete_encoder"] == pytest.approx(1e-3 * slow.factor, rel=1e-4)
    assert longest["decoder"] == pytest.approx(1e-3, rel=1e-4)
    with torch.no_grad():
        double_model.discrete_encoder[-1].bias[0] += 1e4  # where nothing pulls, nothing is slow
    slow(double_model, batch, seeded())
    assert slow.factor == 1.0


@pytest.mark.parametrize(("of_k", "of_z"), [(True, False), (False, True), (True, True)])
def test_the_price_rises_step_by_step_while_it_is_trained(double_model, batch, of_k, of_z):
    objective = Scheduled(2, of_k=of_k, of_z=of_z)
    shares = []
    for _ in range(4):
        terms = objective(double_model, batch, seeded())
        shares.append((terms.loss - terms.reconstruction).item())
    kl_z, kl_k = terms.kl_z.item(), terms.kl_k.item()
    expected = [(share if of_z else 1) * kl_z + (share if of_k else 1) * kl_k for share in (0, 0.5, 1, 1)]
    assert shares == pytest.approx(expected)
    objective.eval()(double_model, batch, seeded())
    assert objective.count == 4


@pytest.mark.parametrize(("of_k", "of_z"), [(1.0, 1.0), (10.0, 10.0), (0.5, 3.0)])
def test_each_kl_has_its_price(double_model, batch, of_k, of_z):
    terms = Priced(of_k, of_z, Truncated())(double_model, batch, seeded())
    charged = of_k * terms.kl_k + of_z * terms.kl_z
    assert (terms.loss - terms.reconstruction).item() == pytest.approx(charged.item())
    if of_k == of_z:
        assert terms.loss.item() == pytest.approx(VAE(of_k, Truncated())(double_model, batch, seeded()).loss.item())


def test_prices_are_all_different_and_one_of_them_is_the_elbo():
    weights = list(price.PRICES.values())
    assert len({*weights}) == len(weights)
    assert price.PRICES["both 1"] == (1.0, 1.0)
    assert len(price.METHODS) == 2 * len(weights)


def test_free_nats_have_no_gradient_and_more_than_these_have(double_model, batch):
    terms = VAE()(double_model, batch, seeded())
    for nats, pulls in ((terms.kl_k.item() + 0.1, False), (terms.kl_k.item() / 2, True)):
        found = FreeBits(nats)(double_model, batch, seeded())
        assert found.loss.item() == pytest.approx(
            (found.reconstruction + found.kl_z).item() + max(nats, terms.kl_k.item())
        )
        assert (
            torch.autograd.grad(
                found.loss - found.reconstruction - found.kl_z, double_model.discrete_encoder[-1].weight
            )[0].any()
            == pulls
        )


def test_use_is_what_the_metrics_say(double_model, batch):
    log_probs = double_model.posterior(batch.images).log_probs
    entropy, information = use(log_probs)
    assert entropy.item() == pytest.approx(metrics.component_entropy(log_probs.exp().detach().numpy()))
    assert information.item() == pytest.approx(metrics.mutual_information(log_probs.exp().detach().numpy()))


@pytest.mark.parametrize("information", [True, False])
def test_a_reward_is_subtracted(double_model, batch, information):
    terms = Encouraged(3.0, information=information)(double_model, batch, seeded())
    goal = use(double_model.posterior(batch.images).log_probs)[int(information)]
    whole = terms.reconstruction + terms.kl_z + terms.kl_k - 3 * goal
    assert terms.loss.item() == pytest.approx(whole.item())


def test_at_its_end_the_path_has_the_penalty_alone(double_model, batch):
    terms = TowardsWAE(1.0, 7.0)(double_model, batch, seeded())
    divergence = WAE(1.0)(double_model, batch, seeded()).divergence
    assert isinstance(WAE(1.0).penalty, MMD)
    # The sum over k is drawn in both, and the codes after it, from the same numbers.
    assert terms.loss.item() == pytest.approx((terms.reconstruction + 7 * divergence).item())


def test_a_cold_relaxed_draw_decodes_one_component(double_model, batch):
    decoded, decode = [], double_model.decoder_logits
    double_model.decoder_logits = lambda codes: (decoded.append(codes), decode(codes))[1]
    terms = Relaxed(1e-6)(double_model, batch, seeded())
    gumbel = -torch.empty(30, 3, dtype=torch.float64).exponential_(generator=(generator := seeded())).log()
    posterior = double_model.posterior(batch.images)
    k = (posterior.log_probs + gumbel).argmax(1)
    torch.testing.assert_close(decoded[0], posterior.sample(generator)[torch.arange(30), k])
    assert terms.loss.item() == pytest.approx((terms.reconstruction + terms.kl_z + terms.kl_k).item())


@pytest.mark.parametrize("objective", [Cut(), WAE(5.0, MMD("codes"), enumeration=Dense())], ids=["ELBO", "WAE"])
def test_drifts_are_what_a_small_step_does(double_model, batch, objective):
    found = causes.drifts(double_model, objective, batch.images, seed=3)
    assert list(found) == [n for n in ("reconstruction", "kl_z", "kl_k", "divergence") if n in objective(
        double_model, batch, seeded())._fields]  # fmt: skip
    weights = {"divergence": 5.0}
    parameters, step = list(double_model.discrete_encoder.parameters()), 1e-5
    before = [goal.item() for goal in use(double_model.posterior(batch.images).log_probs)]
    start = [p.detach().clone() for p in parameters]
    for name, slopes in found.items():
        term = weights.get(name, 1.0) * getattr(objective(double_model, batch, seeded()), name)
        gradients = torch.autograd.grad(term, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= step * gradient
            after = [goal.item() for goal in use(double_model.posterior(batch.images).log_probs)]
            for parameter, old in zip(parameters, start, strict=True):
                parameter.copy_(old)
        for slope, old, new in zip(slopes, before, after, strict=True):
            assert (new - old) / step == pytest.approx(slope, rel=1e-2, abs=1e-6)


@pytest.fixture
def small(monkeypatch, small_data):
    """Four quadrants, and a model for them in the place of what is shipped."""
    for module in (causes, ways_out, survival):
        monkeypatch.setattr(module.datasets, "mnist", lambda: small_data)
        for name, value in {"num_components": 4, "latent_dim": 3, "steps": 3, "rising_steps": 2}.items():
            if name in module.SETTINGS:
                monkeypatch.setitem(module.SETTINGS, name, value)
    monkeypatch.setitem(causes.SETTINGS, "looks", [0, 3])
    monkeypatch.setitem(causes.SETTINGS, "look_images", 40)
    shipped = GMLVM.for_images(small_data.image_shape, 4, 3, networks="deep", seed=9)
    for module, name in ((causes, "pretrained"), (ways_out, "pretrained"), (survival, "pretrained")):
        monkeypatch.setattr(module, name, lambda _: deepcopy(shipped).requires_grad_(False))
    return shipped.requires_grad_(False)


def test_every_change_is_looked_at_from_either_start(small):
    found = {name: method(0) for name, method in causes.METHODS.items()}
    assert len(found) == 2 * len(causes.CHANGES) + 1
    assert len({json.dumps(figures) for figures in found.values()}) == len(found)
    for name, figures in found.items():
        assert len(figures["entropy"]) == len(figures["information"]) == len(figures["drifts"]) == 2
        cut = next((pull for pull in PULLS if f"{pull} cut" in name), None)
        expected = {"reconstruction", "divergence"} if "WAE" in name else {*PULLS} - {cut}
        assert set(figures["drifts"][0]) == expected, name


def test_every_control_is_another_run_from_either_start(small):
    runs = {**controls.METHODS, **{name: causes.METHODS[name] for name in ("near zero, none", "ordinary, none")}}
    found = {name: method(0) for name, method in runs.items()}
    assert len(found) == 2 * len(controls.CHANGES) + 2
    assert len({json.dumps(figures["entropy"]) for figures in found.values()}) == len(found)
    assert not controls.METHODS.keys() & causes.METHODS.keys()


def test_from_the_start_that_is_not_matched_every_change_is_another_run(small):
    runs = {**unmatched.METHODS, **{name: causes.METHODS[name] for name in ("near zero, none", "ordinary, none")}}
    found = {name: method(0) for name, method in runs.items()}
    assert len(found) == len(unmatched.OWN) + 4
    assert len({json.dumps(figures["report"]) for figures in found.values()}) == len(found)
    assert not unmatched.METHODS.keys() & {*causes.METHODS, *controls.METHODS}


def test_q_c_stays_where_it_is_frozen_and_what_is_trained_is_taken_over(small, small_data):
    model = causes.new_model(0, None, trained=True)
    for part in ("continuous_encoder", "decoder"):
        for name, tensor in getattr(small, part).state_dict().items():
            assert torch.equal(getattr(model, part).state_dict()[name], tensor)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = deep_discrete_encoder(small_data.image_shape, 4)
    assert all(map(torch.equal, model.discrete_encoder.state_dict().values(), fresh.state_dict().values()))
    assert all(parameter.requires_grad for parameter in model.discrete_encoder.parameters())


def test_every_way_out_is_taken(small):
    found = {name: method(0)["report"] for name, method in ways_out.METHODS.items()}
    assert found.keys() == ways_out.WAYS.keys()
    assert len({json.dumps(report) for report in found.values()}) == len(found)


def test_every_cell_of_the_map_is_another(small):
    found = {name: method(0)["report"] for name, method in survival.METHODS.items()}
    assert len(found) == 48
    assert len({json.dumps(report) for report in found.values()}) == 48


def test_the_start_of_q_d_is_what_is_shipped(small):
    model = survival.new_model("of q_D", 16, "mlp", 0)
    other = survival.new_model("ordinary", 16, "mlp", 0)
    state, shipped = model.discrete_encoder.state_dict(), small.discrete_encoder.state_dict()
    assert all(map(torch.equal, state.values(), shipped.values()))
    assert all(map(torch.equal, model.decoder.state_dict().values(), other.decoder.state_dict().values()))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in small.parameters())
