"""The findings of `tests/golden/estimators.json` on the hundred trees of `estimator_trees.json`, by `rto.audit` and a little NumPy."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import rto

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
FINDINGS = json.loads((GOLDEN / "estimators.json").read_text())["findings"]
SHAPES = {"A2H3eos1": (2, 3, 1), "A3H2eos2": (3, 2, 2), "A2H4": (2, 4, None)}


class Tree:
    def __init__(self, entry, beta):
        self.shape = (a, h, eos) = SHAPES[entry["tree"]]
        self.entry, self.beta = entry, beta
        self.given = {"A": a, "H": h, "eos": eos, "prompt_weights": [1.0], "beta": beta, "beta1": beta, "dpo_clip": 0.15}
        self.given |= {key: self.rows(entry[key]) for key in ("r", "ref_logits", "dpo_logits")}

    def rows(self, flat):
        return np.reshape(flat, (-1, self.shape[0]))

    def audit(self, theta, **asked):
        theta = self.rows(theta)
        return rto.audit(tree=self.given | {"theta": theta, "theta_old": theta}, **asked)["recipes"]

    @cache
    def exactly(self):
        """The same tree for planning, with the places of the file's states in its tables."""
        a, h, eos = self.shape
        tree = rto.TokenTree(a, h, eos=eos)
        open_ = [[]]
        for prefix in open_:
            open_ += [[*prefix, t] for t in range(a) if t != eos and len(prefix) + 1 < h]
        places = [tree.state(p) for p in open_]
        reward, logits = np.zeros((tree.n_states, a)), np.zeros((tree.n_states, a))
        reward[places], logits[places] = self.given["r"], self.given["ref_logits"]
        return tree, places, reward, rto.Policy.from_logits(logits)

    def suboptimality(self, beta, probs=None):
        tree, places, reward, reference = self.exactly()
        policy = reference
        if probs is not None:
            table = np.full((tree.n_states, self.shape[0]), 1 / self.shape[0])
            table[places] = probs
            policy = rto.Policy.from_probs(table / table.sum(axis=1, keepdims=True))
        return rto.suboptimality(tree, reward, policy, reference, beta)


@cache
def trees(first, n, beta):
    every = json.loads((GOLDEN / "estimator_trees.json").read_text())
    found = [Tree(e, beta) for e in every if first <= e["seed"] < first + n]
    assert len(found) == n
    return found


@pytest.mark.parametrize("finding", FINDINGS[:2], ids=lambda f: f"beta {f['beta']}")
def test_f1_where_recipes_end(finding):
    """SubOpt where the flow from π_ref ends, over that of π_ref, judged by `rto.suboptimality`."""
    beta = finding["beta"]
    audits = [t.audit(t.entry["ref_logits"], beta=beta) for t in trees(1000, 30, beta)]
    grid = beta * np.exp(-2 + 0.1 * np.arange(41))
    for name, want in finding["table"].items():
        ratios, best, ends = [], [], []
        for tree, audit in zip(trees(1000, 30, beta), audits):
            end = audit[name]["fixed_point"]
            ends.append(end["status"])
            ratio = lambda b: tree.suboptimality(b, end["policy"]) / tree.suboptimality(b)
            ratios.append(ratio(beta))
            best.append(min(map(ratio, grid)))
        assert (ends.count("interior"), ends.count("boundary")) == (want["interior"], want["boundary"]), name
        assert sum(r > 1 for r in ratios) == want["worse_than_reference"], name
        # A limit at the boundary, or where the field turns without vanishing, is known to about 1e-5.
        tolerance = 1e-8 if want["interior"] == 30 else 1e-5
        for got, key in ((np.median(ratios), "median"), (np.median(best), "median_at_best_beta"), (max(ratios), "max")):
            assert got == pytest.approx(want[key], rel=tolerance, abs=tolerance), (name, key)


def rloo(placement, estimator):
    return {"advantage": "leave_one_out", "responses": 4, "kl": {"placement": placement, "estimator": estimator}, "beta": 0.3}


def flat(table):
    return np.concatenate(table)


def test_f2_bias_against_variance():
    finding, forest = FINDINGS[2], trees(2000, 40, 0.3)
    own = {"RLOO, k1 in reward": rloo("reward", "k1"), "RLOO, exact KL in reward and loss": rloo("both", "exact")}
    named = [t.audit(t.entry["theta"]) for t in forest]
    found = {}
    for name, want in finding["table"].items():
        bias, variance = [], []
        for tree, audit in zip(forest, named):
            one = audit[name] if name not in own else tree.audit(tree.entry["theta"], recipe=own[name])["recipe"]
            field, goal = flat(one["on_policy"]["E_g"]), flat(one["target_gradient"])
            # Under the scale c the learning rate has no say.
            c = goal @ goal / (field @ goal)
            bias.append(((c * field - goal) ** 2).sum() / (goal @ goal))
            variance.append(c**2 * one["on_policy"]["trace_cov_per_response"] / (goal @ goal))
        found[name] = bias, variance
        assert np.median(bias) == pytest.approx(want["median_bias2"], rel=1e-9, abs=1e-9), name
        assert np.median(variance) == pytest.approx(want["median_var"], rel=1e-9), name
        if want["median_n_star"] is not None:
            assert np.median(np.divide(variance, bias)) == pytest.approx(want["median_n_star"], rel=1e-9), name
    ratio = np.divide(found["RLOO, exact KL in reward and loss"][1], found["RLOO, k1 in reward"][1])
    assert np.median(ratio) == pytest.approx(finding["var_ratio_exact_both_over_k1"], rel=1e-9)
    assert (ratio < 1).sum() == finding["trees_where_exact_both_has_less_variance"]


def test_f3_lambda_for_dense_and_sparse_rewards():
    finding, forest = FINDINGS[3], trees(3000, 30, 0.3)
    lambdas = finding["lambdas"]
    for critic, given in (("zero", "zero"), ("offset", {"offset": 0.5})):
        for name, reward in (("dense (RTO)", "dpo"), ("sparse (DPPO)", "dpo_at_end")):
            parts = np.empty((30, len(lambdas), 2))
            for i, tree in enumerate(forest):
                for k, lam in enumerate(lambdas):
                    recipe = {"reward": reward, "advantage": {"gae": {"gamma": 1.0, "lambda": lam, "critic": given}}}
                    recipe |= {"kl": {"placement": "reward", "estimator": "k1"}, "beta": 0.3, "surrogate": {"ratio": "log_prob"}}
                    one = tree.audit(tree.entry["ref_logits"], recipe=recipe)["recipe"]
                    gap = flat(one["on_policy"]["E_g"]) - flat(one["target_gradient"])
                    parts[i, k] = gap @ gap, one["on_policy"]["trace_cov_unit"]
            for n in (16, 64, 256, 4096):
                want = finding["table"][f"{critic} critic, {name}, n={n}"]
                error = parts[..., 0] + parts[..., 1] / n
                best = np.take(lambdas, error.argmin(axis=1))
                got = {
                    "median_best_lambda": np.median(best),
                    "share_best_is_1": (best == 1).mean(),
                    "median_mse_best_over_1": np.median(error.min(axis=1) / error[:, 6]),
                    "median_mse_095_over_1": np.median(error[:, 5] / error[:, 6]),
                }
                assert got == pytest.approx(want, rel=1e-9), (critic, name, n)
