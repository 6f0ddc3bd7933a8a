"""A progress bar for terminals and notebooks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

Progress = Callable[[int, int, float], object]


class Bar:
    """One line on the standard error stream, written over and over at most ten times a second."""

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        self._what, self._stream = what, stream or sys.stderr
        self._start, self._shown, self._width = time.monotonic(), -1.0, 0

    def __call__(self, done: int, total: int, gap: float) -> None:
        now = time.monotonic()
        if done < total and now - self._shown < 0.1:
            return
        self._shown = now
        filled = 24 * done // max(total, 1)
        line = f"{self._what} |{'█' * filled}{' ' * (24 - filled)}| {done}/{total}  SubOpt {gap:.4g}  {now - self._start:.0f} s"
        self._stream.write("\r" + line.ljust(self._width))
        self._width = len(line)
        self._stream.flush()

    def close(self) -> None:
        """Ends the line."""
        if self._width:
            self._stream.write("\n")
            self._stream.flush()
