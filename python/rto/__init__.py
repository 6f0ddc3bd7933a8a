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

import json
import os
from collections.abc import Mapping
from html import escape
from typing import Any

from ._rto import (
    BtFit,
    MaxMin,
    Policy,
    PolicyValue,
    SoftOptimum,
    TabularMdp,
    TokenTree,
    Visitation,
    __version__,
    algorithm1,
    confidence_radius,
    design,
    evaluate,
    fit_bradley_terry,
    maxmin,
    soft_value_iteration,
    solve_file,
    solve_text,
    suboptimality,
    visitation,
)

__all__ = [
    "BtFit",
    "MaxMin",
    "Policy",
    "PolicyValue",
    "Report",
    "SoftOptimum",
    "TabularMdp",
    "TokenTree",
    "Visitation",
    "__version__",
    "algorithm1",
    "confidence_radius",
    "design",
    "evaluate",
    "fit_bradley_terry",
    "maxmin",
    "soft_value_iteration",
    "solve",
    "suboptimality",
    "visitation",
]


class Report(dict[str, Any]):
    """What `solve` says, with the keys of `solve --json`; `report["notes"]` says why what is None is."""

    def _repr_html_(self) -> str:
        known = ((k, v) for k, v in self.items() if v is not None and k not in ("notes", "warnings"))
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(k)}</th><td>{escape(_short(v))}</td></tr>" for k, v in known
        )
        return f"<table>{rows}</table>"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _plain(value: Any) -> Any:
    """What JSON can hold of an argument: arrays and NumPy's numbers as lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ValueError(f"instance: found a value of type {type(value).__name__}, expected numbers, text, lists, dicts or arrays")


def solve(instance: Mapping[str, Any] | str | os.PathLike[str]) -> Report:
    """Everything the theory says about one token MDP, exactly: what the program `solve` prints.

    Parameters
    ----------
    instance : dict or path
        A dict with the keys of the file that ``solve --help`` describes, arrays allowed for lists; or the path of such a file.
        Files that a dict names lie below the current folder.

    Returns
    -------
    Report
        A dict with the keys of ``solve --json``.

    Raises
    ------
    ValueError
        One line: the key, what was found, what was expected.
    """
    if isinstance(instance, Mapping):
        try:
            text = json.dumps(dict(instance), default=_plain, allow_nan=False)
        except (ValueError, TypeError, RecursionError) as e:
            line = str(e)
            if "JSON compliant" in line:
                line = "instance: found nan or inf, expected finite numbers"
            raise ValueError(line) from None
        return Report(json.loads(solve_text(text, os.getcwd())))
    if isinstance(instance, (str, os.PathLike)):
        return Report(json.loads(solve_file(os.fspath(instance))))
    raise ValueError(f"instance: found a value of type {type(instance).__name__}, expected a dict or a path")
