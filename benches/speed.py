#!/usr/bin/env python3
"""Speed beside what one would run instead, one section a time; the table of paper-notes/speed.md is made here and nowhere else.

    cargo build --release --package rto-rates
    python3 benches/speed.py bt [--cells 100000:64:1,...] [--pairs 5]     measure: rows go to benches/speed.jsonl
    python3 benches/speed.py training --cells smollm2:sft:bf16:1
    python3 benches/speed.py table                                        write paper-notes/speed.md

Sections:
  bt    Bradley-Terry estimation (4.1), one thread: n pairs, d features, column scales over a factor of cond. Peers
        (benches/peers/bradley_terry.py; numpy, scipy, scikit-learn): L-BFGS of SciPy and scikit-learn, newton-cholesky of
        scikit-learn, Newton in NumPy. The same rows for all; in every pair ours goes first and is asked for a gradient no longer
        than the peer's. Process CPU seconds of the fit alone. Floor: our readings of X times that of one x @ theta in NumPy.
  training      steps of SFT and DPO at the shapes of SmolLM2-135M and Pythia-160m beside PyTorch (benches/peers/transformer.py; torch, transformers)
  generation    tokens of prompts and tokens written beside transformers and llama.cpp (benches/peers/generation.py; gguf too, llama-cpp-python)
  soft-vi       soft value iteration on token trees beside C, JAX and NumPy (benches/peers/soft_vi.py; jax, gcc)
  sparse  the same of differences of token counts in CSR, about 30 entries a row, penalty 1: the sparse fit beside SciPy's L-BFGS on
        scipy.sparse and scikit-learn on CSR.
  stream  `solve --data X.npy` on rows larger than the memory it may take, beside reading the file once into a buffer of 32 MiB as
        often; both from the cache of the system, wall seconds, all cores (cargo build --bin solve, which optimises as release does).
  planner V, SubOpt, KL and entropy of one policy under four rewards: one walk over the states beside a walk for each, one thread.

A row that is measured again on a machine replaces the old one. Ratios are theirs/ours pair by pair; their median and range are printed.
In bt ours runs with GLIBC_TUNABLES=glibc.malloc.hugetlb=1, as NumPy asks the kernel for large pages by itself. There a peer that takes
longer than --limit seconds is stopped and counted as that long.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import generation
import soft_vi
import training
from measure import ROOT, Worker, keep, machine, rows, seconds

RUST = ROOT / "target" / "release" / "theory_rate"
SOLVE = ROOT / "target" / "debug" / "solve"
PEER = ROOT / "benches" / "peers" / "bradley_terry.py"
NOTES = ROOT / "paper-notes" / "speed.md"
METHODS = {
    "scipy-lbfgs": "SciPy L-BFGS-B",
    "sk-lbfgs": "scikit-learn lbfgs",
    "sk-newton-cholesky": "scikit-learn newton-cholesky",
    "numpy-newton": "NumPy Newton",
}
CELLS = [f"{n}:{d}:{cond}" for n in (100_000, 1_000_000) for d in (8, 64, 256, 1024) for cond in (1, 1000)]
SPARSE_CELLS = [f"100000:{d}" for d in (2000, 10_000, 50_000)]
SPARSE_METHODS = ("scipy-lbfgs", "sk-lbfgs")
STREAM_CELLS = ["7812500:64"]


def available():
    """Bytes of memory that may be taken."""
    text = open("/proc/meminfo").read().split("MemAvailable:")[1]
    return int(text.split()[0]) * 1024


def ours(n, d, file, work="bt-fit"):
    return Worker([RUST, work, n, d, file], GLIBC_TUNABLES="glibc.malloc.hugetlb=1")


def theirs(n, d, file, method, work="fit"):
    return Worker([sys.executable, PEER, work, n, d, file, method])


def as_accurate(worker, gradient):
    """The loosest tolerance at which our gradient is no longer than `gradient`, and whether there is one."""
    tolerance = 1e-8
    while tolerance > 1e-15:
        if worker.ask(tolerance)["gnorm_over_n"] <= gradient:
            return tolerance, True
        tolerance *= 0.25
    return 1e-8, False


def distance(a, b):
    square = sum((x - y) ** 2 for x, y in zip(a["theta"], b["theta"]))
    return (square / max(sum(y * y for y in b["theta"]), 1e-300)) ** 0.5


def bt_cell(n, d, cond, args, file):
    subprocess.run([sys.executable, PEER, "make", str(n), str(d), str(cond), file], check=True)
    free = available()
    mine = None
    for method, name in METHODS.items():
        if args.method and method not in args.method:
            continue
        # Both hold X, and a Newton step of a peer as much again.
        alone = 8 * n * d * (3.2 if "newton" in method else 2.2) > free
        if alone and mine:
            mine.close()
            mine = None
        if not alone and not mine:
            mine = ours(n, d, file)
        other = theirs(n, d, file, method)
        read = other.ready["read_s"]
        first = other.ask("fit", args.limit)
        slow, fast, steps = [], [], 0
        if first is None:
            slow, stopped = [args.limit], True
            target = 1e-8
        else:
            stopped, target = False, max(first["gnorm_over_n"], args.floor)
        if alone:
            # One in memory at a time: ours first, then as many fits of the peer.
            other.close()
            mine = ours(n, d, file)
        tolerance, reached = as_accurate(mine, target)
        for _ in range(1 if stopped else args.pairs):
            answer = mine.ask(tolerance)
            fast.append(answer["cpu_s"])
            if not (stopped or alone):
                slow.append(other.ask("fit")["cpu_s"])
        if alone:
            mine.close()
            mine = None
            if not stopped:
                other = theirs(n, d, file, method)
                slow = [other.ask("fit")["cpu_s"] for _ in range(args.pairs)]
        other.close()
        ratios = [s / f for s, f in zip(slow, fast)]
        row = {
            "section": "bt",
            "work": f"n = {n}, d = {d}, cond = {cond}",
            "key": [n, d, cond],
            "peer": name,
            "ours_s": statistics.median(fast),
            "peer_s": statistics.median(slow),
            "stopped": stopped,
            "floor_s": read * answer["passes"],
            "readings": answer["passes"],
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "pairs": len(ratios),
            "interleaved": not alone,
            "ours_gradient": answer["gnorm_over_n"],
            "peer_gradient": None if stopped else first["gnorm_over_n"],
            "as_accurate": reached,
            "theta_apart": None if stopped else distance(answer, first),
            "machine": machine(),
        }
        keep(row)
        print(line(row), flush=True)
    if mine:
        mine.close()


def built():
    if not RUST.exists():
        sys.exit(f"{RUST}: not built; run cargo build --release --package rto-rates")


def bt(args):
    built()
    for cell in args.cells.split(",") if args.cells else CELLS:
        n, d, cond = (int(part) for part in cell.split(":"))
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            bt_cell(n, d, cond, args, os.path.join(folder, "rows"))


def sparse_cell(n, d, args, folder):
    subprocess.run([sys.executable, PEER, "make-sparse", str(n), str(d), folder], check=True)
    entries = os.path.getsize(os.path.join(folder, "values")) / 8 / n
    mine = ours(n, d, folder, "sparse-fit")
    for method in args.method or SPARSE_METHODS:
        other = theirs(n, d, folder, method, "fit-sparse")
        first = other.ask("fit", args.limit)
        stopped = first is None
        tolerance, reached = as_accurate(mine, 1e-8 if stopped else max(first["gnorm_over_n"], args.floor))
        slow, fast = [args.limit] if stopped else [], []
        for _ in range(1 if stopped else args.pairs):
            answer = mine.ask(tolerance)
            fast.append(answer["cpu_s"])
            if not stopped:
                slow.append(other.ask("fit")["cpu_s"])
        read = other.ready["read_s"]
        other.close()
        ratios = [s / f for s, f in zip(slow, fast)]
        row = {
            "section": "sparse",
            "work": f"n = {n}, d = {d}, {entries:.1f} entries a row",
            "key": [n, d],
            "peer": METHODS[method] + " on CSR",
            "ours_s": statistics.median(fast),
            "peer_s": statistics.median(slow),
            "stopped": stopped,
            "floor_s": read * answer["passes"],
            "readings": answer["passes"],
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "pairs": len(ratios),
            "interleaved": True,
            "ours_gradient": answer["gnorm_over_n"],
            "peer_gradient": None if stopped else first["gnorm_over_n"],
            "as_accurate": reached,
            "theta_apart": None if stopped else distance(answer, first),
            "machine": machine(),
        }
        keep(row)
        print(line(row), flush=True)
    mine.close()


def sparse(args):
    built()
    for cell in args.cells.split(",") if args.cells else SPARSE_CELLS:
        n, d = (int(part) for part in cell.split(":"))
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            sparse_cell(n, d, args, folder)


def read_once(path):
    """Wall seconds of one reading into a buffer."""
    buffer = bytearray(32 << 20)
    start = time.monotonic()
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.monotonic() - start


def stream(args):
    if not SOLVE.exists():
        sys.exit(f"{SOLVE}: not built; run cargo build --bin solve")
    for cell in args.cells.split(",") if args.cells else STREAM_CELLS:
        n, d = (int(part) for part in cell.split(":"))
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            path = os.path.join(folder, "x.npy")
            subprocess.run([sys.executable, PEER, "make-npy", str(n), str(d), "1", path], check=True)
            # A fifth of the rows: 2 GB for 10 GB.
            memory = 8 * n * d // 5
            limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
            fast, slow = [], []
            read_once(path)
            for _ in range(args.pairs):
                start = time.monotonic()
                command = [SOLVE, "--data", path, "--json", "--quiet"]
                answer = json.loads(subprocess.run(command, check=True, capture_output=True, preexec_fn=limit).stdout)
                fast.append(time.monotonic() - start)
                slow.append(read_once(path) * answer["certificate"]["readings"])
            ratios = [s / f for s, f in zip(slow, fast)]
            row = {
                "section": "stream",
                "work": f"n = {n}, d = {d}, {8e-9 * n * d:.1f} GB in {memory / 1e9:.1f} GB",
                "key": [n, d],
                "peer": "reading alone",
                "ours_s": statistics.median(fast),
                "peer_s": statistics.median(slow),
                "readings": answer["certificate"]["readings"],
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "pairs": len(ratios),
                "ours_gradient": answer["certificate"]["residual_per_pair"],
                "machine": machine(),
            }
            keep(row)
            print(stream_line(row), flush=True)


def stream_line(row):
    low, high = row["ratio_range"]
    rate = 8e-9 * row["key"][0] * row["key"][1] * row["readings"] / row["ours_s"]
    return (
        f"| {row['work']} | {seconds(row['ours_s'])} | {rate:.2f} GB/s | {seconds(row['peer_s'])} | {row['ratio']:.2f} ({low:.2f}–{high:.2f}) | "
        f"{row['readings']} | {row['ours_gradient']:.1e} | {row['pairs']} |"
    )


def planner(args):
    built()
    for actions, horizon in ((4, 10), (16, 5)):
        command = [RUST, "reports", str(actions), str(horizon), str(args.pairs)]
        one = dict(os.environ, RAYON_NUM_THREADS="1")
        answer = json.loads(subprocess.run(command, check=True, capture_output=True, env=one).stdout)
        if not answer["same"]:
            sys.exit(f"{command}: the reports differ")
        row = {
            "section": "planner",
            "work": f"A = {actions}, H = {horizon}, {answer['pairs']} pairs (s, a)",
            "key": [actions, horizon],
            "peer": "a walk for each",
            "ours_s": answer["together_s"],
            "peer_s": answer["apart_s"],
            "ratio": answer["ratio"],
            "ratio_range": [answer["least"], answer["most"]],
            "pairs": args.pairs,
            "machine": machine(),
        }
        keep(row)
        print(planner_line(row), flush=True)


def planner_line(row):
    low, high = row["ratio_range"]
    return (
        f"| {row['work']} | {seconds(row['ours_s'])} | {seconds(row['peer_s'])} | {row['ratio']:.2f} ({low:.2f}–{high:.2f}) | {row['pairs']} |"
    )


def line(row):
    low, high = row["ratio_range"]
    spread = f" ({low:.2f}–{high:.2f})" if row["pairs"] > 1 else ""
    over = "> " if row["stopped"] else ""
    theirs = "stopped" if row["peer_gradient"] is None else f"{row['peer_gradient']:.1e}"
    return (
        f"| {row['work']} | {row['peer']} | {seconds(row['ours_s'])} | {over}{seconds(row['peer_s'])} | "
        f"{over}{row['ratio']:.2f}{spread} | {seconds(row['floor_s'])} ({row['readings']}) | {row['ours_gradient']:.1e} | {theirs} | {row['pairs']} |"
    )


BT_HEAD = """(4.1) with penalty 10⁻⁶ on n rows from N(0, I/d), column k scaled by cond^(−k/(d−1)), θ\\* of norm 3; one thread, CPU seconds of the
fit alone. Gradients are ‖∇f‖/n at what was returned; ours was asked for one no longer than the peer's. The floor is our number of
readings of X (in brackets) times what NumPy takes for one `x @ theta`. Pairs are interleaved, except where both would not fit the memory: there one
process runs at a time. A peer marked `>` was stopped at that time without having converged.

