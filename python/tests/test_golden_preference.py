"""Claims of `tests/golden/preference_claims.json`, and layered graphs of `coverage.json`, through Python.

Whatever the file samples is drawn here as it draws it, so that what the package computes must be its numbers and not only near them. Of K2
(best-of-N), of the best-of-N half of K3, and of C_add in K6 the package has no function; `experiments/tests/claims.rs` holds those.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import rto
from scipy.special import expit, logsumexp

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
CLAIMS = json.loads((GOLDEN / "preference_claims.json").read_text())
COVERAGE = json.loads((GOLDEN / "coverage.json").read_text())["coverage"]


@pytest.mark.parametrize("row", CLAIMS["K1_worst_tie"], ids=lambda r: f"n = {r['n']}")
def test_k1_the_regret_of_dpo_and_of_chi_po(row):
    """The worst tie is a population of its own: rewards (gap, 0, 1) as the pairs leave them, judged by (gap, 0, gap - 1)."""
    n, gap = row["n"], row["gap"]
    tree, reference = rto.TokenTree(3, 1), np.array([[0.5, 0.5 - 1 / n, 1 / n]])
    seen, truth = np.array([[gap, 0.0, 1.0]]), np.array([gap, 0.0, gap - 1.0])
    best = np.inf
    for beta in np.exp(np.linspace(np.log(3e-3), np.log(30), 400)):
        policy = rto.soft_value_iteration(tree, seen, reference, beta).policy.probs[0]
        best = min(best, truth.max() - policy @ truth)
    assert best == pytest.approx(row["dpo_best"], abs=1e-12)
    # χPO at the β of a coarser grid is no better than at its best, and near it.
    regrets = []
    for beta in np.exp(np.linspace(np.log(3e-3), np.log(30), 400)[::20]):
        given = {"A": 3, "H": 1, "eos": None, "beta": beta, "ref": reference, "reward": seen, "pairs": "uniform"}
        regrets.append(truth.max() - np.array(rto.bench(given)["methods"]["chipo"]["policy"]) @ truth)
    assert row["chipo_best"] - 1e-9 <= min(regrets) <= 1.5 * row["chipo_best"]


def ridge_fit(w, ridge):
    """The file's estimate: Bradley-Terry on the weights w[winner, loser], with ridge / 2 |x|^2 for ties and separation."""
    both, x = w + w.T, np.zeros(len(w))
    for _ in range(200):
        p = expit(x[:, None] - x)
        gradient = (both * p - w).sum(axis=1) + ridge * x
        h = both * p * (1 - p)
        step = np.linalg.solve(np.diag(h.sum(axis=1) + ridge) - h, gradient)
        # Far from the minimum a whole step may overshoot.
        x = x - step * min(1.0, 2.0 / np.abs(step).max())
        if np.abs(gradient).max() < 1e-13:
            break
    assert np.abs(gradient).max() < 1e-11
    return x


@pytest.mark.parametrize("pairs", [20, 80, 320])
def test_k1b_dpo_and_chi_po_on_random_trees(pairs):
    want, n = CLAIMS["K1b_random_trees"]["by_pairs"][str(pairs)], 8
    bandit, grid = rto.TokenTree(n, 1), CLAIMS["K1b_random_trees"]["grid"]
    chi_beta = want["chipo"]["best_beta"]
    of_dpo, of_chi = np.zeros((60, len(grid))), np.zeros(60)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        table = (rng.dirichlet(np.ones(2), 7) + 1e-3) / (1 + 2e-3)
        reward = rng.normal(size=(7, 2)) / np.sqrt(3)
        tree = rto.TokenTree(2, 3)
        words = [[int(a) for a in np.binary_repr(i, 3)] for i in range(n)]
        along = [[(tree.state(y[:h]), y[h]) for h in range(3)] for y in words]
        reference = np.array([np.prod([table[s, a] for s, a in path]) for path in along])
        truth = np.array([sum(reward[s, a] for s, a in path) for path in along])
        counts = np.zeros((n, n))
        for _ in range(pairs):
            y, z = rng.choice(n, 2, p=reference)
            if y != z:
                counts[(y, z) if rng.random() < expit(truth[y] - truth[z]) else (z, y)] += 1
        # Draws of a response against itself count as pairs.
        fitted = ridge_fit(counts / pairs, 1e-4)[None]
        regret = lambda policy: truth.max() - policy @ truth
        for k, beta in enumerate(grid):
            of_dpo[seed, k] = regret(rto.soft_value_iteration(bandit, fitted, reference[None], beta).policy.probs[0])
        # A call of the bench fits every method: a hundred times the work of the rest, so at one size.
        given = {"A": n, "H": 1, "eos": None, "beta": chi_beta, "ref": reference[None], "reward": fitted, "pairs": "uniform"}
        if pairs == 80:
            of_chi[seed] = regret(np.array(rto.bench(given)["methods"]["chipo"]["policy"]))
    best = of_dpo.mean(axis=0).argmin()
    assert grid[best] == want["dpo"]["best_beta"]
    assert of_dpo[:, best].mean() == pytest.approx(want["dpo"]["regret"], rel=1e-7)
    if pairs != 80:
        return
    assert of_chi.mean() == pytest.approx(want["chipo"]["regret"], rel=1e-7)
    assert (of_dpo[:, best] - of_chi).mean() == pytest.approx(want["dpo_minus_chipo"]["mean"], abs=1e-7)
    assert np.mean(of_chi < of_dpo[:, best]) == want["chipo_beats_dpo_share"]


