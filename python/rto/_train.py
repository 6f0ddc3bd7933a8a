"""Algorithm 2 and its baselines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from . import _json
from ._progress import Bar, Progress
from ._rto import Policy, TokenTree, TrainRun, train_run

_Pair = tuple[Sequence[int], Sequence[int]] | tuple[int, Sequence[int], Sequence[int]]
_Two = tuple[float, float]


def train(
    tree: TokenTree,
    method: str,
    *,
    reward: npt.ArrayLike,
    reference: Policy | npt.ArrayLike,
    beta: float,
    pairs: Iterable[_Pair] | None = None,
    demonstrations: Iterable[Sequence[int] | tuple[int, Sequence[int]]] | None = None,
    beta1: float | None = None,
    token_reward: Callable[[list[int], list[list[int]]], Sequence[npt.ArrayLike]] | None = None,
    preference_loss: str | Mapping[str, Any] | Callable[[_Two, _Two, _Two], tuple[float, _Two]] = "dpo",
    fit: Mapping[str, Any] | None = None,
    ppo: Mapping[str, Any] | None = None,
    settings: Mapping[str, float] | None = None,
    seed: int = 0,
    eval_every: int = 1,
    progress: bool | Progress = False,
) -> TrainRun:
    """Trains a softmax table on a token tree by SFT, DPO, PPO, DPPO, RTO or a relative, and measures it exactly as it goes.

    Parameters
    ----------
    tree : TokenTree
    method : {"sft", "dpo", "ppo", "ppo_dense", "dppo", "dppo_offset", "rto", "rto_printed", "rto_released", "rloo"}
        A row of the toolkit's table of methods. "sft" learns from `demonstrations`, all others from `pairs`: π_dpo, line 2 of Algorithm 2,
        or the reward model of (2.2) are fitted to them first.
    reward : array_like of shape (n_states, n_actions)
        The truth, which no method sees: what SubOpt is measured by.
    reference : Policy, or its probabilities
        π_ref, where every policy starts.
    beta : float
        β of (3.2), by which SubOpt is measured.
    pairs : iterable of (winner, loser) or (prompt, winner, loser), optional
        Such as those of `sample_preferences`.
    demonstrations : iterable of responses or (prompt, response), optional
    beta1 : float, optional
        β of DPO and β₁ of (4.5); `beta` by default.
    token_reward : callable, optional
        ``token_reward(prompts, responses)`` returns a row of numbers for each response, in place of the reward of the method; the KL
        term is added to it. Called for every rollout, and once for every response of the tree.
    preference_loss : str, dict or callable
        What line 2 minimises: a name such as "ipo", ``{"simpo": {"gamma": 0.5}}``, or a function of two numbers each, of winner and
        loser: ``f(log_prob, ref_log_prob, length)`` returns ``(loss, (slope, slope))``.
    fit : dict, optional
        Of SFT, of DPO and of the reward model: learning_rate, schedule, batch_size, epochs, aggregation.
    ppo : dict, optional
        Lines 3 to 8: iterations, prompts_per_iteration, beta2, advantage, clip and others. What is left out of both is that of the program
        ``algorithm2``, and in ``run.settings``.
    settings : dict, optional
        The method's own: clip of "rto_released", group of "rloo", beta1 and beta2 of any.
    seed : int
        The same seed is the same run, for any number of threads.
    eval_every : int
        Iterations (steps with "sft" and "dpo") between exact measurements.
    progress : bool or callable
        A bar on the standard error stream, or ``progress(done, total, suboptimality)``.

    Returns
    -------
    TrainRun
        ``run.history`` has a row for each measurement: SubOpt(π) of (3.5) under the truth, and ``own_suboptimality`` for the reward that
        the method was given at β₂.

    Raises
    ------
    ValueError
        One line that begins with the argument's name.
    KeyboardInterrupt
        Within a second of Ctrl-C.
    """
    line2: dict[str, Any] = {"beta": beta if beta1 is None else beta1}
    loss = preference_loss if callable(preference_loss) else _json.text("preference_loss", preference_loss)
    texts = (
        json.dumps(line2) if _finite("beta1", line2["beta"]) else "",
        _json.settings("fit", fit),
        _json.settings("ppo", ppo),
        _json.settings("settings", settings),
    )
    bar = Bar(f"train {method}") if progress is True else None
    tell = bar or (progress if callable(progress) else None)
    if tell is None and progress not in (True, False):
        raise ValueError(f"progress: found a value of type {type(progress).__name__}, expected True, False or a function")
    try:
        return train_run(
            tree, method, reward, reference, beta, pairs, demonstrations, token_reward, loss, texts, seed, eval_every, tell
        )
    finally:
        if bar is not None:
            bar.close()


def _finite(name: str, value: object) -> bool:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf"):
        return True
    raise ValueError(f"{name}: found {value}, expected a finite number")
