"""Files and shapes of the tools around: token rewards as JSON lines, verl, TRL, AlpacaEval, pair files.

Readers name file and line of what is wrong; writers never write over a file that is there.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ._ragged import floats, pad

__all__ = [
    "PairAccuracy",
    "TokenRewards",
    "of_token_level_scores",
    "pair_accuracy",
    "read_alpaca_eval",
    "read_token_rewards",
    "token_level_scores",
    "trl_reward",
    "write_alpaca_eval",
    "write_token_rewards",
]

_Path = str | os.PathLike[str]
_Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TokenRewards:
    """A response with its reward per token, as ``rto_llm score --json`` writes it."""

    token_ids: tuple[int, ...]
    token_rewards: _Array
    prompt_ids: tuple[int, ...] | None = None


def _lines(path: _Path) -> Iterable[tuple[str, Any]]:
    """(place, value) of every line of a JSONL file."""
    name = os.fspath(path)
    with _opened(path) as file:
        for n, line in enumerate(file, 1):
            if line.strip():
                place = f"{name}:{n}"
                try:
                    yield place, json.loads(line)
                except ValueError as e:
                    raise ValueError(f"{place}: {e}") from None


def _opened(path: _Path) -> Any:
    try:
        return open(path, encoding="utf-8")
    except OSError as e:
        raise ValueError(f"{os.fspath(path)}: {e.strerror}") from None


def _create(path: _Path, text: str) -> None:
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ValueError(f"{os.fspath(path)}: found a file, expected a name that is free") from None
    except OSError as e:
        raise ValueError(f"{os.fspath(path)}: {e.strerror}") from None


def _number(place: str, value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ValueError(f"{place}: found {json.dumps(value)}, expected a finite number")


def _token(place: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"{place}: found {json.dumps(value)}, expected a token id")


def _record(place: str, value: Any, keys: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: found a value of type {type(value).__name__}, expected an object")
    for key in keys:
        if key not in value:
            raise ValueError(f"{place}: found no \"{key}\", expected {', '.join(keys)}")
    return value


def read_token_rewards(path: _Path) -> list[TokenRewards]:
    """Responses with their token rewards: JSON lines with ``token_ids``, ``token_rewards`` and perhaps ``prompt_ids``; other keys are passed over."""
    out = []
    for place, value in _lines(path):
        record = _record(place, value, ["token_ids", "token_rewards"])
        ids, rewards = record["token_ids"], record["token_rewards"]
        for key, part in (("token_ids", ids), ("token_rewards", rewards)):
            if not isinstance(part, list):
                raise ValueError(f"{place}: {key}: found {json.dumps(part)}, expected a list")
        if len(ids) != len(rewards):
            raise ValueError(f"{place}: found {len(rewards)} token_rewards, expected {len(ids)}, one for each of token_ids")
        tokens = tuple(_token(f"{place}: token_ids[{h}]", t) for h, t in enumerate(ids))
        numbers = np.array([_number(f"{place}: token_rewards[{h}]", r) for h, r in enumerate(rewards)], dtype=np.float64)
        prompt = record.get("prompt_ids")
        if prompt is not None and not isinstance(prompt, list):
            raise ValueError(f"{place}: prompt_ids: found {json.dumps(prompt)}, expected a list")
        prompt_ids = None if prompt is None else tuple(_token(f"{place}: prompt_ids[{h}]", t) for h, t in enumerate(prompt))
        out.append(TokenRewards(tokens, numbers, prompt_ids))
    return out


def write_token_rewards(
    path: _Path,
    token_ids: Sequence[Sequence[int]],
    token_rewards: Sequence[npt.ArrayLike],
    prompt_ids: Sequence[Sequence[int]] | None = None,
) -> None:
    """JSON lines that `read_token_rewards` reads, and with `prompt_ids` the key ``token_rewards`` of ``rto_llm``."""
    if prompt_ids is not None and len(prompt_ids) != len(token_ids):
        raise ValueError(f"prompt_ids: found {len(prompt_ids)} rows, expected {len(token_ids)}, one for each response")
    if len(token_ids) != len(token_rewards):
        raise ValueError(f"token_rewards: found {len(token_rewards)} rows, expected {len(token_ids)}, one for each response")
    lines = []
    for i, (ids, rewards) in enumerate(zip(token_ids, token_rewards)):
        row = floats(f"token_rewards[{i}]", rewards, 1)
        if row.shape != (len(ids),) or not np.isfinite(row).all():
            raise ValueError(f"token_rewards[{i}]: expected {len(ids)} finite numbers, one for each token")
        tokens = [_token(f"token_ids[{i}][{h}]", int(t)) for h, t in enumerate(ids)]
        line: dict[str, Any] = {"token_ids": tokens, "token_rewards": row.tolist()}
        if prompt_ids is not None:
            line["prompt_ids"] = [_token(f"prompt_ids[{i}][{h}]", int(t)) for h, t in enumerate(prompt_ids[i])]
        lines.append(json.dumps(line) + "\n")
    _create(path, "".join(lines))


def token_level_scores(token_rewards: Sequence[npt.ArrayLike], width: int | None = None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Token rewards as verl's ``batch["token_level_scores"]``, with the response mask.

    Parameters
    ----------
    token_rewards : rows
    width : int, optional
        Tokens to pad to (verl's response length); the longest response by default.

    Returns
    -------
    (float32 ndarray, int64 ndarray), both of shape (responses, width)
        0 after the end of a response.
    """
    table = pad(token_rewards)
    lengths = [len(row) for row in map(np.asarray, token_rewards)]
    longest = table.shape[1]
    if width is None:
        width = longest
    if width < longest:
        raise ValueError(f"width: found {width}, expected at least {longest}, the longest response")
    scores = np.zeros((len(lengths), width), dtype=np.float32)
    if not (np.abs(table) <= np.finfo(np.float32).max).all():
        raise ValueError("token_rewards: found a number that is no finite float32, expected finite numbers")
    scores[:, :longest] = table
    mask = (np.arange(width) < np.array(lengths, dtype=np.int64)[:, None]).astype(np.int64)
    return scores, mask


