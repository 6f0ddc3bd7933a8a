"""Padded arrays as rows, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]


def rows(padded: npt.ArrayLike, lengths: npt.ArrayLike) -> list[_Array]:
    """The rows of a padded array, each cut to its length.

    Parameters
    ----------
    padded : array_like of shape (responses, tokens)
    lengths : array_like
        The number of tokens of each response, shape (responses,); or a mask of shape (responses, tokens) that is 1 (True) up to the end of
        each response and 0 after it.

    Returns
    -------
    list of ndarray
    """
    table = floats("padded", padded, 2)
    ends = floats("lengths", lengths, None)
    if ends.shape == table.shape and ends.ndim == 2:
        counts = ends.sum(axis=1)
        if not np.array_equal(ends, np.arange(table.shape[1]) < counts[:, None]):
            raise ValueError("lengths: found a mask with gaps, expected ones and then zeros in every row")
    elif ends.shape == (len(table),):
        counts = ends
    else:
        raise ValueError(f"lengths: found shape {ends.shape}, expected ({len(table)},) or {table.shape}")
    for i, n in enumerate(counts):
        if not (0 <= n <= table.shape[1]) or n != int(n):
            raise ValueError(f"lengths[{i}]: found {n}, expected a whole number from 0 to {table.shape[1]}")
    return [row[: int(n)].copy() for row, n in zip(table, counts)]


def pad(rows: Sequence[npt.ArrayLike], value: float = 0.0) -> _Array:
    """Rows as one array, shape (responses, longest), with `value` after the end of each."""
    if not hasattr(rows, "__iter__"):
        raise ValueError(f"rows: found a value of type {type(rows).__name__}, expected a row of numbers for each response")
    parts = [floats(f"rows[{i}]", row, 1) for i, row in enumerate(rows)]
    out = np.full((len(parts), max(map(len, parts), default=0)), float(value))
    for line, part in zip(out, parts):
        line[: len(part)] = part
    return out


def floats(name: str, value: npt.ArrayLike, ndim: int | None) -> _Array:
    """The argument `name` as float64."""
    try:
        array = np.asarray(value)
        # Objects and complex numbers have no faithful float.
        if array.dtype.kind not in "biuf":
            raise TypeError
        array = array.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: found a value of type {type(value).__name__}, expected an array of numbers") from None
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name}: found {array.ndim} axes, expected {ndim}")
    return array
