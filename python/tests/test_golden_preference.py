"""Claims of `tests/golden/preference_claims.json`, over-optimisation of `preference.json` and layered graphs of `coverage.json`, through Python.

Whatever the files sample is drawn here as they draw it, so that what the package computes must be their numbers and not only near them.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import rto
from scipy.special import expit, logsumexp, rel_entr

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
CLAIMS = json.loads((GOLDEN / "preference_claims.json").read_text())
PREFERENCE = json.loads((GOLDEN / "preference.json").read_text())
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


def test_k2_bounds_of_best_of_n():
    """KL ≤ log N − (N − 1)/N and a win rate ≤ N/(N + 1), of scores with ties."""
    want, kl_slack, win_slack, share = CLAIMS["K2_best_of_n"], [], [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        reference, scores = rng.dirichlet(np.ones(16)), np.round(2 * rng.normal(size=16)) / 2
        for n in (2, 3, 4, 8, 16, 64, 256, 1024):
            best = rto.best_of_n(reference, scores, n)
            assert best.kl_bound == pytest.approx(np.log(n) - (n - 1) / n, abs=1e-14)
            kl_slack.append(best.kl_bound - best.kl)
            win_slack.append(n / (n + 1) - best.win_rate)
            share.append(best.kl / best.kl_bound)
    assert len(share) == want["cases"] and want["violations"] == 0 == np.sum(np.r_[kl_slack, win_slack] < -1e-12)
    assert min(kl_slack) == pytest.approx(want["smallest_kl_slack"], rel=1e-9)
    assert min(win_slack) == pytest.approx(want["smallest_win_rate_slack"], rel=1e-9)
    assert np.median(share) == pytest.approx(want["median_kl_over_bound"], rel=1e-12)


def test_k2_soft_best_of_n_tends_to_the_tilt():
    """At rate 1/N in reward, 1/N² in KL."""
    slopes = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        reference, scores = rng.dirichlet(np.ones(16)), rng.normal(size=16)
        tilt = reference * np.exp(scores)
        tilt, distances = tilt / tilt.sum(), []
        for n in (256, 1024):
            soft, error = rto.soft_best_of_n(reference, scores, 1.0, n)
            assert error < 1e-10
            distances.append([tilt @ np.log(tilt / soft), soft @ np.log(soft / tilt), tilt @ scores - soft @ scores])
        slopes.append(np.log(np.divide(distances[1], distances[0])) / np.log(4))
    # KL near 1e-7 is a difference of numbers near 1.
    want = CLAIMS["K2_best_of_n"]["soft_bon_slopes_mean"]
    np.testing.assert_allclose(np.mean(slopes, axis=0), [want["kl_star_to_N"], want["kl_N_to_star"], want["reward_gap"]], rtol=1e-6)


OVER = PREFERENCE["overoptimisation"]


def enumerated(name):
    """π_ref and the reward of every response of an instance, in lexicographic order of tokens."""
    i = PREFERENCE["instances"][name]
    tree = rto.TokenTree(i["A"], i["H"], eos=i["eos"])
    laws, rewards = [], []

    def walk(prefix, law, reward):
        if len(prefix) == i["H"] or (prefix and prefix[-1] == i["eos"]):
            laws.append(law)
            rewards.append(reward)
            return
        s = tree.state(prefix)
        for token in range(i["A"]):
            walk([*prefix, token], law * i["ref"][s][token], reward + i["reward"][s][token])

    walk([], 1.0, 0.0)
    return np.array(laws), np.array(rewards)


REFERENCE, TRUTH = enumerated(OVER["instance"])


def judge(policy, row):
    """KL, proxy and true reward of a law on the responses."""
    got = [rel_entr(policy, REFERENCE).sum(), policy @ np.array(OVER["proxy"]), policy @ TRUTH]
    np.testing.assert_allclose(got, [row["kl"], row["proxy"], row["true"]], atol=1e-10)


@pytest.mark.parametrize("n", OVER["bon"])
def test_over_optimisation_by_best_of_n(n):
    row, best = OVER["bon"][n], rto.best_of_n(REFERENCE, OVER["proxy"], float(n))
    np.testing.assert_allclose(best.policy, row["policy"], atol=1e-12)
    np.testing.assert_allclose([best.win_rate, best.kl_bound, best.kl], [row["win_rate"], row["kl_bound"], row["kl"]], atol=1e-10)
    judge(best.policy, row)


@pytest.mark.parametrize("n", OVER["soft_bon_lambda_0.25"])
def test_over_optimisation_by_soft_best_of_n(n):
    row = OVER["soft_bon_lambda_0.25"][n]
    soft, error = rto.soft_best_of_n(REFERENCE, OVER["proxy"], 0.25, float(n))
    assert error < 1e-12
    np.testing.assert_allclose(soft, row["policy"], atol=1e-10)
    judge(soft, row)


@pytest.mark.parametrize("n", OVER["ties_T5_score_0112"])
def test_ties_are_broken_by_the_draw(n):
    row, best = OVER["ties_T5_score_0112"][n], rto.best_of_n(enumerated("T5")[0], [0, 1, 1, 2], float(n))
    np.testing.assert_allclose(best.policy, row["policy"], atol=1e-12)
    np.testing.assert_allclose([best.win_rate, best.kl], [row["win_rate"], row["kl"]], atol=1e-12)


@pytest.mark.parametrize("beta", OVER["tilt"])
def test_over_optimisation_by_the_optimum_of_a_proxy(beta):
    bandit = rto.TokenTree(len(TRUTH), 1)
    for key, score in (("tilt", np.array(OVER["proxy"])), ("frontier_true_tilt", TRUTH)):
        best = rto.soft_value_iteration(bandit, score[None], REFERENCE[None], float(beta))
        judge(best.policy.probs[0], OVER[key][beta])


def test_laws_on_responses_name_what_is_wrong():
    half = [0.5, 0.5]
    for call, line in [
        (lambda: rto.best_of_n([0.5, 0.4], half, 2), "reference"),
        (lambda: rto.best_of_n([1.5, -0.5], half, 2), r"reference\[1\]: found -0.5"),
        (lambda: rto.best_of_n([0.5, np.nan], half, 2), r"reference\[1\]: found NaN"),
        (lambda: rto.best_of_n(half, [0, np.inf], 2), "score of response 1"),
        (lambda: rto.best_of_n(half, [0], 2), "scores"),
        (lambda: rto.best_of_n([], [], 2), "reference"),
        (lambda: rto.best_of_n(half, half, 0.5), "N"),
        (lambda: rto.best_of_n(half, half, np.nan), "N"),
        (lambda: rto.soft_best_of_n(half, [0, 1], 0.0, 2), "lambda"),
        (lambda: rto.soft_best_of_n(half, [0, 1], 1e-300, 2), "lambda"),
        (lambda: rto.additive_coverage([[1.0], [np.nan]], half, half), r"psi\[1, 0\]"),
        (lambda: rto.additive_coverage([[1.0], [2.0]], half, [0.5, 0.6]), "data law"),
        (lambda: rto.additive_coverage([[1.0], [2.0]], [1.0], half), "target: found 1 numbers, expected 2"),
        (lambda: rto.additive_coverage([[0.0], [2.0]], half, [1.0, 0.0]), "features"),
        (lambda: rto.additive_coverage([[], []], half, half), "features"),
    ]:
        with pytest.raises(ValueError, match=line):
            call()
    # What the reference never draws is never kept, whatever its score.
    assert rto.best_of_n([0.5, 0.5, 0.0], [0, 1, 2], 4).policy == pytest.approx([0.0625, 0.9375, 0.0], abs=1e-15)
    assert rto.soft_best_of_n([0.5, 0.5, 0.0], [0, 1, 2], 1.0, 4)[0][2] == 0.0


@pytest.mark.parametrize("family", CLAIMS["K3_functional_forms"]["families"])
def test_k3_true_reward_against_kl(family):
    """Optima of a proxy over 256 responses at forty β, and best-of-N at forty N: the true gain against d = √KL, and which law fits it."""
    want, bandit = CLAIMS["K3_functional_forms"]["families"][family], rto.TokenTree(256, 1)
    peaks = {"tilt": 0, "bon": 0}
    laws = {"d(a-bd)": lambda d: -d * d, "d(a-b log d)": lambda d: -d * np.log(d)}
    residuals = {(way, law): [] for way in peaks for law in laws}
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
        curves = {"tilt": [], "bon": []}
        for beta in np.exp(np.linspace(np.log(20), np.log(0.12), 40)):
            policy = rto.soft_value_iteration(bandit, (truth + error)[None], reference[None], beta).policy
            parts = rto.evaluate(bandit, truth[None], policy, reference[None], 1.0)
            # V = E R - KL at β = 1.
            curves["tilt"].append((policy.probs[0] @ truth - parts.value, policy.probs[0] @ truth))
        for n in np.exp(np.linspace(np.log(1.05), np.log(2000), 40)):
            best = rto.best_of_n(reference, truth + error, n)
            curves["bon"].append((best.kl, best.policy @ truth))
        for way, curve in curves.items():
            kl, reward = np.array(curve).T
            d, gain = np.sqrt(np.maximum(kl, 0.0)), reward - reference @ truth
            d, gain = d[d < 2.2], gain[d < 2.2]
            peaks[way] += int(gain.argmax() < len(gain) - 1 and gain.max() - gain[-1] > 0.05 * gain.max())
            for law, second in laws.items():
                columns = np.c_[d, second(d)]
                fit = np.linalg.lstsq(columns, gain, rcond=None)[0]
                residuals[way, law].append(np.abs(columns @ fit - gain).max() / np.ptp(gain))
    for way, count in peaks.items():
        assert count / 50 == want["interior_peak_share"][way]
        linear, logarithmic = (residuals[way, law] for law in laws)
        assert np.mean(np.array(linear) < np.array(logarithmic)) == want["linear_form_wins"][way]
    for (way, law), found in residuals.items():
        assert np.median(found) == pytest.approx(want["max_relative_residual_median"][f"{way}: {law}"], rel=1e-6)


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


def words(h, mu, pi):
    """Every word of a layered graph: ψ, one-hot over (h, s, a), and its probability under two tables of shape (h, 2, 2)."""
    every = np.array(list(itertools.product((0, 1), repeat=h)))
    before = np.c_[np.zeros(len(every), int), every[:, :-1]]
    psi = np.zeros((len(every), h, 2, 2))
    rows, layers = np.arange(len(every))[:, None], np.arange(h)[None]
    psi[rows, layers, before, every] = 1
    return psi.reshape(len(every), -1), *(np.prod(table[layers, before, every], axis=1) for table in (mu, pi))


@pytest.mark.parametrize("row", CLAIMS["K6_change_of_trajectory_measure"]["rows"], ids=lambda r: f"H = {r['H']}")
def test_k6_coverage_of_trajectories_pairs_and_additive_rewards(row):
    h, found = row["H"], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        mu, pi = rng.dirichlet([1, 1], (h, 2)), rng.dirichlet([1, 1], (h, 2))
        # The first layer has one state.
        rows = lambda table: np.concatenate([table[0, :1], table[1:].reshape(-1, 2)])
        c = rto.coverage(layered(h), rows(pi), behaviour=rows(mu))
        psi, data, target = words(h, mu, pi)
        found.append([rto.additive_coverage(psi, target, data), c.pair, c.trajectory])
    add, pair, trajectory = np.array(found).T
    assert np.median(trajectory / pair) == pytest.approx(row["median_tau_over_sa"], rel=1e-8)
    assert np.median(add / pair) == pytest.approx(row["median_add_over_sa"], rel=1e-8)
    assert np.max(add / pair) == pytest.approx(row["max_add_over_sa"], rel=1e-8)
    assert np.median(add / trajectory) == pytest.approx(row["median_add_over_tau"], rel=1e-8)


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
    want, data = CLAIMS["K8_rpo_is_penalised_b1"], PREFERENCE["data"]["D_T5"]
    i = PREFERENCE["instances"][data["instance"]]
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
        tables = (np.broadcast_to(p, (h, 2, 2)) for p in ([0.75, 0.25], [other, 1 - other]))
        psi, data, target = words(h, *tables)
        assert rto.additive_coverage(psi, target, data) == pytest.approx(row["C_add"], rel=1e-9), h