| work | peer | rto | peer's | ratio (range) | floor (readings) | ‖∇f‖/n rto | peer's | pairs |
|---|---|---|---|---|---|---|---|---|
"""

SPARSE_HEAD = """(4.1) with penalty 1 on n differences of token counts in CSR: 16 tokens of d in either response, token k as often as 1/(k + 10), θ\\*
of entries N(0, 0.3²); one thread, CPU seconds of the fit alone, pairs interleaved, ours asked for a gradient no longer than the
peer's. The floor is our number of readings (in brackets, products with the Hessian among them) times what SciPy takes for one
`x @ theta`.

| work | peer | rto | peer's | ratio (range) | floor (readings) | ‖∇f‖/n rto | peer's | pairs |
|---|---|---|---|---|---|---|---|---|
"""

PLANNER_HEAD = """V, SubOpt, KL and entropy of one policy under four rewards, as `algorithm2` measures a point of a curve: one walk over the states for all beside one
for each; the reports are the same to the last bit. One thread, CPU seconds, in turn.

| work | one walk | four walks | ratio (range) | pairs |
|---|---|---|---|---|
"""

STREAM_HEAD = """`solve --data X.npy`, rows as in the table of `bt` (cond = 1, no penalty), on all cores under a limit of address space of a fifth of the
rows' size, and the time that as many readings of the file into one buffer take; both from the cache of the system, in turn.

