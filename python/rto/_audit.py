"""The programs `audit` and `bench` about one problem."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from . import _json
from ._json import Report
from ._rto import audit_text, bench_text, recipes_text

_Given = Mapping[str, Any] | str | os.PathLike[str]


def _given(name: str, value: _Given, expected: str) -> tuple[bool, str]:
    """(whether it is JSON, the text)."""
    if isinstance(value, Mapping):
        return True, _json.settings(name, value)
    if isinstance(value, (str, os.PathLike)):
        return False, os.fspath(value)
    raise ValueError(f"{name}: found a value of type {type(value).__name__}, expected {expected}")


def audit(
    recipe: _Given | None = None,
    tree: _Given | None = None,
    *,
    beta: float = 0.3,
    group: int = 4,
    batch: int = 4,
    explain: bool = False,
    draws: int | None = None,
    seed: int = 1,
) -> Report:
    """What the gradient of a training recipe climbs on a tree, exactly: the answer of the program `audit`.

    Parameters
    ----------
    recipe : str, dict or path, optional
        A name of `recipes`, such as "trl.grpo"; the keys of a recipe's TOML file as a dict, or such a file (see ``audit --help``); all named
        recipes by default.
    tree : dict or path, optional
        The keys of a tree's JSON file (A, H, eos, prompt_weights, theta, theta_old, ref_logits, dpo_logits, r, beta, beta1, dpo_clip), arrays
        allowed, or such a file; the program's third fixed tree at `beta` by default.
    beta : float
        β of the fixed tree; a tree of your own has its own.
    group, batch : int
        Responses of a group, and of a batch without groups, of the named recipes.
    explain : bool
        One recipe, term by term: what each of its choices costs.
    draws : int, optional
        Units to draw instead of enumerating all: estimates with the half of their 95% intervals.
    seed : int
        Of the draws.

    Returns
    -------
    Report
        ``audit(…)["recipes"][name]``: the expected gradient ``E_g`` on-policy and stale beside ``target_gradient``, its covariance, its curl,
        and the fixed point with its SubOpt.
    """
    expected = "a name, a dict or a path"
    recipe_given = None if recipe is None else _given("recipe", recipe, expected)
    tree_given = None if tree is None else _given("tree", tree, "a dict or a path")
    return Report(json.loads(audit_text(tree_given, recipe_given, beta, group, batch, explain, draws, seed)))


def recipes() -> dict[str, list[str]]:
    """The recipes that `audit` knows by name, as a table: ``pandas.DataFrame(rto.recipes())``."""
    short, names, about = zip(*recipes_text())
    return {"short_name": list(short), "name": list(names), "about": list(about)}


def bench(instance: _Given) -> Report:
    """Every method of preference optimisation on one problem, run to its exact minimiser: the answer of ``bench --instance``.

    Parameters
    ----------
    instance : dict or path
        The keys of an instance's JSON file (see ``bench --help``): A, H, eos, beta, ref, reward, pairs, policies and losses of your own,
        constants of the methods; arrays allowed. Or such a file.

    Returns
    -------
    Report
        The policy of each method with its reward, KL, value and SubOpt, and what certifies it.
    """
    return Report(json.loads(bench_text(_given("instance", instance, "a dict or a path"))))
