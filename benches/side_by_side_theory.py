#!/usr/bin/env python3
"""Core-seconds of soft value iteration and Bradley-Terry estimation, beside what one would run instead.

    cargo build --release --package rto-rates
    python3 benches/side_by_side_theory.py BASELINES [--runs 5] [--only WORD] [--limits]

BASELINES is the folder with soft_vi_numpy.py, bt_mle_sklearn.py and a built libsoftvi.so; the Python that
runs this file needs numpy, scipy, scikit-learn, numba and jax. One thread; the programs run in turn, and
each run is itself a median of at least 3 repetitions with data generation left out. Printed are medians
over the runs and the median of the pairwise ratios theirs/ours. Both sides draw from the same
distribution (Gaussian rows, |theta*| = 3; uniform rewards and logits, beta = 1/2). Tolerance: the
Euclidean norm of the gradient over n at the returned estimate, printed for both; the target is 1e-8.
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
            yield f"soft VI A={a} H={h}", impl, ours, theirs, "ns", lambda r: (r["cpu_ns_per_pair"], 0.0)
    sizes = [(1_000_000, 64, 1, ["sk-lbfgs", "scipy-lbfgs", "sk-newton-cholesky"])]
    sizes += [(100_000, d, 1, ["sk-lbfgs", "scipy-lbfgs", "sk-newton-cholesky", "newton"]) for d in (8, 64, 256)]
    sizes += [(100_000, 64, 1000, ["newton"])]
    for n, d, cond, methods in sizes:
        ours = ["bt-mle", n, d, cond, 5]
        for method in methods:
            theirs = ["bt_mle_sklearn.py", "--threads", 1, "--n", n, "--d", d, "--cond", cond, "--method", method, "--reps", 3]
            name = f"BT-MLE n={n} d={d}" + (f" cond={cond}" if cond > 1 else "")
            yield name, method, ours, theirs, "ms", lambda r: (r["cpu_median_s"] * 1e3, r["gnorm_over_n"])


def ours_of(result):
    if "cpu_ns_per_pair" in result:
        return result["cpu_ns_per_pair"], 0.0
    return result["cpu_s"] * 1e3, result["gnorm_over_n"]


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
    print(f"{'work':<30} {'against':<19} {'theirs':>9} {'rto':>9}    {'ratio':>6}  {'|g|/n theirs':>12} {'rto':>8}")
    for name, against, ours, theirs, unit, read in cases():
        if args.only not in f"{name} {against}":
            continue
        pairs = []
        for _ in range(args.runs):
            fast = ours_of(run([RUST, *ours]))
            pairs.append((read(run([sys.executable, *theirs], cwd=args.baselines)), fast))
        slow, fast = (statistics.median(p[i][0] for p in pairs) for i in (0, 1))
        ratio = statistics.median(s[0] / f[0] for s, f in pairs)
        slope = (max(p[i][1] for p in pairs) for i in (0, 1))
        print(f"{name:<30} {against:<19} {slow:>9.3f} {fast:>9.3f} {unit} {ratio:>6.2f}  " + " ".join(f"{s:>10.1e}" for s in slope), flush=True)
    if args.limits:
        limits()


if __name__ == "__main__":
    main()