@pytest.mark.parametrize("family", CLAIMS["K3_functional_forms"]["families"])
def test_k3_true_reward_against_kl_of_the_tilts(family):
    """Optima of a proxy over 256 responses at forty β: the true gain against d = √KL, and which law fits it."""
    want, bandit = CLAIMS["K3_functional_forms"]["families"][family], rto.TokenTree(256, 1)
    peaks, residuals = 0, {"d(a-bd)": [], "d(a-b log d)": []}
    for seed in range(50):
        rng = np.random.default_rng(seed)
        reference, truth = rng.dirichlet(np.ones(256)), rng.normal(size=256)
        rare = reference < np.quantile(reference, 0.1)
        if family == "gaussian":
            error = rng.normal(size=256)
        elif family == "student2":
            error = rng.standard_t(2, 256)
        else:
            error = 0.3 * rng.normal(size=256) + 4 * rare
            truth = truth - 2 * rare
        # A Dirichlet law of so many responses may leave some with almost nothing.
        reference = reference / reference.sum()
        curve = []
        for beta in np.exp(np.linspace(np.log(20), np.log(0.12), 40)):
            policy = rto.soft_value_iteration(bandit, (truth + error)[None], reference[None], beta).policy
            parts = rto.evaluate(bandit, truth[None], policy, reference[None], 1.0)
            gain = policy.probs[0] @ truth - reference @ truth
            # V = E R - KL at β = 1.
            curve.append((np.sqrt(max(policy.probs[0] @ truth - parts.value, 0.0)), gain))
        d, gain = np.array([c for c in curve if c[0] < 2.2]).T
        peaks += int(gain.argmax() < len(gain) - 1 and gain.max() - gain[-1] > 0.05 * gain.max())
        for law, columns in (("d(a-bd)", np.c_[d, -d * d]), ("d(a-b log d)", np.c_[d, -d * np.log(d)])):
            fit = np.linalg.lstsq(columns, gain, rcond=None)[0]
            residuals[law].append(np.abs(columns @ fit - gain).max() / np.ptp(gain))
    assert peaks / 50 == want["interior_peak_share"]["tilt"]
    for law, found in residuals.items():
        assert np.median(found) == pytest.approx(want["max_relative_residual_median"][f"tilt: {law}"], rel=1e-6)
    assert np.mean(np.array(residuals["d(a-bd)"]) < np.array(residuals["d(a-b log d)"])) == want["linear_form_wins"]["tilt"]


