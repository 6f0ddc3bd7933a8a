"""The program `solve`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from . import _json
from ._json import Report
from ._rto import solve_file, solve_text


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
        A dict with the keys of ``solve --json``; ``report["notes"]`` says why what is None is.

    Raises
    ------
    ValueError
        One line: the key, what was found, what was expected.
    """
    if isinstance(instance, Mapping):
        return Report(json.loads(solve_text(_json.settings("instance", instance), os.getcwd())))
    if isinstance(instance, (str, os.PathLike)):
        return Report(json.loads(solve_file(os.fspath(instance))))
    raise ValueError(f"instance: found a value of type {type(instance).__name__}, expected a dict or a path")
