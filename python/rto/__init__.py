"""Exact RLHF on token MDPs, from NumPy arrays.

The numbers are those of the Rust library: nothing is sampled or approximated where it can be enumerated. Equation numbers are those of "DPO Meets
PPO: Reinforced Token Optimization for RLHF", version 1.

>>> import numpy as np, rto
>>> tree = rto.TokenTree(n_actions=2, horizon=2)
>>> reward = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.5]])
>>> reference = rto.Policy.uniform(tree)
>>> best = rto.soft_value_iteration(tree, reward, reference, beta=0.5)
>>> round(rto.suboptimality(tree, reward, best.policy, reference, beta=0.5), 12)
0.0
"""

from __future__ import annotations

from . import advantages, interchange, losses
from ._audit import audit, bench, recipes
from ._json import Report
from ._ragged import pad, rows
from ._rto import (
    BestOfN,
    Bound,
    BtFit,
    Coverage,
    Found,
    Loss,
    MaxMin,
    Policy,
    PolicyValue,
    SoftOptimum,
    TabularMdp,
    TokenTree,
    TrainRun,
    Visitation,
    __version__,
    additive_coverage,
    algorithm1,
    best_first,
    best_of_n,
    confidence_radius,
    coverage,
    covering_behaviour,
    design,
    evaluate,
    fit_bradley_terry,
    linear_coverage,
    maxmin,
    sample_preferences,
    soft_best_of_n,
    soft_value_iteration,
    suboptimality,
    theorem_4_2,
    theorem_b1,
    token_rewards,
    visitation,
)
from ._solve import solve
from ._train import train

__all__ = [
    "BestOfN",
    "Bound",
    "BtFit",
    "Coverage",
    "Found",
    "Loss",
    "MaxMin",
    "Policy",
    "PolicyValue",
    "Report",
    "SoftOptimum",
    "TabularMdp",
    "TokenTree",
    "TrainRun",
    "Visitation",
    "__version__",
    "additive_coverage",
    "advantages",
    "algorithm1",
    "audit",
    "bench",
    "best_first",
    "best_of_n",
    "confidence_radius",
    "coverage",
    "covering_behaviour",
    "design",
    "evaluate",
    "fit_bradley_terry",
    "interchange",
    "linear_coverage",
    "losses",
    "maxmin",
    "pad",
    "recipes",
    "rows",
    "sample_preferences",
    "soft_best_of_n",
    "soft_value_iteration",
    "solve",
    "suboptimality",
    "theorem_4_2",
    "theorem_b1",
    "token_rewards",
    "train",
    "visitation",
]
