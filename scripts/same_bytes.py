#!/usr/bin/env python3
"""Checks that a change leaves results as they were: runs every binary at two revisions and compares the files they write.

    scripts/same_bytes.py main .            # a revision against the working tree
    scripts/same_bytes.py v1 v2 --default   # the default runs of rto_llm and thm42 as well
    scripts/same_bytes.py main . --only solve,thm42

A revision is anything that `git rev-parse` reads, or `.` for the working tree as it is. Runs of a committed revision are kept below
target/same_bytes, so that it is built and run once. The exit code is 0 if everything is equal, 1 if not, 2 if a program failed.

Equal means the same bytes, but for what names settings, versions, times and folders:
  config.toml, versions.json, timings.json, locks and TensorBoard files, which hold the wall clock, are not compared;
  seconds in what is printed are not compared;
  JSON (results, standard output) is compared without the keys of SETTINGS, at any depth;
  pages, cards and stage files that quote settings (QUOTING) are compared where they are equal and listed where not, as a reminder to look.
Everything else, CSV, JSONL, figures, weights, tokenizers, is compared byte by byte.
"""

import argparse
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "target" / "same_bytes"

IGNORED = ["whole", "config.toml", "versions.json", "timings.json", "*.lock", ".lock", "*.stderr.txt", "events.out.tfevents.*"]
SETTINGS = {"config", "settings", "versions", "timings", "seconds", "run"}
QUOTING = ["*.html", "README.md", "report.md"]

# Name, package, arguments beside --out DIR.
SMOKE = [
    ("prop32", "rto-experiments", ["--smoke", "--quiet"]),
    ("thm42", "rto-experiments", ["--smoke", "--quiet"]),
    ("algorithm2", "rto-experiments", ["--smoke", "--quiet"]),
    ("audit", "rto-experiments", ["--smoke", "--quiet"]),
    ("bench", "rto-experiments", ["--smoke", "--quiet"]),
    ("paper", "rto-experiments", ["--quiet"]),
    ("rto_llm", "rto-llm", ["--smoke", "--quiet"]),
]
DEFAULT = [
    ("thm42", "rto-experiments", ["--quiet"]),
    ("rto_llm", "rto-llm", ["--quiet"]),
]


def say(text):
    print(text, flush=True)


def call(command, **more):
    done = subprocess.run(command, **more)
    if done.returncode != 0:
        say(f"error: {' '.join(map(str, command))}: exit code {done.returncode}")
        sys.exit(2)


def git(*arguments):
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True).stdout.strip()


def checkout(revision):
    """The tree of a revision, in one worktree that every revision uses in turn, so that builds are incremental."""
    tree = KEPT / "tree"
    if not (tree / ".git").exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        git("worktree", "prune")
        git("worktree", "add", "--detach", "--force", str(tree), revision)
    subprocess.run(["git", "-C", str(tree), "checkout", "--quiet", "--detach", "--force", revision], check=True)
    return tree


def build(tree, runs, target):
    """The folder of the built programs."""
    for package in sorted({package for _, package, _ in runs}):
        bins = [f"--bin={name}" for name in sorted({name for name, of, _ in runs if of == package})]
        call(["cargo", "build", "--quiet", "--package", package, *bins], cwd=tree, env={**os.environ, "CARGO_TARGET_DIR": str(target)})
    return target / "debug"


def run(tree, programs, runs, out):
    """Runs the programs, each in a folder of the same name relative to `out`, with what they print beside it."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name, _, arguments in runs:
        if name == "solve":
            # What is refused is a result too.
            for instance in sorted((tree / "experiments" / "data").glob("*.json")):
                with open(out / f"solve.{instance.stem}.json", "wb") as stdout:
                    command = [programs / name, f"experiments/data/{instance.name}", "--json"]
                    subprocess.run(command, cwd=tree, stdout=stdout, stderr=subprocess.STDOUT)
            continue
        say(f"  {name} {' '.join(arguments)}")
        with open(out / f"{name}.stdout.txt", "wb") as stdout, open(out / f"{name}.stderr.txt", "wb") as stderr:
            call([programs / name, *arguments, "--out", name], cwd=out, stdout=stdout, stderr=stderr)


def results(revision, runs, kind):
    """The folder of a revision's results."""
    key = git("rev-parse", "HEAD") if revision == "." else git("rev-parse", f"{revision}^{{commit}}")
    out = KEPT / ("worktree" if revision == "." else key) / kind
    if revision != "." and (out / "whole").exists():
        return out
    say(f"{kind} runs at {revision}")
    tree = ROOT if revision == "." else checkout(key)
    target = ROOT / "target" if revision == "." else KEPT / "target"
    run(tree, build(tree, runs, target), runs, out)
    if revision != ".":
        (out / "whole").touch()
    return out


def without_settings(value):
    if isinstance(value, dict):
        return {k: without_settings(v) for k, v in value.items() if k not in SETTINGS}
    if isinstance(value, list):
        return [without_settings(v) for v in value]
    return value


def without_seconds(text):
    """What is printed, without times and in any order: stages that run side by side end in any."""
    return sorted(re.sub(rb"\b[0-9.]+ (s|min)\b", b"", text).splitlines())


def parsed(data):
    try:
        return json.loads(data, parse_float=str, parse_int=str)
    except ValueError:
        return None


def is_one_of(path, patterns):
    return any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)


def compare(old, new):
    """Prints what differs and returns whether anything does that should not."""
    files = lambda root: {p.relative_to(root) for p in root.rglob("*") if p.is_file() and not is_one_of(p, IGNORED)}
    ours, theirs = files(old), files(new)
    wrong = [f"only before: {p}" for p in sorted(ours - theirs)] + [f"only after: {p}" for p in sorted(theirs - ours)]
    look = []
    for path in sorted(ours & theirs):
        a, b = (old / path).read_bytes(), (new / path).read_bytes()
        if a == b:
            continue
        if path.suffix == ".json" and (x := parsed(a)) is not None and (y := parsed(b)) is not None:
            if without_settings(x) == without_settings(y):
                continue
        if path.name.endswith(".stdout.txt") and without_seconds(a) == without_seconds(b):
            continue
        if is_one_of(path, QUOTING):
            look.append(f"quotes settings, look: {path}")
        else:
            wrong.append(f"differs: {path}")
    for line in wrong + look:
        say(line)
    say(f"{len(ours & theirs)} files compared, {len(wrong)} differences, {len(look)} to look at")
    return bool(wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="a revision, or . for the working tree")
    parser.add_argument("new", help="a revision, or . for the working tree")
    parser.add_argument("--default", action="store_true", help="the default runs of thm42 and rto_llm as well: minutes each")
    parser.add_argument("--only", metavar="NAMES", help="these programs alone, separated by commas")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else None
    every = [("solve", "rto-experiments", [])]
    kinds = [("smoke", every + SMOKE)] + ([("default", DEFAULT)] if arguments.default else [])
    unknown = set(wanted or []) - {name for _, runs in kinds for name, _, _ in runs}
    if unknown:
        parser.error(f"--only: no program {', '.join(sorted(unknown))}")
    differs = False
    for kind, runs in kinds:
        runs = [r for r in runs if wanted is None or r[0] in wanted]
        if not runs:
            continue
        label = kind if wanted is None else f"{kind}-{'-'.join(sorted(wanted))}"
        differs |= compare(results(arguments.old, runs, label), results(arguments.new, runs, label))
    sys.exit(1 if differs else 0)


if __name__ == "__main__":
    main()
