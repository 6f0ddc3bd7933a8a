"""The time of a step and of a rollout on 1 to 64 GPUs, from published rates: the tables of paper-notes/scaling.md.

python3 scripts/scaling.py        prints the tables; the note says what each symbol is.
"""

PEAK = 989e12  # bf16 FLOP/s of an H100 SXM, dense (data sheet)
MEMORY = 3.35e12  # bytes/s of its memory (data sheet)
NVLINK = 450e9  # bytes/s each way between the 8 GPUs of a host (data sheet)
NETWORK = 50e9  # bytes/s each way of a GPU to other hosts: 400 Gb/s InfiniBand (data sheet)
PCIE = 64e9  # bytes/s each way to the host's memory: PCIe 5, 16 lanes
USE = 0.4  # share of PEAK that a training step reaches: assumed
WIRE = 0.8  # share of a wire's rate that a message reaches: assumed
LATENCY = {True: 10e-6, False: 20e-6}  # seconds of a message within a host and between hosts: assumed
WINDOW = 64 * 2**20  # bytes exchanged at once (bridge/src/learner/ranks.rs)
ROWS, PROMPT, NEW, SLOTS = 256, 256, 256, 64  # of an iteration (experiments/configs/rto_llm.pythia.toml); rows written at once
EPOCHS, SCORED = 2, 7  # passes over a rollout; forward passes of all networks over it
RANKS = [1, 2, 4, 8, 16, 32, 64]


def around(size, ranks, rate, latency):
    """Seconds of an all-to-all and an all-gather of `size` bytes between so many."""
    messages = 2 * (ranks - 1) * -(-size // WINDOW)
    return 2 * (ranks - 1) / ranks * size / (WIRE * rate) + messages * latency


def exchange(weights, ranks, how):
    """Seconds in which every rank comes to the sum of all gradients, in f32."""
    if ranks == 1:
        return 0.0
    size, here = 4 * weights, min(ranks, 8)
    if how == "levels":
        # Shares are added inside a host first, which is the lower part of the same tree; an eighth of each goes between hosts.
        inside = around(size, here, NVLINK, LATENCY[True])
        return inside + (ranks > 8 and around(size / here, ranks // 8, NETWORK, LATENCY[False]))
    wire = around(size, ranks, NVLINK if ranks <= 8 else NETWORK, LATENCY[ranks <= 8])
    if how == "card":
        return wire
    # Down to the host and up again: the whole gradient, and what goes over the wire.
    return wire + (2 * size + 4 * size * (ranks - 1) / ranks) / (WIRE * PCIE)


def step(weights, rows, ranks, how):
    """Seconds of a step of `rows` rows: 8 FLOPs a weight and token, as blocks are recomputed, and 2 for the scores before the loss."""
    mine = -(-rows // ranks)
    compute = 10 * weights * mine * (PROMPT + NEW) / (USE * PEAK)
    return compute + exchange(weights, ranks, how) + 28 * weights / MEMORY


def rollout(weights, ranks):
    """Seconds in which the responses of an iteration are written and scored: all weights are read for every token of all slots."""
    mine = -(-ROWS // ranks)
    waves = -(-mine // SLOTS)
    token = max(2 * weights / MEMORY, 2 * weights * min(mine, SLOTS) / (USE * PEAK))
    prompt = 2 * weights * mine * PROMPT / (USE * PEAK)
    scores = SCORED * 2 * weights * mine * (PROMPT + NEW) / (USE * PEAK)
    return waves * NEW * token + prompt + scores


HOW = ["host", "card", "levels"]


def table(name, weights, minibatch):
    print(f"\n{name}, minibatches of {minibatch} rows\n")
    print("| GPUs | rollout and scores, s | step, s: through the host | from card to card | in two levels | iteration, s | | | speed-up | | |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    first = {}
    for ranks in [r for r in RANKS if r <= minibatch]:
        steps = [step(weights, minibatch, ranks, how) for how in HOW]
        # Policy and critic take a step each.
        whole = [rollout(weights, ranks) + EPOCHS * ROWS / minibatch * 2 * one for one in steps]
        first = first or whole
        cells = [f"{rollout(weights, ranks):.1f}", *(f"{s:.2f}" for s in steps), *(f"{w:.0f}" for w in whole)]
        cells += [f"{f / w:.1f}" for f, w in zip(first, whole)]
        print(f"| {ranks} | {' | '.join(cells)} |")


for name, weights in [("Pythia-2.8B", 2.775e9), ("Llama-3-8B", 8.03e9)]:
    for minibatch in [16, 128]:
        table(name, weights, minibatch)
