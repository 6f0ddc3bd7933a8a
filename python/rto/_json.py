"""Arguments that travel as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from html import escape
from typing import Any


def plain(name: str) -> Any:
    """What JSON can hold of an argument: arrays and NumPy's numbers as lists and numbers."""

    def convert(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        raise ValueError(f"{name}: found a value of type {type(value).__name__}, expected numbers, text, lists, dicts or arrays")

    return convert


def text(name: str, value: Any) -> str:
    """The argument `name` as JSON."""
    try:
        return json.dumps(value, default=plain(name), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as e:
        line = str(e)
        if "JSON compliant" in line:
            line = f"{name}: found nan or inf, expected finite numbers"
        raise ValueError(line if line.startswith(name) else f"{name}: {line}") from None


def settings(name: str, value: Mapping[str, Any] | None) -> str:
    """The argument `name` as a JSON object."""
    if value is None:
        return "{}"
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: found a value of type {type(value).__name__}, expected a dict")
    return text(name, dict(value))


class Report(dict[str, Any]):
    """A dict that a notebook shows as a table: what a program of the toolkit prints with ``--json``."""

    def _repr_html_(self) -> str:
        known = ((k, v) for k, v in self.items() if v is not None and k not in ("notes", "warnings"))
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(str(k))}</th><td>{escape(_short(v))}</td></tr>" for k, v in known
        )
        return f"<table>{rows}</table>"


def _short(value: Any) -> str:
    short = json.dumps(value)
    return short if len(short) <= 120 else short[:117] + "..."