@pytest.mark.parametrize("row", CLAIMS["K4_rare_good_response"]["rows"], ids=lambda r: f"β = {r['beta']}")
def test_k4_a_rare_response_good_or_bad(row):
    """Fifty learners at once, each a prompt of its own, for 400 rounds of pairs (π_t, π_ref)."""
    beta, eps, rounds = row["beta"], row["eps"], 400
    tree, reference = rto.TokenTree(2, 1, 50), np.tile([1 - eps, eps], (50, 1))
    uniforms = np.stack([np.random.default_rng(k).random((rounds, 3)) for k in range(50)])
    differences = np.linspace(-2.0, 2.0, 401)
    tilted = np.stack([np.full(401, np.log(1 - eps)), np.log(eps) + differences / beta])
    bonus = np.array([1 - eps, eps]) @ (tilted - logsumexp(tilted, axis=0))
    of_win, of_loss = np.logaddexp(0, -differences), np.logaddexp(0, differences)
    for name, alpha in (("online_dpo", None), ("xpo_alpha0.01", 0.01), ("xpo_alpha0.1", 0.1)):
        for outcome, true in (("good", 1.0), ("bad", -1.0)):
            truth = np.tile([0.0, true], (50, 1))
            wins, losses, regret = np.zeros(50), np.zeros(50), 0.0
            for t in range(rounds):
                if alpha is None:
                    d = np.where(wins + losses == 0, 0.0, np.clip(np.log((wins + 1e-9) / (losses + 1e-9)), -2.0, 2.0))
                else:
                    objective = wins[:, None] * of_win + losses[:, None] * of_loss + alpha * np.sqrt(t + 1) * bonus
                    d = differences[objective.argmin(axis=1)]
                policy = rto.soft_value_iteration(tree, np.stack([0 * d, d], axis=1), reference, beta).policy
                # Prompts are equally likely: the mean over the learners.
                regret += rto.suboptimality(tree, truth, policy, reference, beta)
                ours, theirs = uniforms[:, t, 0] < policy.probs[:, 1], uniforms[:, t, 1] < eps
                wins += (ours != theirs) & (uniforms[:, t, 2] < expit(true))
                losses += (ours != theirs) & (uniforms[:, t, 2] >= expit(true))
            assert regret == pytest.approx(row[f"{name}_{outcome}"]["regret_400"], rel=1e-7), (name, outcome)


@pytest.mark.parametrize("row", CLAIMS["K5_greedy"]["rows"], ids=lambda r: f"β = {r['beta']}, pairs (π, {r['second']})")
def test_k5_the_regret_of_greedy(row):
    """Eight learners at once, each a prompt of its own, for 2,048 rounds."""
    beta, rounds, n = row["beta"], 2048, 5
    draws = [np.random.default_rng(seed) for seed in range(8)]
    reference = np.stack([r.dirichlet(np.ones(n)) for r in draws])
    reference = (reference + 0.02) / (1 + n * 0.02)
    truth = np.stack([r.uniform(size=n) for r in draws])
    uniforms = np.stack([r.random((rounds, 3)) for r in draws])
    tree, every = rto.TokenTree(n, 1, 8), np.arange(8)
    counts, x, regret, at = np.zeros((8, n, n)), np.zeros((8, n)), 0.0, {}
    drawn = lambda probs, u: np.minimum((np.cumsum(probs, axis=1) < u[:, None]).sum(axis=1), n - 1)
    for t in range(rounds):
        clipped = np.clip(x - x.mean(axis=1, keepdims=True), -1, 1)
        policy = rto.soft_value_iteration(tree, clipped, reference, beta).policy
        regret += rto.suboptimality(tree, truth, policy, reference, beta)
        at[t + 1] = regret
        y = drawn(policy.probs, uniforms[:, t, 0])
        z = drawn(policy.probs if row["second"] == "pi" else reference, uniforms[:, t, 1])
        first = uniforms[:, t, 2] < expit(truth[every, y] - truth[every, z])
        new = y != z
        counts[every[new], np.where(first, y, z)[new], np.where(first, z, y)[new]] += 1
        both = counts + counts.transpose(0, 2, 1)
        fitted = x
        for _ in range(3):
            p = expit(fitted[:, :, None] - fitted[:, None])
            gradient = (both * p - counts).sum(axis=2) + 1e-2 * fitted
            h = both * p * (1 - p)
            hessian = np.eye(n) * (h.sum(axis=2) + 1e-2)[:, :, None] - h
            fitted = fitted - np.clip(np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0], -1, 1)
        # A round of two equal responses teaches nothing, and the file takes no step then.
        x = np.where(new[:, None], fitted, x)
    for rounds_so_far, value in row["regret"].items():
        assert at[int(rounds_so_far)] == pytest.approx(value, rel=1e-7)
    assert (at[2048] - at[1024]) / (at[1024] - at[512]) == pytest.approx(row["doubling_ratio"], rel=1e-6)