def of_token_level_scores(scores: npt.ArrayLike, response_mask: npt.ArrayLike) -> list[_Array]:
    """Token rewards from verl's ``batch["token_level_scores"]`` and its response mask, what `token_level_scores` gives: a row for each response.

    Parameters
    ----------
    scores, response_mask : arrays of shape (responses, width)
        The mask is 1 on the tokens of a response and 0 behind its end.
    """
    table, mask = np.asarray(scores, dtype=np.float64), np.asarray(response_mask)
    if table.ndim != 2 or mask.shape != table.shape:
        raise ValueError(f"response_mask: found shape {mask.shape} with scores of shape {table.shape}, expected one shape of two axes")
    lengths = mask.astype(bool).sum(axis=1)
    for i, n in enumerate(lengths):
        if not mask[i, :n].all():
            raise ValueError(f"response_mask[{i}]: found a gap, expected ones and then zeros")
        if not np.isfinite(table[i, :n]).all():
            raise ValueError(f"scores[{i}]: expected finite numbers")
    return [table[i, :n].copy() for i, n in enumerate(lengths)]


def trl_reward(
    records: Iterable[TokenRewards] | Callable[[list[int]], npt.ArrayLike],
) -> Callable[..., list[float]]:
    """A reward function for a trainer of TRL: the sum of the token rewards of each completion, as a list.

    Parameters
    ----------
    records : iterable of TokenRewards, or callable
        Known responses, found by their token ids; or ``f(token_ids)``, which returns the rewards of the tokens of any response.

    Returns
    -------
    callable
        ``reward(completion_ids=[[…], …], **others)`` returns a list of floats.
    """
    if callable(records):
        of = records
    else:
        known = {r.token_ids: r.token_rewards for r in records}

        def of(token_ids: list[int]) -> npt.ArrayLike:
            try:
                return known[tuple(token_ids)]
            except KeyError:
                raise ValueError(f"found the response {list(token_ids)[:8]}…, expected one of the records") from None

    def reward(prompts: Any = None, completions: Any = None, completion_ids: Sequence[Sequence[int]] | None = None, **_: Any) -> list[float]:
        if completion_ids is None:
            raise ValueError("completion_ids: found nothing, expected a list of lists of token ids")
        sums = []
        for i, ids in enumerate(completion_ids):
            try:
                row = floats("rewards", of([int(t) for t in ids]), 1)
            except ValueError as e:
                raise ValueError(f"completion_ids[{i}]: {e}") from None
            if row.shape != (len(ids),) or not np.isfinite(row).all():
                raise ValueError(f"completion_ids[{i}]: found rewards of shape {row.shape}, expected {len(ids)} finite numbers")
            sums.append(float(row.sum()))
        return sums

    return reward


