"""Speed through Python: soft value iteration against NumPy and JAX, the Bradley-Terry estimate against SciPy, and what an empty call costs.

    OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1 python python/benchmarks/speed.py

One thread each, in turn, medians of the process's CPU seconds, so that work beside it disturbs little. Needs SciPy, and JAX where it is installed.
"""

from __future__ import annotations

import os
import statistics
import time
import timeit

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np
import rto
from scipy.optimize import minimize
from scipy.special import expit, log_expit

BETA = 0.5


def in_turn(functions, rounds=9):
    """Median CPU milliseconds of each."""
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(t) for name, t in times.items()}


def show(title, medians):
    ours = medians["rto"]
    others = ", ".join(f"{name} {ms:.1f} ms ({ms / ours:.2f}x)" for name, ms in medians.items() if name != "rto")
    print(f"{title}: rto {ours:.1f} ms; {others}", flush=True)


def soft_value_iteration(n_actions, horizon):
    tree = rto.TokenTree(n_actions, horizon)
    rng = np.random.default_rng(0)
    shape = (tree.n_states, n_actions)
    reward, reference = rng.normal(size=shape), rto.Policy.from_logits(0.5 * rng.normal(size=shape))
    log_reference = reference.log_probs
    # A full tree lies level by level, so that the children of a level are the next one.
    first = [(n_actions**h - 1) // (n_actions - 1) for h in range(horizon + 1)]
    levels = [slice(first[h], first[h + 1]) for h in reversed(range(horizon))]

    def by_numpy():
        v, log_policy, later = np.empty(shape[0]), np.empty(shape), None
        for level in levels:
            q = reward[level] + BETA * log_reference[level]
            if later is not None:
                q += later.reshape(-1, n_actions)
            top = q.max(axis=1)
            later = top + BETA * np.log(np.exp((q - top[:, None]) / BETA).sum(axis=1))
            v[level], log_policy[level] = later, (q - later[:, None]) / BETA
        return v, log_policy

    def by_rto():
        found = rto.soft_value_iteration(tree, reward, reference, BETA)
        return found.v, found.policy

    functions = {"rto": by_rto, "NumPy": by_numpy}
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        print("(JAX is not installed)")
    else:
        jax.config.update("jax_enable_x64", True)

        @jax.jit
        def levelwise(reward, log_reference):
            later, out = None, []
            for level in levels:
                q = reward[level] + BETA * log_reference[level]
                if later is not None:
                    q = q + later.reshape(-1, n_actions)
                later = BETA * jax.scipy.special.logsumexp(q / BETA, axis=1)
                out.insert(0, (later, (q - later[:, None]) / BETA))
            return tuple(jnp.concatenate(part) for part in zip(*out))

        inputs = jnp.asarray(reward), jnp.asarray(log_reference)
        functions["JAX"] = lambda: [np.asarray(a) for a in levelwise(*inputs)]
    v = by_numpy()[0]
    for name, function in functions.items():
        assert np.abs(function()[0] - v).max() < 1e-12, name
    show(f"soft values and policy, A = {n_actions}, H = {horizon}, {tree.n_states} states", in_turn(functions))


def estimate(n, d):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d))
    x *= np.sign(x @ rng.normal(size=d) + rng.logistic(size=n))[:, None]

    def by_scipy():
        value = lambda t: (-log_expit(x @ t).sum(), -x.T @ expit(-x @ t))
        return minimize(value, np.zeros(d), jac=True, method="L-BFGS-B", options={"gtol": 1e-6, "ftol": 1e-15}).x

    def by_newton():
        t = np.zeros(d)
        for _ in range(50):
            p = expit(-x @ t)
            step = np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]), x.T @ p)
            t += step
            if np.abs(step).max() < 1e-10:
                return t
        raise RuntimeError("not converged")

    functions = {"rto": lambda: rto.fit_bradley_terry(x).theta, "SciPy L-BFGS": by_scipy, "NumPy Newton": by_newton}
    best = functions["rto"]()
    assert np.abs(by_scipy() - best).max() < 1e-4 and np.abs(by_newton() - best).max() < 1e-8
    show(f"Bradley-Terry, n = {n}, d = {d}", in_turn(functions))


def empty_calls():
    tree = rto.TokenTree(2, 1)
    policy, reward = rto.Policy.uniform(tree), np.zeros((1, 2))
    for name, call in {
        "tree.n_states": lambda: tree.n_states,
        "suboptimality of one state": lambda: rto.suboptimality(tree, reward, policy, policy, 0.5),
    }.items():
        best = min(timeit.repeat(call, number=20_000, repeat=15)) / 20_000
        print(f"{name}: {1e6 * best:.2f} us a call, the lambda included")


if __name__ == "__main__":
    soft_value_iteration(2, 20)
    soft_value_iteration(10, 7)
    estimate(100_000, 8)
    estimate(100_000, 64)
    empty_calls()
