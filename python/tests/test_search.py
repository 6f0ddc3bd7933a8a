"""The search of Section 3.3 with an evaluator written in Python."""

import itertools
import json
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import rto
from scipy.special import log_softmax


def random_policy(seed, n_actions, horizon, scale=2.0):
    """log π(·|prefix), drawn once for each prefix, and how often whole paths were asked for."""
    calls = []

    def row(prefix):
        rng = np.random.default_rng([seed, len(prefix), *prefix])
        return log_softmax(scale * rng.normal(size=n_actions))

    def evaluator(path):
        assert len(path) == horizon and all(isinstance(t, int) for t in path)
        calls.append(list(path))
        return np.array([row(path[:h]) for h in range(horizon)])

    return row, evaluator, calls


def log_prob(row, response):
    return sum(row(response[:h])[t] for h, t in enumerate(response))


@pytest.mark.parametrize("seed", range(30))
def test_what_is_certified_is_the_most_probable_response(seed):
    n_actions, horizon = [(2, 6), (3, 4), (5, 3)][seed % 3]
    row, evaluator, calls = random_policy(seed, n_actions, horizon)
    every = list(itertools.product(range(n_actions), repeat=horizon))
    best = max(log_prob(row, y) for y in every)
    found = rto.best_first(evaluator, n_actions, horizon)
    assert found.certified and found.log_prob == pytest.approx(best, abs=1e-12)
    assert log_prob(row, found.response) == pytest.approx(best, abs=1e-12)
    assert found.token_log_probs.sum() == pytest.approx(best, abs=1e-12)
    assert found.queries == len(calls) < len(every)
    greedy = []
    for h in range(horizon):
        greedy.append(int(np.argmax(row(greedy))))
    assert found.greedy == greedy
    small = rto.best_first(evaluator, n_actions, horizon, budget=horizon)
    assert small.queries <= horizon and small.log_prob >= log_prob(row, greedy) - 1e-12
    values = [rto.best_first(evaluator, n_actions, horizon, budget=b).log_prob for b in range(horizon, found.queries + 1)]
    assert values == sorted(values) and values[-1] == pytest.approx(best, abs=1e-12)


def test_the_tree_of_figure_2():
    """`tests/golden/prop32.json`: the heaviest response, how many prefixes of each length are heavy, and the search by paths."""
    golden = Path(__file__).resolve().parents[2] / "tests" / "golden" / "prop32.json"
    want = json.loads(golden.read_text())["prop32"]["fig2"]
    leaves = {tuple(map(int, y)): float(Fraction(p)) for y, p in want["leaves"].items()}
    horizon = 3
    mass = lambda prefix: sum(p for y, p in leaves.items() if y[: len(prefix)] == tuple(prefix))
    tree = rto.TokenTree(2, horizon)
    probs = np.empty((tree.n_states, 2))
    for h in range(horizon):
        for prefix in itertools.product((0, 1), repeat=h):
            probs[tree.state(list(prefix))] = [mass([*prefix, a]) / mass(prefix) for a in (0, 1)]
    visits = rto.visitation(tree, rto.Policy.from_probs(probs))
    threshold = 2.0 ** -want["xi"]
    levels = [[tree.state(list(y)) for y in itertools.product((0, 1), repeat=h)] for h in range(horizon)]
    heavy = [int((visits.state[states] >= threshold).sum()) for states in levels]
    assert [*heavy, int((visits.pair[levels[-1]] >= threshold).sum())] == want["heavy_profile"]
    found = rto.best_first(lambda y: np.log([probs[tree.state(y[:h])] for h in range(horizon)]), 2, horizon)
    best = want["bestfirst_pick_highest_index"]
    assert found.certified and "".join(map(str, found.response)) == best["best"] == "000"
    assert found.log_prob == pytest.approx(np.log(leaves[0, 0, 0]), abs=1e-15)
    # H calls find the greedy response, and what they saw certifies it.
    assert found.queries == horizon and found.greedy == found.response


def test_a_path_at_once_takes_fewer_calls_than_a_prefix_at_a_time():
    """A call passes every prefix of its path: prefixes passed over calls is what a model saves."""
    row, evaluator, calls = random_policy(1, 8, 8, scale=1.0)
    found = rto.best_first(evaluator, 8, 8, budget=400)
    after = calls[8:]
    passed = set()
    new = 0
    for path in [found.greedy, *after]:
        for h in range(8):
            if tuple(path[:h]) not in passed:
                passed.add(tuple(path[:h]))
                new += 1
    assert new > 1.5 * len(after)


def test_figure_2_of_the_paper():
    weights = {(0, 0, 0): 16, (0, 0, 1): 8, (0, 1, 0): 2, (0, 1, 1): 2, (1, 0, 0): 1, (1, 0, 1): 1, (1, 1, 0): 1, (1, 1, 1): 1}
    mass = lambda p: sum(w for y, w in weights.items() if y[: len(p)] == p)

    def evaluator(path):
        rows = [[mass((*path[:h], a)) / mass(tuple(path[:h])) for a in (0, 1)] for h in range(3)]
        return np.log(rows)

    found = rto.best_first(evaluator, 2, 3)
    assert found.response == [0, 0, 0] and found.certified and found.queries == 3
    assert np.exp(found.log_prob) == pytest.approx(0.5)


def test_zero_probabilities_are_fine():
    def evaluator(path):
        return np.log([[0.5, 0.5, 1e-300], [1.0, 1e-300, 1e-300]])

    def ended(path):
        with np.errstate(divide="ignore"):
            return np.log([[0.4, 0.6, 0.0], [0.5, 0.5, 0.0] if path[0] == 1 else [1.0, 0.0, 0.0]])

    assert rto.best_first(evaluator, 3, 2).certified
    assert rto.best_first(ended, 3, 2).response == [0, 0]


def test_bad_evaluators_are_named():
    def raises(path):
        raise KeyError("gone")

    uniform = np.full((2, 2), np.log(0.5))
    for evaluator, line in [
        (None, "expected a function"),
        (raises, "raised KeyError"),
        (lambda path: None, "evaluator: found"),
        (lambda path: uniform[:1], "expected numbers of shape"),
        (lambda path: uniform + 1, "row 0: found a sum of"),
        (lambda path: uniform * np.nan, "row 0: found NaN"),
        (lambda path: np.array([["a", "b"], ["c", "d"]]), "evaluator: found"),
    ]:
        with pytest.raises(ValueError, match=line) as refused:
            rto.best_first(evaluator, 2, 2)
        assert str(refused.value).startswith("evaluator")
    for others, line in [
        (dict(budget=1), "budget"),
        (dict(tolerance=-1.0), "tolerance"),
        (dict(tolerance=float("nan")), "tolerance"),
        (dict(n_actions=1), "n_actions"),
        (dict(horizon=0), "horizon"),
    ]:
        given = dict(n_actions=2, horizon=2) | others
        with pytest.raises(ValueError, match=line):
            rto.best_first(lambda path: uniform, **given)


SLOW = """
import numpy as np, rto, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
calls = []
def evaluator(path):
    calls.append(path)
    if len(calls) == 20: print("going", flush=True)
    time.sleep(0.01)
    return np.full((20, 4), np.log(0.25))
try:
    rto.best_first(evaluator, 4, 20)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for a child")
def test_ctrl_c_ends_a_search():
    child = subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "going\n", child.stderr.read()
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "stopped\n", child.stderr.read()
        assert time.monotonic() - start < 1.0
        assert child.wait(timeout=60) == 0
    finally:
        child.kill()
        child.communicate()
