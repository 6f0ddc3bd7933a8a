"""The golden values of `tests/golden/theory.json` through Python: G0, Remark A.3, Proposition C.2, and G1 with data, estimate, radii, Algorithm 1, (B.1)."""

import json
from pathlib import Path

import numpy as np
import pytest
import rto
from scipy.special import expit, log_expit, log_softmax

THEORY = json.loads((Path(__file__).resolve().parents[2] / "tests" / "golden" / "theory.json").read_text())
TOL = dict(rtol=1e-9, atol=1e-11)


def near(value, **others):
    return pytest.approx(value, **{"rel": 1e-9, "abs": 1e-11, **others})


@pytest.fixture(scope="module")
def g0():
    tree = rto.TokenTree(2, 2)
    reference = rto.Policy.from_probs([[0.6, 0.4], [0.5, 0.5], [0.25, 0.75]])
    return tree, np.array([[0.2, -0.1], [0.5, -0.3], [1.0, 0.1]]), reference


def leaves(log_probs):
    """π(y) of 00, 01, 10, 11."""
    return np.exp([log_probs[0, a] + log_probs[1 + a, b] for a in (0, 1) for b in (0, 1)])


def test_g0_planning(g0):
    tree, reward, reference = g0
    want = THEORY["G0"]
    best = rto.soft_value_iteration(tree, reward, reference, 0.5)
    np.testing.assert_allclose(best.v, np.concatenate(want["Vstar"]), **TOL)
    np.testing.assert_allclose(best.q, np.concatenate(want["Qstar"]), **TOL)
    np.testing.assert_allclose(best.policy.probs, np.concatenate(want["pistar"]), **TOL)
    np.testing.assert_allclose(leaves(best.policy.log_probs), want["leafprob"], **TOL)
    uniform = rto.Policy.uniform(tree)
    for policy, name in ((reference, "ref"), (uniform, "uniform")):
        found = rto.evaluate(tree, reward, policy, reference, 0.5)
        np.testing.assert_allclose(found.v, np.concatenate(want[f"V_{name}"]), **TOL)
        assert rto.suboptimality(tree, reward, policy, reference, 0.5) == near(want[f"SubOpt_{name}"])
    implicit = 0.5 * (best.policy.log_probs - reference.log_probs)
    np.testing.assert_allclose(implicit, np.concatenate(want["dpo_token_reward"]), **TOL)
    rewards = rto.token_rewards("rto", reference.log_probs, dpo_log_prob=best.policy.log_probs, beta1=0.5)
    np.testing.assert_allclose(rewards, np.concatenate(want["dpo_token_reward"]), **TOL)


def test_g0_differences_of_policies(g0):
    tree, reward, reference = g0
    want = THEORY["G0"]
    uniform, best = rto.Policy.uniform(tree), rto.soft_value_iteration(tree, reward, reference, 0.5)
    at = {name: rto.evaluate(tree, reward, policy, reference, 0.5) for name, policy in (("uniform", uniform), ("ref", reference))}
    assert at["uniform"].value - at["ref"].value == near(want["PDL_lhs_uniform_minus_ref"])
    # Lemma A.2: sums over the visits of the one of the other's advantage, the entropy of both included.
    d, q = rto.visitation(tree, uniform), at["ref"].q
    gain = (uniform.probs * (q - 0.5 * uniform.log_probs)).sum(axis=1) - at["ref"].v
    assert d.state @ gain == near(want["PDL_rhs"])
    kl = 0.5 * (d.pair * (uniform.log_probs - best.policy.log_probs)).sum()
    assert kl == near(want["betaKL_uniform_to_star"]) == near(want["SubOpt_uniform"])


def test_g0_population_loss_of_dpo(g0):
    tree, reward, reference = g0
    best = rto.soft_value_iteration(tree, reward, reference, 0.5).policy
    totals = [reward[0, a] + reward[1 + a, b] for a in (0, 1) for b in (0, 1)]
    rows = lambda table: [[table[0, a], table[1 + a, b]] for a in (0, 1) for b in (0, 1)]
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    take = lambda table: [rows(table)[k] for pair in pairs for k in pair]
    each = [
        rto.losses.preference_loss(take(best.log_probs)[2 * k : 2 * k + 2], take(reference.log_probs)[2 * k : 2 * k + 2], beta=0.5).value
        for k in range(len(pairs))
    ]
    wins = [expit(totals[i] - totals[j]) for i, j in pairs]
    # Twelve ordered pairs are six unordered ones, each with the probability of either outcome.
    assert np.dot(wins, each) / 6 == near(THEORY["G0"]["population_DPO_loss_uniform_unordered_pairs_at_pistar"])


