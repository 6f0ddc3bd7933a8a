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


def test_results_show_themselves_in_a_notebook():
    tree = rto.TokenTree(2, 2)
    uniform, reward = rto.Policy.uniform(tree), np.eye(3, 2)
    x, phi = [[1.0], [-2.0]], np.ones((3, 2, 1))
    found = {
        "value": rto.soft_value_iteration(tree, reward, uniform, 0.5),
        "log_likelihood": rto.fit_bradley_terry(x),
        "duality_gap": rto.maxmin(tree, phi, uniform, 0.5, x, [0.0], 0.5, param_bound=1.0),
        "premise": rto.theorem_4_2(tree, phi, uniform, 0.5, [0.1], x, [0.0], 0.5),
        "chi_square": rto.coverage(tree, uniform, behaviour=uniform),
        "certified": rto.best_first(lambda path: np.full((2, 2), np.log(0.5)), 2, 2),
        "suboptimality": rto.train(tree, "sft", reward=reward, reference=uniform, beta=0.5, demonstrations=[[0, 1]]),
        "C_sa": rto.solve({"n_actions": 2, "horizon": 1, "beta": 0.5, "initial": [1.0], "reward": [[[0.0, 1.0]]], "reference_logits": [[[0.0, 0.0]]]}),
    }
    for key, result in found.items():
        page = result._repr_html_()
        assert page.startswith("<table>") and page.endswith("</table>"), key
        assert key in page or key == "C_sa", page
        if not isinstance(result, dict):
            with pytest.raises(AttributeError):
                result.of_mine = 1
