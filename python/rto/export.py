"""Hands the metrics of a run folder of ``rto_llm`` to Weights & Biases, trackio or MLflow, or prints them as CSV.

    python -m rto.export runs/tiny-0001 --to trackio --project rlhf
    python -m rto.export runs/tiny-0001 > metrics.csv

Every stage (``metrics/NAME.jsonl``) becomes a run of that name; a line is logged at its own step.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Line = tuple[int, dict[str, float]]


def stages(run: Path) -> dict[str, list[Line]]:
    """The lines of every stage, by its name: (step, numbers)."""
    files = sorted((run / "metrics").glob("*.jsonl"))
    if not files:
        raise ValueError(f"{run}: found no metrics/*.jsonl, expected the folder of a run")
    return {file.stem: list(_lines(file)) for file in files}


def _lines(file: Path) -> Iterator[Line]:
    for n, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(text)
            step = record.pop("step")
        except (ValueError, KeyError, AttributeError) as e:
            raise ValueError(f"{file}:{n}: {e}, expected an object with a step") from None
        # What is not a number (null where one was not finite) has no place in a chart.
        yield step, {k: float(v) for k, v in record.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def to_wandb(module: Any, project: str, run: Path, all_stages: dict[str, list[Line]]) -> None:
    """Weights & Biases, or trackio, which has the same three calls."""
    for name, lines in all_stages.items():
        board = module.init(project=project, name=f"{run.name}-{name}", config={"run": str(run), "stage": name})
        for step, numbers in lines:
            board.log(numbers, step=step)
        board.finish()


def to_mlflow(module: Any, project: str, run: Path, all_stages: dict[str, list[Line]]) -> None:
    """MLflow, into the experiment `project`."""
    module.set_experiment(project)
    for name, lines in all_stages.items():
        with module.start_run(run_name=f"{run.name}-{name}"):
            module.log_params({"run": str(run), "stage": name})
            for step, numbers in lines:
                module.log_metrics(numbers, step=step)


def to_csv(all_stages: dict[str, list[Line]]) -> None:
    """Rows of stage, step, metric and value on the standard output."""
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["stage", "step", "metric", "value"])
    for name, lines in all_stages.items():
        for step, numbers in lines:
            out.writerows([name, step, metric, repr(value)] for metric, value in numbers.items())


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rto.export", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a run of rto_llm")
    parser.add_argument("--to", choices=["csv", "wandb", "trackio", "mlflow"], default="csv", help="default: csv")
    parser.add_argument("--project", default="rto", help="project or experiment (default: rto)")
    given = parser.parse_args(arguments)
    try:
        found = stages(given.run)
        if given.to == "csv":
            to_csv(found)
            return 0
        try:
            module = importlib.import_module(given.to)
        except ImportError:
            raise ValueError(f"--to {given.to}: the package is not installed: pip install {given.to}") from None
        (to_mlflow if given.to == "mlflow" else to_wandb)(module, given.project, given.run, found)
    except ValueError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
