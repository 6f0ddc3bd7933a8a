#!/usr/bin/env python3
"""Queries per core-second of the searches, beside the same searches in plain Python, on this machine.

    cargo build --release --package rto-rates
    python3 benches/side_by_side.py PYTHON_BASELINES [--runs 5]

PYTHON_BASELINES is the folder with best_first_python.py and sentence_search_python.py. The two programs
run in turn; printed are the medians over the runs and the median of the pairwise ratios. Both search
the same trees: the numbers of queries are compared too.
"""
import argparse, json, pathlib, statistics, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(command, cwd=None):
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {result.stderr.strip()}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baselines", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    rust = ROOT / "target" / "release" / "search_rate"
    if not rust.exists():
        sys.exit(f"{rust}: not built; run cargo build --release --package rto-rates")
    cases = []
    for a, h in [(4, 16), (2, 24), (32, 10)]:
        python = ["best_first_python.py", "--A", a, "--H", h, "--temp", 6, "--reps", 1]
        cases.append((f"best-first A={a} H={h}", ["best-first", a, h, 6], python, lambda r: (r["queries"], r["us_per_query"])))
    for h in (12, 16):
        python = ["sentence_search_python.py", "--A", 2, "--H", h, "--mode", "bandit", "--reps", 1]
        cases.append((f"sentence A=2 H={h}", ["sentence", 2, h], python, lambda r: (r["queries_per_search"], r["cpu_us_per_query"])))
    print(f"{'search':<22} {'queries':>9} {'Python us':>10} {'rto us':>8} {'ratio':>7}")
    for name, ours, theirs, read in cases:
        pairs = []
        for _ in range(args.runs):
            fast = run([rust, *map(str, ours)])
            slow = run([sys.executable, *map(str, theirs)], cwd=args.baselines)
            count, microseconds = read(slow)
            if count != fast["queries"]:
                sys.exit(f"{name}: Python asked {count} queries, rto {fast['queries']}")
            queries = fast["queries"]
            pairs.append((microseconds, fast["us_per_query"]))
        slow, fast = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        ratio = statistics.median(s / f for s, f in pairs)
        print(f"{name:<22} {queries:>9} {slow:>10.3f} {fast:>8.4f} {ratio:>7.1f}")


if __name__ == "__main__":
    main()
