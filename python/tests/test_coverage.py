"""Coverage of Theorems 4.2 and B.1, and both sides of the theorems."""

import json
from pathlib import Path

import numpy as np
import pytest
import rto

GOLDEN = json.loads((Path(__file__).resolve().parents[2] / "tests" / "golden" / "coverage.json").read_text())


def golden_tree(name):
    i = GOLDEN["instances"][name]
    tree = rto.TokenTree(i["A"], i["H"], eos=i["eos"])
    shape = (tree.n_states, tree.n_actions)
    reference, reward = np.full(shape, 1 / i["A"]), np.zeros(shape)
    for s, prefix in enumerate(i["prefixes"]):
        state = tree.state([int(t) for t in prefix])
        reference[state], reward[state] = i["ref"][s], i["reward"][s]
    return tree, rto.Policy.from_probs(reference), reward, i["beta"]


TREES = [n for n, i in GOLDEN["instances"].items() if "prefixes" in i]


@pytest.mark.parametrize("name", TREES)
def test_golden_coverage(name):
    tree, reference, reward, beta = golden_tree(name)
    best = rto.soft_value_iteration(tree, reward, reference, beta).policy
    want = GOLDEN["coverage"][name]
    found = rto.coverage(tree, best, behaviour=reference)
    assert found.pair == pytest.approx(want["C_sa"], rel=1e-9)
    assert found.trajectory == pytest.approx(want["C_tau"], rel=1e-9)
    assert found.chi_square == pytest.approx(want["chi2"], rel=1e-9)
    d_best, d_ref = rto.visitation(tree, best).pair, rto.visitation(tree, reference).pair
    assert found.pair == pytest.approx((d_best[d_best > 0] / d_ref[d_best > 0]).max(), rel=1e-12)
    assert found.linear is None


def test_coverage_by_pairs_and_features_are_their_formulas():
    rng = np.random.default_rng(0)
    tree = rto.TokenTree(2, 3)
    reward, phi = rng.normal(size=(7, 2)), rng.normal(size=(7, 2, 3))
    reference = rto.Policy.uniform(tree)
    best = rto.soft_value_iteration(tree, reward, reference, 0.5).policy
    pairs = rto.sample_preferences(tree, reward, reference, 200)
    found = rto.coverage(tree, best, pairs=pairs, features=phi, reference=reference)
    counts = np.zeros((7, 2))
    for _, *both in pairs:
        for y in both:
            for h, a in enumerate(y):
                counts[tree.state(y[:h]), a] += 1 / 400
    d = rto.visitation(tree, best).pair
    assert found.pair == pytest.approx((d / counts).max(), rel=1e-12)
    assert d[found.pair_at] / counts[found.pair_at] == pytest.approx(found.pair, rel=1e-12)
    x = rto.design(tree, phi, pairs)
    moment = x.T @ x / len(x)
    psi = np.einsum("sa,sai->i", d, phi)
    linear = lambda v: v @ np.linalg.solve(moment, v)
    assert found.linear == pytest.approx(linear(psi), rel=1e-9)
    base = psi - np.einsum("sa,sai->i", rto.visitation(tree, reference).pair, phi)
    assert found.linear_baselined == pytest.approx(linear(base), rel=1e-9)
    steps = np.sqrt(np.einsum("sai,ij,saj->sa", phi, np.linalg.inv(moment), phi))
    assert found.linear_along == pytest.approx((d * steps).sum(), rel=1e-9)
    value, w = rto.linear_coverage(x, psi)
    assert value == pytest.approx(linear(psi), rel=1e-9)
    assert (w @ psi) ** 2 / (w @ moment @ w) == pytest.approx(value, rel=1e-9) and np.linalg.norm(w) == pytest.approx(1)
    few = rto.coverage(tree, best, pairs=pairs[:1])
    assert few.trajectory == np.inf and few.chi_square == np.inf


def test_data_of_controlled_coverage():
    rng = np.random.default_rng(1)
    tree = rto.TokenTree(3, 3)
    reward, reference = rng.normal(size=(tree.n_states, 3)), rto.Policy.uniform(tree)
    best = rto.soft_value_iteration(tree, reward, reference, 0.4).policy
    worst = rto.soft_value_iteration(tree, -reward, reference, 0.4).policy
    mixed = rto.covering_behaviour(tree, reward, reference, 0.4, 0.25)
    want = 0.25 * rto.visitation(tree, best).pair + 0.75 * rto.visitation(tree, worst).pair
    np.testing.assert_allclose(rto.visitation(tree, mixed).pair, want, atol=1e-14)
    assert rto.coverage(tree, best, behaviour=mixed).pair <= 4 + 1e-9


