"""Language models: log-probabilities, token rewards and samples of a folder that transformers wrote, as the program `rto_llm` has them.

Needs the package ``rto-rlhf-llm`` (``pip install ./python/llm``), which is apart so that this one stays small.

>>> from rto import llm                                                                      # doctest: +SKIP
>>> llm.score("dpo", ["Human: Hi"], [" Hello!"], reference="sft")["token_rewards"]           # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

try:
    from rto_rlhf_llm import Model
except ImportError as _missing:
    raise ImportError("rto.llm: found no package rto-rlhf-llm, expected it installed: pip install ./python/llm") from _missing

if TYPE_CHECKING:
    _Model = Model | str | os.PathLike[str]
    _Text = str | Sequence[int]

__all__ = ["Model", "generate", "score", "token_rewards"]


def _open(name: str, given: _Model, threads: int) -> Model:
    if isinstance(given, Model):
        return given
    if isinstance(given, (str, os.PathLike)):
        return Model(os.fspath(given), threads=threads)
    raise ValueError(f"{name}: found a value of type {type(given).__name__}, expected a folder or a Model")


def _list(name: str, given: Sequence[_Text]) -> list[_Text]:
    if isinstance(given, (str, bytes)) or not hasattr(given, "__len__"):
        raise ValueError(f"{name}: found a value of type {type(given).__name__}, expected a list of texts or of token ids")
    return list(given)


def score(
    model: _Model,
    prompts: Sequence[_Text],
    responses: Sequence[_Text],
    *,
    reference: _Model | None = None,
    beta: float = 0.1,
    threads: int = 1,
) -> dict[str, list[Any]]:
    """Log-probabilities of given responses, one number per response token (temperature 1, full softmax).

    Parameters
    ----------
    model, reference : folder, or Model
        A `Model` is read once for many calls.
    prompts, responses : list of str, or of lists of token ids
        As many of each. Where both of a row are texts, they are one text, cut into tokens as a whole.
    beta : float
        β > 0 of the token rewards.
    threads : int
        Of models that are read by this call; no number depends on it.

    Returns
    -------
    dict
        Columns with an entry per row: ``prompt_ids`` and, of the response, ``token_ids``; ``tokens``, None without a tokenizer; ``log_probs``, an array;
        ``token_rewards``, the array β (log π - log π_ref) of (4.5), None without `reference`.
    """
    ask, answer = _list("prompts", prompts), _list("responses", responses)
    if len(ask) != len(answer):
        raise ValueError(f"responses: found {len(answer)}, expected one for each of the {len(ask)} prompts")
    beta = float(beta)
    if not (np.isfinite(beta) and beta > 0):
        raise ValueError(f"beta: found {beta}, expected a finite number above 0")
    policy = _open("model", model, threads)
    base = None if reference is None else _open("reference", reference, threads)
    pairs = [policy.pair(p, r, f"row {k}") for k, (p, r) in enumerate(zip(ask, answer))]
    if base is not None:
        if base.vocabulary != policy.vocabulary:
            raise ValueError(f"reference: found a vocabulary of {base.vocabulary}, expected {policy.vocabulary}, that of the model")
        for k, (p, r) in enumerate(zip(ask, answer)):
            # Without a tokenizer on one side there is nothing to compare; ids are ids.
            if base.has_tokenizer and policy.has_tokenizer and base.pair(p, r, f"row {k}") != pairs[k]:
                raise ValueError(f"reference: row {k} has other tokens there; token rewards need one tokenizer")
    ours = policy.log_probs(pairs)
    rewards = None if base is None else [beta * (a - b) for a, b in zip(ours, base.log_probs(pairs))]
    return {
        "prompt_ids": [ids for ids, _ in pairs],
        "token_ids": [ids for _, ids in pairs],
        "tokens": [policy.pieces(ids) if policy.has_tokenizer else None for _, ids in pairs],
        "log_probs": list(ours),
        "token_rewards": [None] * len(pairs) if rewards is None else list(rewards),
    }


def token_rewards(
    model: _Model,
    reference: _Model,
    prompts: Sequence[_Text],
    responses: Sequence[_Text],
    *,
    beta: float = 0.1,
    threads: int = 1,
) -> list[npt.NDArray[np.float64]]:
    """β (log π - log π_ref) of every response token, (4.5): the column ``token_rewards`` of `score`."""
    return score(model, prompts, responses, reference=reference, beta=beta, threads=threads)["token_rewards"]


def generate(
    model: _Model,
    prompts: Sequence[_Text],
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_new_tokens: int = 0,
    greedy: bool = False,
    samples: int = 1,
    batch: int = 16,
    seed: int = 0,
    threads: int = 1,
) -> dict[str, list[Any]]:
    """Responses drawn from a model: those of ``rto_llm generate``, the same seed the same text whatever the batch and the threads.

    Parameters
    ----------
    prompts : list of str, or of lists of token ids
    max_new_tokens, min_new_tokens : int
        Longest response, and the length before which it may not end.
    temperature, top_p, top_k
        Of the distribution that is drawn from; `top_k` 0 keeps all tokens.
    greedy : bool
        Always the most likely token, whatever `temperature` and `seed`.
    samples : int
        Responses to each prompt, in its place.

    Returns
    -------
    dict
        Columns with an entry per response: ``prompt`` (its place), ``prompt_ids``, ``token_ids``, ``text`` (None without a tokenizer), ``finish``
        ("eos" or "length"), and ``log_probs``, an array, of the distribution that was sampled.
    """
    rows = _open("model", model, threads).draw(
        _list("prompts", prompts),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_new_tokens=min_new_tokens,
        greedy=greedy,
        samples=samples,
        batch=batch,
        seed=seed,
    )
    return {key: [row[key] for row in rows] for key in ("prompt", "prompt_ids", "token_ids", "text", "finish", "log_probs")}
