"""The exact parts against references written here in NumPy and SciPy, at 1e-10."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import rto
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logsumexp, softmax
from scipy.stats import chi2

INSTANCES = [(2, 3, 1, None), (3, 2, 2, 0), (2, 4, 3, 1), (4, 3, 1, None), (5, 1, 2, None)]


def children(tree, eos):
    """Next state of each pair, -1 for the end, by looking states up."""
    out = np.full((tree.n_states, tree.n_actions), -1)
    for s in range(tree.n_states):
        prompt, prefix = tree.prefix(s)
        for a in range(tree.n_actions):
            if a != eos and len(prefix) + 1 < tree.horizon:
                out[s, a] = tree.state(prefix + [a], prompt)
    return out


def backward(tree, eos, reward, log_reference, beta):
    """(3.2)-(3.4), one state at a time."""
    next_state, v, q = children(tree, eos), np.zeros(tree.n_states), np.zeros_like(reward)
    for s in reversed(range(tree.n_states)):
        later = np.where(next_state[s] >= 0, v[next_state[s]], 0.0)
        q[s] = reward[s] + beta * log_reference[s] + later
        v[s] = beta * logsumexp(q[s] / beta)
    return v, q


def responses(tree, eos, prompt):
    """(states, actions) of every response to a prompt."""

    def grow(prefix):
        state = tree.state(prefix, prompt)
        for a in range(tree.n_actions):
            if a == eos or len(prefix) + 1 == tree.horizon:
                yield [(state, a)]
            else:
                for rest in grow(prefix + [a]):
                    yield [(state, a), *rest]

    return list(grow([]))


@pytest.fixture(params=range(4 * len(INSTANCES)))
def instance(request):
    n_actions, horizon, n_prompts, eos = INSTANCES[request.param % len(INSTANCES)]
    rng = np.random.default_rng(request.param)
    rho = rng.dirichlet(np.ones(n_prompts))
    tree = rto.TokenTree(n_actions, horizon, n_prompts, eos=eos, initial=rho)
    shape = (tree.n_states, n_actions)
    return tree, eos, rho, rng.normal(size=shape), rng.normal(size=shape), rng, float(rng.uniform(0.05, 2.0))


def test_soft_values_are_those_of_a_backward_pass(instance):
    tree, eos, rho, reward, logits, _, beta = instance
    log_reference = logits - logsumexp(logits, axis=1, keepdims=True)
    found = rto.soft_value_iteration(tree, reward, rto.Policy.from_logits(logits), beta)
    v, q = backward(tree, eos, reward, log_reference, beta)
    np.testing.assert_allclose(found.v, v, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.q, q, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.policy.probs, np.exp((q - v[:, None]) / beta), rtol=1e-10)
    roots = [tree.state([], p) for p in range(tree.n_prompts)]
    assert found.value == pytest.approx(rho @ v[roots], rel=1e-10)


def test_values_and_suboptimality_are_those_of_enumeration(instance):
    tree, eos, rho, reward, logits, rng, beta = instance
    reference, policy = softmax(logits, axis=1), softmax(rng.normal(size=reward.shape), axis=1)
    best = value = 0.0
    for prompt in range(tree.n_prompts):
        terms = []
        for response in responses(tree, eos, prompt):
            s, a = map(list, zip(*response))
            p, r = np.log(policy[s, a]).sum(), np.log(reference[s, a]).sum()
            terms.append((reward[s, a].sum(), p, r))
        total, log_p, log_r = np.array(terms).T
        value += rho[prompt] * (np.exp(log_p) @ (total - beta * (log_p - log_r)))
        best += rho[prompt] * beta * logsumexp(log_r + total / beta)
    assert rto.evaluate(tree, reward, policy, reference, beta).value == pytest.approx(value, rel=1e-10, abs=1e-12)
    assert rto.suboptimality(tree, reward, policy, reference, beta) == pytest.approx(best - value, rel=1e-9, abs=1e-11)


def test_visits_are_those_of_enumeration(instance):
    tree, eos, rho, _, logits, _, _ = instance
    policy = softmax(logits, axis=1)
    pair = np.zeros_like(policy)
    for prompt in range(tree.n_prompts):
        for response in responses(tree, eos, prompt):
            s, a = map(list, zip(*response))
            pair[s, a] += rho[prompt] * policy[s, a].prod()
    found = rto.visitation(tree, policy)
    np.testing.assert_allclose(found.pair, pair, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(found.state, pair.sum(axis=1), rtol=1e-10, atol=1e-14)


def test_a_table_is_what_its_tree_is(instance):
    tree, eos, rho, reward, logits, _, beta = instance
    initial = np.zeros(tree.n_states)
    initial[[tree.state([], p) for p in range(tree.n_prompts)]] = rho
    # Levels of several prompts lie behind each other, so that every state comes before its successors.
    table = rto.TabularMdp(children(tree, eos), initial)
    reference = rto.Policy.from_logits(logits)
    a, b = (rto.soft_value_iteration(m, reward, reference, beta) for m in (tree, table))
    # A tree goes through vectors of its own, which round in another order.
    for x, y in ((a.v, b.v), (a.q, b.q), (a.value, b.value), (a.policy.log_probs, b.policy.log_probs)):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("seed", range(6))
def test_the_estimate_is_that_of_a_generic_optimiser(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 4))
    x *= np.sign(x @ rng.normal(size=4) + rng.logistic(size=60))[:, None]
    fit = rto.fit_bradley_terry(x)
    other = minimize(
        lambda t: -log_expit(x @ t).sum(), np.zeros(4), jac=lambda t: -x.T @ expit(-x @ t), method="BFGS", options={"gtol": 1e-10}
    )
    np.testing.assert_allclose(fit.theta, other.x, rtol=1e-7, atol=1e-8)
    assert np.linalg.norm(x.T @ expit(-x @ fit.theta)) <= 1e-10 * np.abs(x).sum()
    assert fit.log_likelihood == pytest.approx(log_expit(x @ fit.theta).sum(), rel=1e-12)
    bound = 0.5 * fit.norm
    inside = rto.fit_bradley_terry(x, param_bound=bound)
    gradient = x.T @ expit(-x @ inside.theta)
    assert inside.at_bound and inside.norm == pytest.approx(bound, rel=1e-12)
    np.testing.assert_allclose(gradient, inside.multiplier * inside.theta, atol=1e-9 * np.linalg.norm(gradient))


def token_counts(rng, n, d):
    """Differences of counts of 12 tokens, as the sign of each that a draw from (3.1) leaves."""
    counts = lambda: sparse.csr_matrix(
        (np.ones(12 * n), (np.repeat(np.arange(n), 12), (d * rng.random(12 * n) ** 2).astype(int))), shape=(n, d)
    )
    x = counts() - counts()
    wins = rng.random(n) < expit(x @ rng.normal(scale=0.3, size=d))
    return sparse.csr_matrix(sparse.diags(np.where(wins, 1.0, -1.0)) @ x)


@pytest.mark.parametrize("d", [7, 300])
def test_a_sparse_estimate_is_that_of_scipy_and_of_the_same_rows_with_their_zeros(d):
    x = token_counts(np.random.default_rng(d), 2000, d)
    penalty = 0.5
    fit = rto.fit_bradley_terry(x, penalty=penalty)
    value = lambda t: 0.5 * penalty * t @ t - log_expit(x @ t).sum()
    gradient = lambda t: penalty * t - x.T @ expit(-(x @ t))
    other = minimize(value, np.zeros(d), jac=gradient, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 0.0, "maxiter": 5000})
    assert np.linalg.norm(gradient(fit.theta)) <= 1e-9 * x.shape[0]
    np.testing.assert_allclose(fit.theta, other.x, atol=1e-6)
    dense = rto.fit_bradley_terry(x.toarray(), penalty=penalty)
    # The penalty bends f by itself: a point is no further from the minimum than its gradient over it.
    apart = sum(np.linalg.norm(gradient(each.theta)) for each in (fit, dense)) / penalty
    assert np.linalg.norm(fit.theta - dense.theta) <= apart < 1e-7
    assert fit.log_likelihood == pytest.approx(log_expit(x @ fit.theta).sum(), rel=1e-12)
    inside = rto.fit_bradley_terry(x, param_bound=0.5 * fit.norm)
    assert inside.at_bound and inside.norm == pytest.approx(0.5 * fit.norm, rel=1e-12)


def test_a_sparse_matrix_of_any_format_is_the_same_and_stays_as_it_is():
    x = token_counts(np.random.default_rng(1), 400, 20)
    theta = rto.fit_bradley_terry(x, penalty=1.0).theta
    rows = x.sorted_indices()
    bare = SimpleNamespace(indptr=rows.indptr, indices=rows.indices.tolist(), data=rows.data.astype(np.float32), shape=x.shape)
    for same in (x.tocsc(), x.tocoo(), x.tolil(), sparse.csr_array(x), x.astype(np.int8), bare):
        np.testing.assert_array_equal(rto.fit_bradley_terry(same, penalty=1.0).theta, theta)
    # Columns out of order, and one entry in two parts.
    indptr, indices, data = x.indptr.copy(), x.indices.copy(), x.data.copy()
    end = indptr[1]
    indices[:end], data[:end] = indices[:end][::-1], data[:end][::-1]
    indices, data = np.insert(indices, 0, indices[0]), np.insert(data, 0, 0.5)
    data[1] -= 0.5
    indptr[1:] += 1
    split = sparse.csr_matrix((data, indices, indptr), shape=x.shape)
    before = split.data.copy(), split.indices.copy()
    np.testing.assert_array_equal(rto.fit_bradley_terry(split, penalty=1.0).theta, theta)
    np.testing.assert_array_equal(split.data, before[0])
    np.testing.assert_array_equal(split.indices, before[1])


def test_a_design_is_a_difference_of_sums(instance):
    tree, eos, _, _, _, rng, _ = instance
    phi = rng.normal(size=(tree.n_states, tree.n_actions, 3))
    prompt = tree.n_prompts - 1
    every = responses(tree, eos, prompt)
    pairs = [(every[i], every[j]) for i, j in itertools.islice(itertools.combinations(range(len(every)), 2), 20)]
    psi = lambda response: sum(phi[s, a] for s, a in response)
    tokens = lambda response: [a for _, a in response]
    x = rto.design(tree, phi, [(prompt, tokens(w), tokens(l)) for w, l in pairs])
    np.testing.assert_allclose(x, [psi(w) - psi(l) for w, l in pairs], rtol=1e-12, atol=1e-12)


def test_radii_and_pessimism_are_their_formulas(instance):
    tree, eos, rho, _, logits, rng, beta = instance
    d, ridge, bound = 3, 0.7, 2.0
    phi = rng.normal(size=(tree.n_states, tree.n_actions, d))
    x = rng.normal(size=(25, d)) * rng.choice([-1, 1], size=(25, 1))
    fit = rto.fit_bradley_terry(x, param_bound=bound)
    length = np.linalg.norm(phi, axis=2).max()
    constants = dict(horizon=tree.horizon, feature_bound=length, param_bound=bound, ridge=ridge)
    radius, metric, finite = rto.confidence_radius(x, fit.theta, "wald", **constants)
    assert (metric, finite) == ("fisher", False) and radius == pytest.approx(np.sqrt(chi2.ppf(0.95, d)), rel=1e-9)
    margin = 2 * tree.horizon * length * bound
    upsilon = 1 / (2 + np.exp(margin) + np.exp(-margin))
    printed, metric, _ = rto.confidence_radius(x, fit.theta, "printed", printed_constant=0.5, **constants)
    assert metric == "sigma_d"
    assert printed == pytest.approx(0.5 * np.sqrt(d * np.log(20) / upsilon) + ridge * bound**2, rel=1e-10)
    sigma = x.T @ x + ridge * np.eye(d)
    norms = np.sqrt(np.einsum("sai,ij,saj->sa", phi, np.linalg.inv(sigma), phi))
    found = rto.algorithm1(tree, phi, rto.Policy.from_logits(logits), beta, x, fit.theta, 1.5, ridge=ridge, param_bound=bound)
    log_reference = logits - logsumexp(logits, axis=1, keepdims=True)
    v, _ = backward(tree, eos, phi @ fit.theta - 1.5 * norms, log_reference, beta)
    np.testing.assert_allclose(found.v, v, rtol=1e-9, atol=1e-11)


def test_max_min_is_attained_by_no_other_theta(instance):
    tree, eos, rho, _, logits, rng, beta = instance
    d, bound = 2, 1.5
    phi = rng.normal(size=(tree.n_states, tree.n_actions, d))
    x = rng.normal(size=(12, d))
    fit = rto.fit_bradley_terry(x, param_bound=bound)
    reference = rto.Policy.from_logits(logits)
    pair = rto.visitation(tree, reference).pair
    sigma = x.T @ x + np.eye(d)
    for baseline in (False, True):
        found = rto.maxmin(tree, phi, reference, beta, x, fit.theta, 1.0, param_bound=bound, baseline=baseline)
        nu = np.einsum("sa,sai->i", pair, phi) if baseline else np.zeros(d)
        value = lambda t: rto.soft_value_iteration(tree, phi @ t, reference, beta).value - nu @ t
        assert found.value == pytest.approx(value(found.theta), rel=1e-10, abs=1e-10)
        assert np.linalg.norm(found.theta) <= bound * (1 + 1e-9)
        assert (found.theta - fit.theta) @ sigma @ (found.theta - fit.theta) <= 1 + 1e-8
        for _ in range(200):
            t = fit.theta + np.linalg.cholesky(np.linalg.inv(sigma)) @ (rng.normal(size=d) * rng.uniform(0, 0.7))
            step = t - fit.theta
            if np.linalg.norm(t) <= bound and step @ sigma @ step <= 1:
                assert value(t) >= found.value - 1e-9 * max(1.0, abs(found.value))
