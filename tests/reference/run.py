#!/usr/bin/env python3
"""Hold `solve FILE --json` against the reference on random instances: run.py --n 2000 --seed 1. Exits 1 if anything disagrees."""
import argparse
import collections
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import traceback

import instances
import reference

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def solve(binary, inst, folder):
    path = folder / "instance.json"
    path.write_text(json.dumps(inst))
    r = subprocess.run([binary, str(path), "--json"], capture_output=True, text=True, timeout=120)
    return (json.loads(r.stdout), "") if r.returncode == 0 else (None, r.stderr.strip())


def refusal(inst):
    """Why `solve` must refuse the instance, or None."""
    if "features" in inst and "preferences" in inst:
        t = reference.Truth(inst)
        if not any(t.phi[s, a].any() for s, a in t.sa):
            return "all features are 0"
    prefs = inst.get("preferences")
    if prefs is None or "param_bound" in inst.get("estimation", {}):
        return None
    t = reference.Truth(inst)
    if t.phi is None:
        return None
    try:
        reference.Data(t, prefs)
    except ValueError as e:
        return str(e)
    return None


def generic(quantity):
    return re.sub(r"\[\d+\]", "[]", quantity)


def compare(binary, inst, folder):
    out, err = solve(binary, inst, folder)
    why = refusal(inst)
    if out is None:
        return [("refused, as it must be", why is not None, err, why or "an answer")]
    if why is not None:
        return [("refused, as it must be", False, "an answer", why)]
    return reference.check(inst, out)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--n", type=int, default=2000, help="instances (default: 2000)")
    p.add_argument("--seed", type=int, default=1, help="of the instances (default: 1)")
    p.add_argument("--first", type=int, default=0, help="number of the first instance (default: 0)")
    p.add_argument("--binary", help="solve, built already (default: cargo build --bin solve)")
    p.add_argument("--keep", help="a folder for the instances that disagree")
    p.add_argument("--show", type=int, default=40, help="disagreements to print (default: 40)")
    p.add_argument("--examples", action="store_true", help="the worked examples of examples.py instead of random instances")
    args = p.parse_args()
    if args.binary is None:
        subprocess.run(["cargo", "build", "--bin", "solve"], cwd=ROOT, check=True)
        args.binary = str(ROOT / "target/debug/solve")
    if args.examples:
        import examples

        cases = [(name, inst, want) for name, inst, want in examples.EXAMPLES]
    else:
        cases = ((f"{args.seed}/{k}", instances.instance(args.seed, k), None) for k in range(args.first, args.first + args.n))
    table = collections.defaultdict(lambda: [0, 0])
    bad, shown, start, done = 0, 0, time.time(), 0
    with tempfile.TemporaryDirectory() as tmp:
        folder = pathlib.Path(tmp)
        for name, inst, want in cases:
            try:
                rows = compare(args.binary, inst, folder) if want is None else examples.compare(solve(args.binary, inst, folder), inst, want)
            except Exception:
                rows = [("the reference itself", False, traceback.format_exc(limit=-3), "")]
            done += 1
            wrong = [r for r in rows if not r[1]]
            for r in rows:
                table[generic(r[0])][0 if r[1] else 1] += 1
            if wrong:
                bad += 1
                if args.keep:
                    keep = pathlib.Path(args.keep)
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / (name.replace("/", "_") + ".json")).write_text(json.dumps(inst))
                for r in wrong:
                    if shown < args.show:
                        print(f"{name}: {r[0]}: found {str(r[2])[:300]}, right {str(r[3])[:300]}", flush=True)
                        shown += 1
            if done % 100 == 0:
                print(f"{done} instances, {bad} disagree, {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    width = max(len(k) for k in table)
    print(f"\n{'quantity':<{width}}  compared   agreed  disagreed")
    for k in sorted(table):
        ok, no = table[k]
        print(f"{k:<{width}}  {ok + no:8}  {ok:7}  {no:9}")
    print(f"\n{done} instances, {done - bad} agree in everything, {bad} do not")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
