"""Training steps beside PyTorch's; a section of speed.py."""
import statistics
import sys

from measure import ROOT, Worker, bench, keep, machine, seconds

PEER = ROOT / "benches" / "peers" / "transformer.py"
TEXTS, LENGTH, PROMPT = 4, 256, 32
# Vocabulary, width, layers, weights multiplied with in one block.
SHAPES = {
    "smollm2": (49152, 576, 30, 576 * (2 * 576 + 2 * 192) + 3 * 576 * 1536),
    "pythia-160m": (50304, 768, 12, 12 * 768 * 768),
}
NAMES = {"smollm2": "SmolLM2-135M", "pythia-160m": "Pythia-160m"}
CELLS = [f"{shape}:{task}:{kind}:{threads}" for shape in SHAPES for task in ("sft", "dpo") for kind in ("f32",) for threads in (1, 2)]

HEAD = """One step on 4 texts of 256 tokens, random weights, AdamW: SFT (every token but the first scored) and DPO (two pairs, prompts of 32 tokens, a
reference of the same shape read anew each step). Time is process CPU seconds on one thread and wall seconds on two. The floor is the
step's FLOPs (products of weights three times, causal attention, head of the tokens scored; one pass more of the reference) over the faster of
the two products of 1024 × 1024 matrices: ours and PyTorch's, on as many threads, measured in the same minutes (of rows in bf16, PyTorch's in bf16 alone). Rows in
bf16 have ours with `Products::Bf16`, the peer under `torch.autocast`.

| work | peer | rto | peer's | ratio (range) | tokens/s rto | peer's | floor | GFLOP/s of a product rto | peer's | pairs |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def flops(shape, task):
    """Floating-point operations that a step cannot do without."""
    vocabulary, width, layers, block = SHAPES[shape]
    tokens = TEXTS * LENGTH
    scored = TEXTS * (LENGTH - (PROMPT if task == "dpo" else 1))
    attention = 2 * width * LENGTH  # two products over half of the keys, on average
    forward = tokens * layers * (2 * block + attention) + scored * 2 * vocabulary * width
    return forward * (4 if task == "dpo" else 3)


def cell(program, shape, task, kind, threads, args):
    ours = Worker([program, shape, task, "--worker", *(["--products", "bf16"] if kind == "bf16" else [])], threads)
    theirs = Worker([sys.executable, PEER, shape, task, kind, threads], threads)
    if ours.ready["weights"] != theirs.ready["weights"]:
        sys.exit(f"{shape}: {ours.ready['weights']} weights, the peer has {theirs.ready['weights']}")
    time = "cpu_s" if threads == 1 else "wall_s"
    first = [worker.ask("step")["loss"] for worker in (ours, theirs)]
    fast, slow = [], []
    for _ in range(args.pairs):
        fast.append(ours.ask("step")[time])
        slow.append(theirs.ask("step")[time])
    # What our bench answers is its f32 product.
    products = [worker.ask("peak")["gflops"] for worker in ([ours, theirs] if kind == "f32" else [theirs])]
    ours.close()
    theirs.close()
    ratios = [s / f for s, f in zip(slow, fast)]
    row = {
        "section": "training",
        "work": f"{NAMES[shape]}, {task.upper()}, {kind}, {threads} thread{'s' if threads > 1 else ''}",
        "key": [kind != "f32", shape != "smollm2", task != "sft", threads],
        "peer": "PyTorch" if kind == "f32" else "PyTorch autocast",
        "ours_s": statistics.median(fast),
        "peer_s": statistics.median(slow),
        "floor_s": flops(shape, task) / max(products) * 1e-9,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "pairs": len(ratios),
        "gflops": products,
        "first_loss": first,
        "machine": machine(),
    }
    keep(row)
    print(line(row), flush=True)


def measure(args):
    program = bench("train", not args.built)
    for name in args.cells.split(",") if args.cells else CELLS:
        shape, task, kind, threads = name.split(":")
        cell(program, shape, task, kind, int(threads), args)


def line(row):
    low, high = row["ratio_range"]
    own = f"{row['gflops'][0]:.0f}" if len(row["gflops"]) > 1 else "–"
    rate = [TEXTS * LENGTH / row[who] for who in ("ours_s", "peer_s")]
    return (
        f"| {row['work']} | {row['peer']} | {seconds(row['ours_s'])} | {seconds(row['peer_s'])} | {row['ratio']:.2f} ({low:.2f}–{high:.2f}) | "
        f"{rate[0]:.0f} | {rate[1]:.0f} | {seconds(row['floor_s'])} | {own} | {row['gflops'][-1]:.0f} | {row['pairs']} |"
    )
