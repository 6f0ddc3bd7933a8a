"""Soft value iteration on a token tree as one would write it instead; for benches/speed.py. One line of JSON.

    python3 soft_vi.py c|jax|numpy A H REPETITIONS      c needs gcc

V(s) = beta log sum_a pi_ref(a|s) exp((r(s, a) + V(s'))/beta), log pi(a|s) = log pi_ref(a|s) + (r(s, a) + V(s') - V(s))/beta on the tree of A actions and H
levels, beta = 1/2, f64: rewards uniform on [0, 1), logits of pi_ref uniform on [0, 2). V and log pi are written. Process CPU nanoseconds a pair (s, a), the
median after one run that is not counted, and the largest |sum_a pi(a|s) - 1|.
"""
import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

BETA = 0.5


def tables(actions, horizon):
    rng = np.random.default_rng(0)
    levels = []
    for h in range(horizon):
        logits = 2.0 * rng.random((actions**h, actions))
        levels.append((rng.random((actions**h, actions)), logits - np.log(np.exp(logits).sum(1, keepdims=True))))
    return levels


def plain(levels, actions):
    """NumPy in blocks that stay in the cache, in place."""
    policies = [np.empty_like(r) for r, _ in levels]
    step = max((1 << 14) // actions, 1)

    def run():
        value = np.zeros(actions ** len(levels))
        for (reward, log_reference), policy in zip(reversed(levels), reversed(policies)):
            above = np.empty(len(reward))
            for at in range(0, len(reward), step):
                part = slice(at, at + step)
                score = reward[part] + value[at * actions : (at + step) * actions].reshape(-1, actions)
                score *= 1.0 / BETA
                score += log_reference[part]
                top = score.max(axis=1)
                weight = score - top[:, None]
                np.exp(weight, out=weight)
                total = np.log(weight.sum(axis=1)) + top
                np.subtract(score, total[:, None], out=policy[part])
                np.multiply(total, BETA, out=above[part])
            value = above
        return policies

    return run


def compiled(levels, actions):
    """C through the compiler's best options for this machine."""
    folder = tempfile.mkdtemp()
    library = os.path.join(folder, "soft_vi.so")
    source = pathlib.Path(__file__).with_name("soft_vi.c")
    options = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-shared", "-fPIC"]
    subprocess.run(["gcc", *options, "-o", library, source, "-lm"], check=True)
    level = ctypes.CDLL(library).level
    policies, values = [np.empty_like(r) for r, _ in levels], [np.empty(len(r)) for r, _ in levels]
    pointer = lambda array: ctypes.c_void_p(array.ctypes.data)
    end = np.zeros(actions ** len(levels))

    def run():
        value = end
        for (reward, log_reference), policy, above in zip(*map(reversed, (levels, policies, values))):
            level(
                ctypes.c_int64(actions), pointer(reward), pointer(log_reference), pointer(value), pointer(above), pointer(policy),
                ctypes.c_int64(len(reward)), ctypes.c_double(BETA),
            )  # fmt: skip
            value = above
        return policies

    return run


def fused(levels, actions):
    """JAX, one compiled program for all levels."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    @jax.jit
    def sweep(levels):
        value, policies = jnp.zeros(actions ** len(levels)), []
        for reward, log_reference in reversed(levels):
            score = log_reference + (reward + value.reshape(-1, actions)) / BETA
            total = jax.scipy.special.logsumexp(score, axis=1)
            policies.append(score - total[:, None])
            value = BETA * total
        return policies[::-1]

    there = jax.device_put(levels)
    return lambda: jax.block_until_ready(sweep(there))


def main():
    method, actions, horizon, repetitions = sys.argv[1], *map(int, sys.argv[2:])
    levels = tables(actions, horizon)
    run = {"c": compiled, "jax": fused, "numpy": plain}[method](levels, actions)
    pairs, taken = sum(r.size for r, _ in levels), []
    policies = run()
    apart = max(float(np.abs(np.exp(np.asarray(p)).sum(axis=1) - 1.0).max()) for p in policies)
    for _ in range(repetitions):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    print(json.dumps({"cpu_ns_per_pair": 1e9 * statistics.median(taken) / pairs, "apart": apart}))


if __name__ == "__main__":
    main()
