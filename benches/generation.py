"""Writing text beside transformers and llama.cpp; a section of speed.py."""
import os
import statistics
import subprocess
import sys
import tempfile

from measure import ROOT, Worker, bench, keep, machine

PEER = ROOT / "benches" / "peers" / "generation.py"
PEERS = {
    "transformers": "transformers, f32",
    "f32": "llama.cpp, f32",
    "f16": "llama.cpp, f16",
    "q8_0": "llama.cpp, Q8_0",
}
# The weights of ours, in as many bits.
OURS = {"transformers": "f32", "f32": "f32", "f16": "bf16", "q8_0": "int8"}
# Rows, tokens of a prompt, tokens written: times of the first, or of the first less the second.
WORK = {
    "prompt of 512 tokens": [(1, 512, 1)],
    "16 prompts of 128 tokens": [(16, 128, 1)],
    "decoding, batch 1": [(1, 32, 33), (1, 32, 1)],
    "decoding, batch 16": [(16, 32, 33), (16, 32, 1)],
}

HEAD = """A network of the shape of SmolLM2-135M, random weights, one thread; the weights of ours are stored as the column says, inputs and sums are f32: tokens per
process CPU second, sampled at temperature 0.9 without truncation. Prompts: one token is written after them. Decoding: 33 tokens after prompts of 32, less
the same with one token.

| work | peer | rto | rto, tokens/s | peer's | ratio (range) | pairs |
|---|---|---|---|---|---|---|
"""


def seconds_of(worker, asked):
    times = [worker.ask(f"{rows} {prompt} {new}")["cpu_s"] for rows, prompt, new in asked]
    return times[0] - sum(times[1:])


def measure(args):
    program = bench("generate", not args.built)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for peer in args.cells.split(",") if args.cells else PEERS:
            if peer == "transformers":
                theirs = Worker([sys.executable, PEER, peer, 1])
            else:
                file = os.path.join(folder, f"{peer}.gguf")
                subprocess.run([sys.executable, PEER, "make", peer, file], check=True)
                theirs = Worker([args.llama or sys.executable, PEER, "llama.cpp", 1, file])
            ours = Worker([program, "smollm2", "--worker", "--weights", OURS[peer]])
            if ours.ready["weights"] != theirs.ready["weights"]:
                sys.exit(f"{peer}: {theirs.ready['weights']} weights, ours has {ours.ready['weights']}")
            for place, (work, asked) in enumerate(WORK.items()):
                rows, prompt, new = asked[0]
                tokens = rows * (new - 1 if len(asked) > 1 else prompt)
                for worker in (ours, theirs):
                    seconds_of(worker, asked)
                pairs = [(seconds_of(ours, asked), seconds_of(theirs, asked)) for _ in range(args.pairs)]
                ratios = [slow / fast for fast, slow in pairs]
                row = {
                    "section": "generation",
                    "work": work,
                    "key": [place, list(PEERS).index(peer)],
                    "peer": PEERS[peer],
                    "ours": OURS[peer],
                    "ours_rate": tokens / statistics.median(p[0] for p in pairs),
                    "peer_rate": tokens / statistics.median(p[1] for p in pairs),
                    "ratio": statistics.median(ratios),
                    "ratio_range": [min(ratios), max(ratios)],
                    "pairs": len(pairs),
                    "machine": machine(),
                }
                keep(row)
                print(line(row), flush=True)
            theirs.close()
            ours.close()


def line(row):
    low, high = row["ratio_range"]
    # Rows from before there was a choice are of f32.
    ours = row.get("ours", "f32")
    return (
        f"| {row['work']} | {row['peer']} | {ours} | {row['ours_rate']:.0f} | {row['peer_rate']:.0f} | {row['ratio']:.2f} ({low:.2f}–{high:.2f}) | {row['pairs']} |"
    )
