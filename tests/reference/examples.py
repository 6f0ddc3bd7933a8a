"""Instances whose right values were worked out by hand or in 50 digits, one for each kind of fault that was found: (name, instance, {path: value}).

A value is a number (within 1e-4 of it, relative, as it was written down), a list, a boolean, None (null, with a reason) or a function of what was found.
"""
import math

import reference

ARMS = {"beta": 1, "initial": [1], "n_actions": 3, "horizon": 1}
STOCHASTIC = {
    "beta": 0.5, "states": 3, "initial": [1, 0, 0], "horizon": 2,
    "transition": [[[[1, 0.5], [2, 0.5]], [[1, 0.9], [2, 0.1]]], [None, None], [None, None]],
    "reference": [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]], "reward": [[0, 0], [2, 1], [-1, -2]],
}
SEPARABLE = {
    **ARMS, "reference": [[[0.4, 0.3, 0.3]]], "features": [[[[0, 0], [1, 0.5], [1, -0.2]]]],
    "preferences": [{"prompt": 0, "winner": [1], "loser": [0]}, {"prompt": 0, "winner": [2], "loser": [0]}],
}


def pairs(*which):
    return [{"prompt": 0, "winner": w, "loser": l} for w, l in which]


UNITS = {
    **ARMS, "reference": [[[0.2, 0.3, 0.5]]], "features": [[[[0, 3e-6], [1, 1e-5], [-1, 2e-6]]]],
    "preferences": pairs(([1], [0]), ([0], [1]), ([2], [0]), ([1], [2]), ([0], [2]), ([2], [1]), ([1], [0]), ([1], [0])),
    "estimation": {"ridge": 0.001},
}
AFTER_EOS = {
    "beta": 1, "initial": [1], "n_actions": 2, "horizon": 2, "eos": 0, "reference": [[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]],
    "features": [[[[1], [0.5]], [[3], [3]], [[1], [0]]]], "preferences": pairs(([0], [1, 0])),
    "estimation": {"param_bound": 1, "bonus_scale": "theory"},
}
NO_PAIRS = {
    "beta": 1, "initial": [1], "n_actions": 2, "horizon": 1, "reference": [[[0.5, 0.5]]], "features": [[[[1], [0.3]]]], "preferences": [],
}
STEEP = {
    "beta": 122.20315157719557, "initial": [0.5815807401191175, 0.41841925988088247], "n_actions": 3, "horizon": 1,
    "reference_logits": [[[-0.6, 3, 0.2]], [[-0.7, -2.7, 1.8]]],
    "features": [[[[-1, 1, 1, 0], [1, 2, 1, 3], [-1, 0, 1, -1]]], [[[0, 0, 1, 0], [0, 0, 1, 0], [1, 0, 1, 1]]]],
    "preferences": pairs(([1], [0])), "estimation": {"param_bound": 80, "ridge": 0.03, "bonus_scale": "likelihood_ratio_asymptotic"},
}
SMALL_GAP = lambda gap: gap is not None and gap <= 1e-9 * 400

EXAMPLES = [
    ("A1 pairs from pi_ref", STOCHASTIC, {"dpo.root_policy.0.0": 0.2304, "dpo.suboptimality": 0.09205}),
    ("A1 uniform pairs", {**STOCHASTIC, "dpo": {"pairs": "uniform"}}, {"dpo.root_policy.0.0": 0.5, "dpo.suboptimality": 0.3802}),
    ("A2 separable", {**SEPARABLE, "estimation": {"param_bound": 30, "bonus_scale": 0}},
     {"mle.theta": [29.9836, 0.9924], "mle.at_bound": True, "mle.separation": "complete"}),
    *[(f"A2 separable, B = {b}", {**SEPARABLE, "estimation": {"param_bound": b, "bonus_scale": 0}}, {"mle.norm": b, "mle.at_bound": True}) for b in (40, 700)],
    ("A2 units", UNITS, {"mle.rank": 2, "radii.rho_wald_Hmetric": 2.4477}),
    ("A3 after the end", AFTER_EOS, {"radii.Upsilon_2HLB": 0.017663, "radii.rho_theory_Upsilon": 78.804, "algorithm1.bonus_scale": 78.804}),
    ("A3 a bound of 1", {**AFTER_EOS, "estimation": {**AFTER_EOS["estimation"], "feature_bound": 1}}, {"radii.Upsilon_2HLB": 0.017663}),
    *[(f"A4 no pairs, ridge {r}", {**NO_PAIRS, "estimation": {"param_bound": 1, "ridge": r, "bonus_scale": "theory_kappa"}},
       {"radii.G_noise": 1.22387, "algorithm1.bonus_scale": 2 * 1.2238734 + math.sqrt(4 * 1.2238734**2 + 4 * r)}) for r in (0.001, 0.02, 0.05, 3)],
    ("A4 beta = 122.2", STEEP, {"theorem_b1.duality_gap": SMALL_GAP, "baselined.duality_gap": SMALL_GAP, "mle.norm": 80}),
    ("A5 optimal without a truth", {**SEPARABLE, "estimation": {"param_bound": 2}, "rto": {"beta1": 0.1, "beta2": 0.1, "source": "optimal"}}, {"rto": None}),
    ("ridge beside large features", {
        **ARMS, "reference": [[[0.2, 0.3, 0.5]]], "features": [[[[0, 0], [3e6, 4e6], [4e6, -3e6]]]], "preferences": pairs(([1], [0])),
        "theta": [1e-6, 1e-6], "estimation": {"param_bound": 1e-5, "ridge": 0.001, "bonus_scale": 1},
    }, {"log_det_sigma": math.log(25e12 + 0.001) + math.log(0.001)}),
    ("pairs that span in no unit", {
        "beta": 0.173, "initial": [1], "n_actions": 2, "horizon": 2, "eos": 0, "reference": [[[0.4, 0.6], [0.25, 0.75], [0.3, 0.7]]],
        "features": [[[[0, -600000, -6e-6], [0.0003, 0, 6e-6]], [[0, 0, 0], [0, 0, 0]], [[0.0008, 500000, 2.1e-5], [0.0004, 800000, 1.6e-5]]]],
        "preferences": pairs(([0], [1, 0])), "estimation": {"param_bound": 9070},
    }, {"dpo.unique": False}),
]


def compare(answer, inst, want):
    out, err = answer
    if out is None:
        return [("answered", False, err, "an answer")]
    c = reference.Checker(inst, out)
    for path, value in want.items():
        got = out
        for k in path.split("."):
            got = got[int(k)] if isinstance(got, list) else got[k]
        if callable(value):
            ok = value(got)
        elif value is None:
            ok = got is None and c.note(path) is not None
        elif isinstance(value, (bool, str)):
            ok = got == value
        elif isinstance(value, list):
            ok = len(got) == len(value) and all(abs(g - v) <= 1e-4 * abs(v) for g, v in zip(got, value))
        else:
            ok = got is not None and abs(got - value) <= 3e-4 * abs(value)
        c.say(path, ok, got, value if not callable(value) else "small")
    return c.rows + reference.check(inst, out)
