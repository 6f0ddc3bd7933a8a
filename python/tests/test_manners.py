"""Types, threads, docs."""

import doctest
import inspect
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
import rto
from rto import export


MODULES = [rto, rto.advantages, rto.losses, rto.interchange, export]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_examples_of_the_docs_hold(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_every_name_is_documented(module):
    own = [n for n, v in vars(module).items() if inspect.isfunction(v) and not n.startswith("_") and v.__module__ == module.__name__]
    for name in getattr(module, "__all__", own):
        if not name.startswith("__"):
            assert (getattr(module, name).__doc__ or "").strip(), name


def test_nothing_is_imported_but_numpy():
    code = "import sys, rto; print(sorted(m for m in sys.modules if m.split('.')[0] in ('scipy', 'torch', 'pandas')))"
    done = subprocess.run([sys.executable, "-X", "dev", "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


def test_another_thread_runs_while_a_fit_does():
    x = np.random.default_rng(0).normal(size=(400_000, 24))
    ticks, done = [], threading.Event()

    def count():
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    watcher = threading.Thread(target=count)
    watcher.start()
    start = time.monotonic()
    rto.fit_bradley_terry(x, 1.0)
    end = time.monotonic()
    done.set()
    watcher.join()
    within = [t for t in ticks if start < t < end]
    # Whoever held the lock throughout would leave none between the two copies of the data at the start.
    assert len(within) >= 3, (len(within), end - start)


def test_a_float64_reward_is_read_where_it_lies_and_others_are_copied():
    tree = rto.TokenTree(2, 16)
    reference, reward = rto.Policy.uniform(tree), np.zeros((tree.n_states, 2))

    def numpy_bytes(given):
        tracemalloc.start()
        rto.suboptimality(tree, given, reference, reference, 0.5)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert numpy_bytes(reward) < reward.nbytes / 8
    assert numpy_bytes(reward.astype(np.float32)) >= reward.nbytes
