"""Soft value iteration beside C, JAX and NumPy; a section of speed.py."""
import json
import os
import statistics
import subprocess
import sys

from measure import ROOT, THREADS, keep, machine

RUST = ROOT / "target" / "release" / "theory_rate"
PEER = ROOT / "benches" / "peers" / "soft_vi.py"
PEERS = {"c": "C (gcc, libmvec)", "jax": "JAX", "numpy": "NumPy"}
CELLS = ["16:6", "4:11", "10:7"]
REPETITIONS = 5

HEAD = """Soft value iteration on the token tree of A actions and H levels, f64, β = ½: V and log π are written, uniform rewards and logits drawn alike. Process
CPU nanoseconds for each pair (s, a) on one thread, each the median of 5 sweeps after one that is not counted; programs run in turn. The floor is reading two tables and
writing one of the same size, in turn with our sweeps.

| work | peer | rto, ns | peer's, ns | ratio (range) | floor, ns | pairs |
|---|---|---|---|---|---|---|
"""


def run(command):
    env = {**os.environ, **{name: "1" for name in THREADS}, "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}
    result = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {result.stderr.strip()}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def measure(args):
    if not RUST.exists():
        sys.exit(f"{RUST}: not built; run cargo build --release --package rto-rates")
    for cell in args.cells.split(",") if args.cells else CELLS:
        actions, horizon = map(int, cell.split(":"))
        for method, name in PEERS.items():
            ours, theirs = [], []
            for _ in range(args.pairs):
                ours.append(run([RUST, "soft-vi", actions, horizon, REPETITIONS]))
                theirs.append(run([sys.executable, PEER, method, actions, horizon, REPETITIONS]))
                if theirs[-1]["apart"] > 1e-9:
                    sys.exit(f"{name}: probabilities sum to 1 but for {theirs[-1]['apart']:.1e}")
            fast, slow = ([r["cpu_ns_per_pair"] for r in side] for side in (ours, theirs))
            ratios = [s / f for s, f in zip(slow, fast)]
            row = {
                "section": "soft-vi",
                "work": f"A = {actions}, H = {horizon}",
                "key": [CELLS.index(cell) if cell in CELLS else len(CELLS), actions, horizon],
                "peer": name,
                "ours_ns": statistics.median(fast),
                "peer_ns": statistics.median(slow),
                "floor_ns": statistics.median(r["floor_cpu_ns_per_pair"] for r in ours),
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "pairs": len(ratios),
                "machine": machine(),
            }
            keep(row)
            print(line(row), flush=True)


def line(row):
    low, high = row["ratio_range"]
    return (
        f"| {row['work']} | {row['peer']} | {row['ours_ns']:.2f} | {row['peer_ns']:.2f} | {row['ratio']:.2f} ({low:.2f}–{high:.2f}) | "
        f"{row['floor_ns']:.2f} | {row['pairs']} |"
    )