| work | rto | rate | reading alone | ratio (range) | readings | ‖∇f‖/n | pairs |
|---|---|---|---|---|---|---|---|
"""

# What measures a section, what stands above its table, and how a row of it is written.
SECTIONS = {
    "bt": (bt, BT_HEAD, line),
    "training": (training.measure, training.HEAD, training.line),
    "generation": (generation.measure, generation.HEAD, generation.line),
    "soft-vi": (soft_vi.measure, soft_vi.HEAD, soft_vi.line),
    "sparse": (sparse, SPARSE_HEAD, line),
    "planner": (planner, PLANNER_HEAD, planner_line),
    "stream": (stream, STREAM_HEAD, stream_line),
}


def table(_):
    """Replaces what stands between the marks of each section; what is written around them stays."""
    text = NOTES.read_text()
    for section, (_, head, line) in SECTIONS.items():
        mine = [r for r in rows() if r["section"] == section]
        start, end = f"<!-- {section} -->\n", f"<!-- end of {section} -->\n"
        if not mine:
            continue
        if start not in text or end not in text:
            sys.exit(f"{NOTES}: expected the lines {start.strip()} and {end.strip()}")
        machines = sorted({r["machine"] for r in mine})
        mark = {m: "" if len(machines) == 1 else f" ({chr(ord('a') + i)})" for i, m in enumerate(machines)}
        named = ", ".join(m + mark[m] for m in machines)
        marked = [{**r, "work": r["work"] + mark[r["machine"]]} for r in mine]
        body = f"Machine: {named}.\n\n{head}" + "".join(line(r) + "\n" for r in marked)
        before, rest = text.split(start)
        text = before + start + body + end + rest.split(end)[1]
    NOTES.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=[*SECTIONS, "table"])
    parser.add_argument("--cells", help="apart by commas; default: all of the section; bt: n:d:cond; training: shape:task:type:threads; generation: peer; soft-vi: A:H")
    parser.add_argument("--llama", help="a Python that has llama-cpp-python (default: this one)")
    parser.add_argument("--built", action="store_true", help="time the benches of the bridge as they were built last")
    parser.add_argument("--method", action="append", choices=list(METHODS), help="only this peer; may be repeated")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs for each row (default 5)")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds after which a peer is stopped (default 60)")
    parser.add_argument("--floor", type=float, default=1e-12, help="no gradient shorter than this is asked for (default 1e-12)")
    parser.add_argument("--folder", help="where the rows lie meanwhile (default: that of temporary files)")
    args = parser.parse_args()
    if args.section == "table":
        return table(args)
    SECTIONS[args.section][0](args)


if __name__ == "__main__":
    main()
