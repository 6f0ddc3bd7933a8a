"""Claims of `tests/golden/preference_claims.json`, and layered graphs of `coverage.json`, through Python.

K2 to K6 sample with other streams than the library's; `experiments/tests/claims.rs` holds those within their errors.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import rto
from scipy.special import logsumexp

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
    """The next state is the action; π* takes action 1 but for ε, the data a quarter of the time."""
    for row in COVERAGE[name]:
        h = row["H"]
        # State 0, then two states a layer.
        place = lambda layer, state: 1 + 2 * (layer - 1) + state
        states = 1 + 2 * (h - 1)
        layers = [0] + [layer for layer in range(1, h) for _ in (0, 1)]
        following = [[place(layer + 1, a) if layer + 1 < h else -1 for a in (0, 1)] for layer in layers]
        mdp = rto.TabularMdp(following, [1.0] + [0.0] * (states - 1))
        policy = np.tile([other, 1 - other], (states, 1))
        found = rto.coverage(mdp, policy, behaviour=np.tile([0.75, 0.25], (states, 1)))
        assert found.pair == pytest.approx(row["C_sa"], rel=1e-9), h
        assert found.trajectory == pytest.approx(row["C_tau"], rel=1e-9), h