def read_alpaca_eval(path: _Path) -> list[dict[str, str]]:
    """AlpacaEval's ``model_outputs.json``: objects with ``instruction``, ``output`` and ``generator``."""
    name = os.fspath(path)
    with _opened(path) as file:
        try:
            values = json.load(file)
        except ValueError as e:
            raise ValueError(f"{name}: {e}") from None
    if not isinstance(values, list):
        raise ValueError(f"{name}: found a value of type {type(values).__name__}, expected a list of objects")
    out = []
    for i, value in enumerate(values):
        record = _record(f"{name}: [{i}]", value, ["instruction", "output", "generator"])
        for key in ("instruction", "output", "generator"):
            if not isinstance(record[key], str):
                raise ValueError(f"{name}: [{i}].{key}: found {json.dumps(record[key])}, expected text")
        out.append({key: text for key, text in record.items() if isinstance(text, str)})
    return out


def write_alpaca_eval(path: _Path, instructions: Sequence[str], outputs: Sequence[str], generator: str) -> None:
    """AlpacaEval's ``model_outputs.json`` for the responses of one model."""
    if len(instructions) != len(outputs):
        raise ValueError(f"outputs: found {len(outputs)} texts, expected {len(instructions)}, one for each instruction")
    for name, texts in (("instructions", instructions), ("outputs", outputs), ("generator", [generator])):
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"{name}[{i}]: found a value of type {type(text).__name__}, expected text")
    rows = [{"instruction": x, "output": y, "generator": generator} for x, y in zip(instructions, outputs)]
    _create(path, json.dumps(rows, ensure_ascii=False, indent=2) + "\n")


@dataclass(frozen=True)
class PairAccuracy:
    """How often a reward prefers what people chose."""

    accuracy: float
    """The share of pairs whose chosen response has the larger reward; a tie is no preference and counts as wrong."""
    pairs: int
    ties: int
    subsets: dict[str, float]
    """Accuracy by the key ``subset`` of the pairs."""


def pair_accuracy(pairs: _Path | Iterable[Mapping[str, Any]], reward: Callable[[Any, Any], float]) -> PairAccuracy:
    """Accuracy of a reward model, or of an implicit reward, on preference pairs, as RewardBench counts it.

    Parameters
    ----------
    pairs : path or iterable of dicts
        JSON lines with ``prompt``, ``chosen``, ``rejected`` and, where there are several, ``subset``.
    reward : callable
        ``reward(prompt, response)`` returns a number.
    """
    if not hasattr(pairs, "__iter__") and not isinstance(pairs, os.PathLike):
        raise ValueError(f"pairs: found a value of type {type(pairs).__name__}, expected a path or a list of dicts")
    given = _lines(pairs) if isinstance(pairs, (str, os.PathLike)) else ((f"pairs[{i}]", p) for i, p in enumerate(pairs))
    right: dict[str, list[bool]] = {}
    ties = 0
    for place, value in given:
        record = _record(place, dict(value) if isinstance(value, Mapping) else value, ["prompt", "chosen", "rejected"])
        prompt = record["prompt"]
        values = []
        for key in ("chosen", "rejected"):
            number = reward(prompt, record[key])
            if isinstance(number, bool) or not isinstance(number, (int, float, np.floating, np.integer)) or not math.isfinite(number):
                raise ValueError(f"reward: found {number!r} for the {key} response of {place}, expected a finite number")
            values.append(float(number))
        ties += values[0] == values[1]
        right.setdefault(str(record.get("subset", "")), []).append(values[0] > values[1])
    total = sum(map(len, right.values()))
    if total == 0:
        raise ValueError("pairs: found none, expected at least one")
    by_subset = {name: float(np.mean(all_)) for name, all_ in right.items() if name}
    return PairAccuracy(sum(sum(r) for r in right.values()) / total, total, ties, by_subset)
