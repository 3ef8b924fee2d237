"""Independent computations in NumPy and SciPy, straight from the formulas. Nothing here imports gmlvm or torch."""

import numpy as np
from scipy.integrate import nquad, quad
from scipy.optimize import linprog
from scipy.special import expit, log_softmax, logsumexp, xlogy
from scipy.stats import multivariate_normal


def linear(x, weight, bias):
    return x @ weight.T + bias


def relu(x):
    return np.maximum(x, 0)


def discrete_encoder(x, p):
    """log q_D(k|x), (B, K), of the one-hidden-layer perceptron with parameters p."""
    hidden = relu(linear(x.reshape(len(x), -1), p["discrete_encoder.1.weight"], p["discrete_encoder.1.bias"]))
    return log_softmax(linear(hidden, p["discrete_encoder.3.weight"], p["discrete_encoder.3.bias"]), axis=1)


def continuous_encoder(x, p):
    """Means and standard deviations of q_C(z|k,x), each (B, K, D), by K separate perceptrons."""
    weight, bias = p["continuous_encoder.weight"], p["continuous_encoder.bias"]  # (K, h, 2D), (K, 2D)
    num_components, hidden_dim, twice_dim = weight.shape
    flat, locs, scales = x.reshape(len(x), -1), [], []
    for k in range(num_components):
        rows = slice(k * hidden_dim, (k + 1) * hidden_dim)
        hidden = relu(
            linear(flat, p["continuous_encoder.hidden.weight"][rows], p["continuous_encoder.hidden.bias"][rows])
        )
        out = hidden @ weight[k] + bias[k]
        locs.append(out[:, : twice_dim // 2])
        scales.append(np.exp(out[:, twice_dim // 2 :]))
    return np.stack(locs, 1), np.stack(scales, 1)


def decoder(z, p):
    """Decoder logits, (N, pixels), of the two-hidden-layer perceptron."""
    for layer in (0, 2):
        z = relu(linear(z, p[f"decoder.{layer}.weight"], p[f"decoder.{layer}.bias"]))
    return linear(z, p["decoder.4.weight"], p["decoder.4.bias"])


def negative_elbo(x, noise, p, beta):
    """(loss, reconstruction, kl_z, kl_k) in nats per image, image by image and component by component."""
    log_q = discrete_encoder(x, p)
    loc, scale = continuous_encoder(x, p)
    prior_loc, prior_scale = p["prior.loc"], p["prior.scale"]
    log_prior = log_softmax(p["prior.logits"])
    batch, num_components = log_q.shape
    reconstruction = kl_z = kl_k = 0.0
    for i in range(batch):
        for k in range(num_components):
            q = np.exp(log_q[i, k])
            z = loc[i, k] + scale[i, k] * noise[i, k]
            mean = expit(decoder(z[None], p)[0])
            pixels = x[i].ravel()
            reconstruction -= q * (xlogy(pixels, mean) + xlogy(1 - pixels, 1 - mean)).sum()
            kl = 0.0
            for d in range(len(z)):
                s, m = prior_scale[k, d], prior_loc[k, d]
                kl += np.log(s / scale[i, k, d]) + (scale[i, k, d] ** 2 + (loc[i, k, d] - m) ** 2) / (2 * s**2) - 0.5
            kl_z += q * kl
            kl_k += q * (log_q[i, k] - log_prior[k])
    terms = np.array([reconstruction, kl_z, kl_k]) / batch
    return terms[0] + beta * (terms[1] + terms[2]), *terms


def expected_squared_error(x, noise, p):
    """Sum over k of q_D(k|x) times the squared error summed over pixels, mean over the batch."""
    q = np.exp(discrete_encoder(x, p))
    loc, scale = continuous_encoder(x, p)
    total = 0.0
    for i in range(len(x)):
        for k in range(q.shape[1]):
            image = expit(decoder((loc[i, k] + scale[i, k] * noise[i, k])[None], p)[0])
            total += q[i, k] * ((image - x[i].ravel()) ** 2).sum()
    return total / len(x)


def imq(a, b, constants):
    return sum(c / (c + ((a - b) ** 2).sum()) for c in constants)


def prior_part(prior_probs, loc, scale, constants, joint):
    """E kappa(y, y') over independent draws of the prior, by adaptive quadrature of the Laplace integral."""
    total = 0.0
    for k, p in enumerate(prior_probs):
        for l, q in enumerate(prior_probs):  # noqa: E741
            if joint and k != l:
                continue
            difference, variance = loc[k] - loc[l], scale[k] ** 2 + scale[l] ** 2
            for c in constants:

                def integrand(t, c=c, difference=difference, variance=variance):
                    root = np.sqrt(1 + 2 * t * variance / c)
                    return np.exp(-t - (t * difference**2 / (c + 2 * t * variance)).sum()) / root.prod()

                total += p * q * quad(integrand, 0, np.inf, epsabs=1e-12)[0]
    return total


def squared_mmd(probs, z, prior_probs, prior_z, constants, joint, prior_part=None):
    """The unbiased estimate by its double sums, pair by pair; the prior's own part is estimated if not given."""
    batch, num_components, _ = z.shape
    samples = prior_z.shape[1]
    data = cross = prior = 0.0
    for k in range(num_components):
        for l in range(num_components):  # noqa: E741
            if joint and k != l:
                continue
            for i in range(batch):
                for j in range(batch):
                    if i != j:
                        data += probs[i, k] * probs[j, l] * imq(z[i, k], z[j, l], constants) / (batch * (batch - 1))
                for m in range(samples):
                    cross += probs[i, k] * prior_probs[l] * imq(z[i, k], prior_z[l, m], constants) / (batch * samples)
            pairs = [(m, n) for m in range(samples) for n in range(samples) if k != l or m != n]
            mean = np.mean([imq(prior_z[k, m], prior_z[l, n], constants) for m, n in pairs])
            prior += prior_probs[k] * prior_probs[l] * mean
    return data - 2 * cross + (prior if prior_part is None else prior_part)


def mixture_log_prob(z, log_weights, loc, scale):
    """log sum_k w_k N(z; m_k, diag s_k^2) by SciPy's densities."""
    densities = [multivariate_normal(m, np.diag(s**2)).pdf(z) for m, s in zip(loc, scale, strict=True)]
    return np.log(np.tensordot(np.exp(log_weights), np.array(densities), axes=1))


def gaussian_mean(function, difference, variance):
    """E function(|a - b|^2) for a - b ~ N(difference, diag variance), by quadrature of the density itself."""

    def integrand(*steps):
        steps = np.array(steps)
        density = np.exp(-(steps**2).sum() / 2) / (2 * np.pi) ** (len(steps) / 2)
        return function(((difference + np.sqrt(variance) * steps) ** 2).sum()) * density

    return nquad(integrand, [(-9, 9)] * len(difference), opts={"epsabs": 1e-10, "epsrel": 1e-9})[0]


def squared_distances(a, b):
    return ((a[:, None] - b) ** 2).sum(-1)


def transport_cost(weight, a, other_weight, b):
    """The optimal cost of carrying weights at a to weights at b, for squared distances, as a linear programme."""
    n, m = len(a), len(b)
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    marginals = np.concatenate([weight, other_weight])
    return linprog(squared_distances(a, b).ravel(), A_eq=np.vstack([rows, columns]), b_eq=marginals).fun


def sinkhorn_cost(weight, a, other_weight, b, regularisation):
    """The dual of transport with the regularisation KL(plan | product of the weights), iterated until it stands."""
    cost, f, g = squared_distances(a, b) / regularisation, np.zeros(len(a)), np.zeros(len(b))
    for _ in range(1500):
        f = -logsumexp(g - cost, b=other_weight, axis=1)
        g = -logsumexp(f[:, None] - cost, b=weight[:, None], axis=0)
    return regularisation * (weight @ f + other_weight @ g)