@pytest.mark.parametrize("rate, steps", [(0.5, 7), (1.0, 3)])
def test_g0_natural_policy_gradient(g0, rate, steps):
    """Remark A.3: log π ← (1 - ηβ) log π + η Q^π, normalised."""
    tree, reward, reference = g0
    best = rto.soft_value_iteration(tree, reward, reference, 0.5)
    policy, gaps, errors = reference, [], []
    for _ in range(steps + 1):
        found = rto.evaluate(tree, reward, policy, reference, 0.5)
        gaps.append(best.value - found.value)
        errors.append(np.abs(policy.log_probs - best.policy.log_probs).max())
        policy = rto.Policy.from_logits((1 - rate) * policy.log_probs + rate / 0.5 * found.q)
    want = THEORY["G0"]["NPG"]
    np.testing.assert_allclose(gaps, want["eta_beta_0_5"]["gap"] if rate == 0.5 else want["eta_beta_1_gap"], atol=1e-12)
    if rate == 0.5:
        np.testing.assert_allclose(errors, want["eta_beta_0_5"]["max_abs_logpi_err"], atol=1e-12)


@pytest.mark.parametrize("n_actions, horizon", [(2, 2), (2, 5), (3, 4), (5, 3)])
def test_proposition_c2(n_actions, horizon):
    """After s₀ a state that is uniform on s₁ … s_A whatever was done; r(s_i, a_j) = 1{i = j}."""
    row = [[[i, 1 / n_actions] for i in range(1, n_actions + 1)]] * n_actions
    found = rto.solve({
        "beta": 0, "states": n_actions + 1, "initial": [1] + [0] * n_actions, "horizon": horizon, "transition": [row] * (n_actions + 1),
        "reference": np.full((n_actions + 1, n_actions), 1 / n_actions), "reward": np.vstack([np.zeros(n_actions), np.eye(n_actions)]),
    })
    assert found["soft_value_mean"] == near(horizon - 1) and found["predetermined_value"] == near((horizon - 1) / n_actions)
    if (n_actions, horizon) == (2, 2):
        want = THEORY["propC2"]["A2H2"]
        assert (found["soft_value_mean"], found["predetermined_value"]) == (near(want["markov"]), near(want["predetermined"]))


@pytest.mark.parametrize("beta1, beta2", [(0.1, 0.03), (0.5, 0.5), (0.5, 0.3)])
def test_g0_optimum_of_rto(g0, beta1, beta2):
    tree, reward, reference = g0
    want = THEORY["G0"][f"RTO_b1={beta1}_b2={beta2}"]
    dpo = rto.soft_value_iteration(tree, reward, reference, 0.5).policy
    found = rto.soft_value_iteration(tree, beta1 * (dpo.log_probs - reference.log_probs), reference, beta2)
    np.testing.assert_allclose(found.policy.probs, np.concatenate(want["pi"]), **TOL)
    np.testing.assert_allclose(leaves(found.policy.log_probs), want["leaf"], **TOL)
    assert found.value == near(want["V"])