def test_both_sides_of_the_theorems():
    rng = np.random.default_rng(2)
    tree = rto.TokenTree(2, 3)
    phi, reference = rng.normal(size=(7, 2, 3)), rto.Policy.uniform(tree)
    truth = np.array([0.5, -0.4, 0.3])
    pairs = rto.sample_preferences(tree, phi @ truth, reference, 300)
    x = rto.design(tree, phi, pairs)
    fit = rto.fit_bradley_terry(x, 1.0)
    sigma = x.T @ x + np.eye(3)
    radius = 1.01 * np.sqrt((fit.theta - truth) @ sigma @ (fit.theta - truth))
    star = rto.soft_value_iteration(tree, phi @ truth, reference, 0.5).policy
    d = rto.visitation(tree, star).pair
    set_ = (x, fit.theta, radius)
    found = rto.theorem_4_2(tree, phi, reference, 0.5, truth, *set_, param_bound=1.0)
    policy = rto.algorithm1(tree, phi, reference, 0.5, *set_, param_bound=1.0).policy
    assert np.array_equal(found.policy.log_probs, policy.log_probs)
    assert found.suboptimality == pytest.approx(rto.suboptimality(tree, phi @ truth, policy, reference, 0.5), abs=1e-12)
    norms = np.sqrt(np.einsum("sai,ij,saj->sa", phi, np.linalg.inv(sigma), phi))
    kl = (rto.visitation(tree, star).pair * (star.log_probs - policy.log_probs)).sum()
    assert found.bound == pytest.approx(2 * radius * (d * norms).sum() - 0.5 * kl, rel=1e-10)
    assert found.premise and found.suboptimality <= found.bound
    for baseline in (False, True):
        found = rto.theorem_b1(tree, phi, reference, 0.5, truth, *set_, param_bound=1.0, baseline=baseline)
        nu = rto.visitation(tree, reference).pair if baseline else np.zeros((7, 2))
        v = np.einsum("sa,sai->i", d - nu, phi)
        assert found.bound == pytest.approx(2 * radius * np.sqrt(v @ np.linalg.solve(sigma, v)), rel=1e-9)
        assert found.premise and found.suboptimality <= found.bound
    assert found.gain_over_reference >= -1e-12


def test_bad_input_is_named():
    tree = rto.TokenTree(2, 2)
    uniform, phi = rto.Policy.uniform(tree), np.zeros((3, 2, 1))
    table = rto.TabularMdp([[-1, -1]], [1.0])
    for call, line in [
        (lambda: rto.coverage(tree, uniform), "behaviour"),
        (lambda: rto.coverage(tree, uniform, behaviour=uniform, pairs=[]), "behaviour"),
        (lambda: rto.coverage(tree, uniform, pairs=[]), "preferences"),
        (lambda: rto.coverage(tree, uniform, pairs=None, behaviour=3), "behaviour"),
        (lambda: rto.coverage(tree, uniform, pairs=3), "pairs"),
        (lambda: rto.coverage(tree, uniform, pairs=[([0], [1, 1])]), r"pairs\[0\], winner"),
        (lambda: rto.coverage(table, [[0.5, 0.5]], pairs=[([0], [1])]), "mdp"),
        (lambda: rto.coverage(tree, None, behaviour=uniform), "policy"),
        (lambda: rto.coverage(tree, uniform, behaviour=uniform, features=None, reference=uniform), "features"),
        (lambda: rto.coverage(tree, uniform, behaviour=uniform, features=np.zeros((2, 2, 1))), "features"),
        (lambda: rto.linear_coverage([[1.0]], [1.0, 2.0]), "v"),
        (lambda: rto.linear_coverage([[1.0]], [np.nan]), "v"),
        (lambda: rto.linear_coverage(np.zeros((0, 1)), [1.0]), "x"),
        (lambda: rto.covering_behaviour(tree, np.zeros((3, 2)), uniform, 0.5, 2.0), "coverage"),
        (lambda: rto.theorem_4_2(tree, phi, uniform, 0.5, [1.0, 2.0], [[1.0]], [0.0], 1.0), "."),
        (lambda: rto.theorem_b1(tree, phi, uniform, 0.5, None, [[1.0]], [0.0], 1.0, param_bound=1.0), "theta_star"),
    ]:
        with pytest.raises(ValueError, match=line):
            call()
