#!/usr/bin/env python3
"""Core-seconds of soft value iteration, beside what one would run instead; benches/speed.py has Bradley-Terry estimation.

    cargo build --release --package rto-rates
    python3 benches/side_by_side_theory.py BASELINES [--runs 5] [--only WORD] [--limits]

BASELINES is the folder with soft_vi_numpy.py and a built libsoftvi.so; the Python that runs this file needs
numpy, numba and jax. One thread; the programs run in turn, and each run is itself a median of at least 3
repetitions with data generation left out. Printed are medians over the runs and the median of the pairwise
ratios theirs/ours. Both sides draw from the same distribution (uniform rewards and logits, beta = 1/2).
--limits adds the planner over its own bandwidth floor on 1 and 2 threads, and its peak memory.
"""
import argparse, json, os, pathlib, statistics, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUST = ROOT / "target" / "release" / "theory_rate"


def run(command, threads=1, cwd=None):
    env = dict(os.environ, RAYON_NUM_THREADS=str(threads), QUIET_WAIT="0")
    result = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {result.stderr.strip()}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def cases():
    for a, h in [(16, 6), (4, 11), (10, 7)]:
        ours = ["soft-vi", a, h, 9]
        for impl in ["c", "jax", "numba", "numpy"]:
            theirs = ["soft_vi_numpy.py", "--threads", 1, "--impl", impl, "--problem", "tree", "--A", a, "--H", h]
            yield f"soft VI A={a} H={h}", impl, ours, theirs


def limits():
    for threads in (1, 2):
        runs = [run([RUST, "soft-vi", 16, 6, 15], threads) for _ in range(5)]
        middle = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
        core = statistics.median(r["cpu_ns_per_pair"] / r["floor_cpu_ns_per_pair"] for r in runs)
        print(f"soft VI A=16 H=6, {threads} thread(s): wall {middle['ns_per_pair']:.3f} ns/pair, floor "
              f"{middle['floor_ns_per_pair']:.3f}, wall ratio {middle['wall_over_floor']:.2f}, core ratio {core:.2f}")
    big = run([RUST, "soft-vi", 48, 5, 1], 2)
    print(f"soft VI A=48 H=5: {big['pairs']} pairs, peak {big['peak_mb']:.0f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baselines", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="only lines that contain this")
    parser.add_argument("--limits", action="store_true")
    args = parser.parse_args()
    if not RUST.exists():
        sys.exit(f"{RUST}: not built; run cargo build --release --package rto-rates")
    print(f"{'work':<30} {'against':<19} {'theirs':>9} {'rto':>9}    {'ratio':>6}")
    for name, against, ours, theirs in cases():
        if args.only not in f"{name} {against}":
            continue
        pairs = []
        for _ in range(args.runs):
            fast = run([RUST, *ours])["cpu_ns_per_pair"]
            pairs.append((run([sys.executable, *theirs], cwd=args.baselines)["cpu_ns_per_pair"], fast))
        slow, fast = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        ratio = statistics.median(s / f for s, f in pairs)
        print(f"{name:<30} {against:<19} {slow:>9.3f} {fast:>9.3f} ns {ratio:>6.2f}", flush=True)
    if args.limits:
        limits()


if __name__ == "__main__":
    main()