class G1:
    def __init__(self):
        self.tree = tree = rto.TokenTree(3, 3, n_prompts=2, initial=[0.6, 0.4])
        index = np.zeros((tree.n_states, 3), dtype=int)
        for s in range(tree.n_states):
            prompt, prefix = tree.prefix(s)
            code = int("".join(map(str, prefix)) or "0", 3)
            state = (3 ** len(prefix) - 1) // 2 + code
            index[s] = (prompt * 13 + state) * 3 + np.arange(3)
        i, k = index[..., None], np.arange(4)
        self.phi = np.sin(1 + 0.7 * k + 1.3 * i + 0.37 * i * k) / 2
        self.reference = rto.Policy.from_logits(0.8 * np.cos(1.1 * index + 0.3))
        self.q = rto.Policy.from_logits(0.5 * np.sin(2.1 * index + 0.7))
        self.truth = np.array([0.9, -0.6, 0.4, 0.7])
        self.reward = self.phi @ self.truth
        self.roots = [tree.state([], p) for p in (0, 1)]
        self.pairs, self.first_wins = [], []
        for j in range(200):
            x, one, two = j % 2, (7 * j + 3) % 27, (11 * j + 5) % 27
            two = (two + 1) % 27 if one == two else two
            a, b = self.leaf(one), self.leaf(two)
            u = ((j + 1) * 0.6180339887498949) % 1.0
            first = u < expit(self.total(x, a) - self.total(x, b))
            self.first_wins.append(int(first))
            self.pairs.append((x, a, b) if first else (x, b, a))
        self.x = rto.design(tree, self.phi, self.pairs)
        self.fit = rto.fit_bradley_terry(self.x, 2.0)

    @staticmethod
    def leaf(n):
        return [n // 9, n // 3 % 3, n % 3]

    def total(self, prompt, tokens):
        return sum(self.reward[self.tree.state(tokens[:h], prompt), t] for h, t in enumerate(tokens))


@pytest.fixture(scope="module")
def g1():
    return G1()


def test_g1_planning(g1):
    want, tree = THEORY["G1"], g1.tree
    best = rto.soft_value_iteration(tree, g1.reward, g1.reference, 0.5)
    np.testing.assert_allclose(best.v[g1.roots], want["Vstar_prompts"], **TOL)
    assert best.value == near(want["Vstar_rho"])
    np.testing.assert_allclose(best.policy.probs[g1.roots], want["pistar_root"], **TOL)
    for policy, name in ((g1.reference, "ref"), (g1.q, "q")):
        found = rto.evaluate(tree, g1.reward, policy, g1.reference, 0.5)
        np.testing.assert_allclose(found.v[g1.roots], want[f"V{name}_prompts"], **TOL)
        assert rto.suboptimality(tree, g1.reward, policy, g1.reference, 0.5) == near(want[f"SubOpt_{name}"])
    d = rto.visitation(tree, best.policy).pair
    np.testing.assert_allclose(np.einsum("sa,sai->i", d, g1.phi), want["Efeat_dstar"], **TOL)
    nu = np.einsum("sa,sai->i", rto.visitation(tree, g1.reference).pair, g1.phi)
    np.testing.assert_allclose(nu, want["nu_Eref_phi"], **TOL)
    # ∇² V*(θ) is the covariance of E[ψ | token] summed along responses, over β: features of the future included.
    future = np.zeros((tree.n_states, 4))
    trace = 0.0
    for s in reversed(range(tree.n_states)):
        prompt, prefix = tree.prefix(s)
        inner = len(prefix) + 1 < 3
        after = np.array([future[tree.state([*prefix, a], prompt)] if inner else np.zeros(4) for a in range(3)])
        whole = g1.phi[s] + after
        future[s] = best.policy.probs[s] @ whole
        trace += d[s] @ ((whole - future[s]) ** 2).sum(axis=1)
    assert trace / 0.5 == near(want["Hess_Vstar_trace"])
    gap = [rto.evaluate(tree, g1.reward, p, g1.reference, 0.5).value for p in (g1.q, g1.reference)]
    assert gap[0] - gap[1] == near(want["PDL_q_vs_ref"][0]) == near(want["PDL_q_vs_ref"][1])
    last = [d[tree.state(g1.leaf(n)[:2], 0), n % 3] for n in range(9)]
    np.testing.assert_allclose(last, want["dstar_leaf0_8_prompt0"], **TOL)


def test_g1_data_estimate_and_radii(g1):
    want = THEORY["G1"]["data"]
    assert sum(g1.first_wins) == want["leaf1_wins"] and g1.first_wins[:10] == want["first10_leaf1_wins"]
    np.testing.assert_allclose(g1.fit.theta, want["theta_mle_B2"], rtol=1e-8)
    assert g1.fit.norm == near(want["norm_theta_mle"]) and g1.fit.log_likelihood == near(want["loglik_mle"])
    assert log_expit(g1.x @ g1.truth).sum() == near(want["loglik_true"])
    np.testing.assert_allclose(g1.x.T @ g1.x + np.eye(4), want["Sigma_lambda1"], rtol=1e-10)
    constants = dict(horizon=3, feature_bound=1.0, param_bound=2.0, ridge=1.0, fail_prob=0.05)
    for kind, key, metric in [
        ("theory", "rho_theory_Upsilon", "sigma_d"),
        ("theory_kappa", "rho_theory_kappa", "sigma_d"),
        ("likelihood_ratio", "rho_LR_via_kappa", "sigma_d"),
        ("wald", "rho_wald_Hmetric", "fisher"),
        ("self_concordant", "rho_selfconcordant_Hmetric", "fisher"),
    ]:
        radius, of, _ = rto.confidence_radius(g1.x, g1.fit.theta, kind, **constants)
        assert of == metric and radius == near(want["radii_delta05_B2_lambda1"][key], rel=1e-7), kind


def test_g1_algorithm_1(g1):
    want = THEORY["G1"]["Alg1_rho1.5"]
    given = (g1.tree, g1.phi, g1.reference, 0.5)
    found = rto.algorithm1(*given, g1.x, g1.fit.theta, 1.5, param_bound=2.0)
    assert found.value == near(want["Vhat_rho"])
    np.testing.assert_allclose(found.policy.probs[g1.roots], want["pihat_root"], rtol=1e-8)
    sides = rto.theorem_4_2(*given, g1.truth, g1.x, g1.fit.theta, 1.5, param_bound=2.0)
    assert sides.suboptimality == near(want["SubOpt"], rel=1e-8) and sides.bound == near(want["Thm42_bound"], rel=1e-8)


@pytest.mark.parametrize("name", ["B1_rho1.5_B2.0", "B1_rho1.5_B1.2", "B1baseline_rho1.5_B2.0"])
def test_g1_maxmin(g1, name):
    want, baseline = THEORY["G1"][name], "baseline" in name
    bound = float(name.split("_B")[-1])
    theta = rto.fit_bradley_terry(g1.x, bound).theta
    how = dict(param_bound=bound, baseline=baseline)
    found = rto.maxmin(g1.tree, g1.phi, g1.reference, 0.5, g1.x, theta, 1.5, **how)
    np.testing.assert_allclose(found.theta, want["theta_min"], rtol=1e-6, atol=1e-7)
    assert found.value == near(want["value_min_Vstar_minus_nu_theta" if baseline else "value_minV"], rel=1e-9)
    active = want["active"] if baseline else list(want["active"].values())
    assert [found.ellipsoid_active, found.ball_active] == active
    sides = rto.theorem_b1(g1.tree, g1.phi, g1.reference, 0.5, g1.truth, g1.x, theta, 1.5, **how)
    assert sides.suboptimality == near(want["SubOpt"], rel=1e-6)
    assert sides.bound == near(want["bound" if baseline else "ThmB1_bound"], rel=1e-9)


def test_g1_with_a_radius_of_25_the_baseline_keeps_the_reference(g1):
    want = THEORY["G1"]["rho25_B2_compare"]
    given = (g1.tree, g1.phi, g1.reference, 0.5, g1.truth, g1.x, g1.fit.theta, 25.0)
    printed = rto.theorem_b1(*given, param_bound=2.0)
    based = rto.theorem_b1(*given, param_bound=2.0, baseline=True)
    assert printed.suboptimality == near(want["B1_SubOpt"], rel=1e-6)
    assert based.suboptimality == near(want["SubOpt_ref"], rel=1e-6) == near(want["B1baseline_SubOpt"], rel=1e-6)
    first = rto.theorem_4_2(*given, param_bound=2.0)
    assert first.suboptimality == near(want["Alg1_SubOpt"], rel=1e-8) and first.bound == near(want["Alg1_bound"], rel=1e-8)


def test_g1_dpo_and_rto(g1):
    want = THEORY["G1"]["DPO_RTO"]
    dpo = rto.soft_value_iteration(g1.tree, g1.phi @ g1.fit.theta, g1.reference, 0.5).policy
    np.testing.assert_allclose(dpo.probs[g1.roots[0]], want["dpo_root0"], rtol=1e-8)
    implicit = dpo.log_probs - g1.reference.log_probs
    np.testing.assert_allclose(0.5 * implicit[g1.roots[0]], want["implicit_token_reward_root0_beta_0_5"], rtol=1e-8)
    rows = [y for x, w, l in g1.pairs for y in ((x, w), (x, l))]
    take = lambda table: [[table[g1.tree.state(y[:h], x), t] for h, t in enumerate(y)] for x, y in rows]
    loss = rto.losses.preference_loss(take(dpo.log_probs), take(g1.reference.log_probs), beta=0.5)
    assert loss.value == near(want["mean_dpo_loss"], rel=1e-8)
    best = rto.soft_value_iteration(g1.tree, 0.1 * implicit, g1.reference, 0.03)
    np.testing.assert_allclose(best.policy.probs[g1.roots[0]], want["rto_b1_0_1_b2_0_03_root0"], rtol=1e-7)
    np.testing.assert_allclose(best.v[g1.roots], want["V_rto"], rtol=1e-8)
    for policy, key in ((dpo, "SubOpt_dpo_true_beta0_5"), (best.policy, "SubOpt_rto_true_beta0_5")):
        assert rto.suboptimality(g1.tree, g1.reward, policy, g1.reference, 0.5) == near(want[key], rel=1e-7)


def test_vacuity_of_the_printed_radius():
    want = THEORY["vacuity"]
    x = np.eye(8)
    radius, _, _ = rto.confidence_radius(
        x, np.zeros(8), "printed", horizon=want["H"], feature_bound=want["L"], param_bound=want["B"], ridge=want["lam"], fail_prob=want["delta"]
    )
    assert want["Upsilon"] == near(1 / (2 + np.exp(10) + np.exp(-10)), rel=1e-9)
    assert radius == near(np.sqrt(8 * np.log(20) / want["Upsilon"]) + 1, rel=1e-9)