def layered(h):
    """Two states a layer, the next state is the action."""
    states = 1 + 2 * (h - 1)
    layers = [0] + [layer for layer in range(1, h) for _ in (0, 1)]
    following = [[1 + 2 * layer + a if layer + 1 < h else -1 for a in (0, 1)] for layer in layers]
    return rto.TabularMdp(following, [1.0] + [0.0] * (states - 1))


@pytest.mark.parametrize("row", CLAIMS["K6_change_of_trajectory_measure"]["rows"], ids=lambda r: f"H = {r['H']}")
def test_k6_coverage_of_trajectories_and_of_pairs(row):
    h, found = row["H"], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        mu, pi = rng.dirichlet([1, 1], (h, 2)), rng.dirichlet([1, 1], (h, 2))
        # The first layer has one state.
        rows = lambda table: np.concatenate([table[0, :1], table[1:].reshape(-1, 2)])
        c = rto.coverage(layered(h), rows(pi), behaviour=rows(mu))
        found.append(c.trajectory / c.pair)
    assert np.median(found) == pytest.approx(row["median_tau_over_sa"], rel=1e-8)


@pytest.mark.parametrize("row", CLAIMS["K7_tdpo1"]["rows"][:4], ids=lambda r: f"H = {r['H']}")
def test_k7_what_tdpo_1_loses(row):
    """The file's own sixty trees, drawn as it draws them."""
    h, found = row["H"], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        states = 2**h - 1
        reference = (rng.dirichlet(np.ones(2), states) + 1e-3) / (1 + 2e-3)
        reward = rng.normal(size=(states, 2)) / np.sqrt(h)
        methods = rto.bench({"A": 2, "H": h, "eos": None, "beta": 0.2, "ref": reference, "reward": reward, "pairs": "ref"})
        found.append((methods["methods"]["tdpo_full_alpha1.0"]["subopt"], methods["reference"]["subopt"], methods["methods"]["chipo"]["subopt"]))
    own, of_reference, chi = np.mean(found, axis=0)
    assert [own, of_reference, chi, own / of_reference] == pytest.approx([row["tdpo1"], row["reference"], row["chipo"], row["share"]], rel=1e-7, abs=1e-12)


def test_k8_rpo_is_the_worst_reward_in_a_likelihood_ball():
    golden = json.loads((GOLDEN / "preference.json").read_text())
    want, data = CLAIMS["K8_rpo_is_penalised_b1"], golden["data"]["D_T5"]
    i = golden["instances"][data["instance"]]
    keys = ("A", "H", "eos", "beta", "ref", "reward")
    found = rto.bench({k: i[k] for k in keys} | {"pairs": data["pairs_winner_loser"], "rpo_eta": 0.1})
    reference = np.array(i["ref"][0])
    reward = i["beta"] * np.log(np.array(found["methods"]["rpo_base_ref"]["policy"]) / reference)
    np.testing.assert_allclose(reward - reward.mean(), want["reward_rpo"], atol=1e-9)
    # The file's other solver is SLSQP, at 2e-9.
    np.testing.assert_allclose(reward - reward.mean(), want["reward_constrained"], atol=5e-9)

    def loss(r):
        return np.mean([logsumexp([0, r[l] - r[w]]) for w, l in data["pairs_winner_loser"]])

    assert loss(reward) - loss(found["fit"]["R_mle"]) == pytest.approx(want["ball"], abs=1e-10)


@pytest.mark.parametrize("name, other", [("layered_q0.25", 0.0), ("layered_q0.25_eps0.1", 0.1)])
def test_layered_graphs(name, other):
    """π* takes action 1 but for ε, the data a quarter of the time."""
    for row in COVERAGE[name]:
        h = row["H"]
        mdp, states = layered(h), 1 + 2 * (h - 1)
        policy = np.tile([other, 1 - other], (states, 1))
        found = rto.coverage(mdp, policy, behaviour=np.tile([0.75, 0.25], (states, 1)))
        assert found.pair == pytest.approx(row["C_sa"], rel=1e-9), h
        assert found.trajectory == pytest.approx(row["C_tau"], rel=1e-9), h
