"""Algorithm 2 and its baselines: exact SubOpt, callbacks in the library's places, Ctrl-C."""

import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import rto

BETA = 0.5
TREE = rto.TokenTree(2, 4)
RNG = np.random.default_rng(0)
REWARD = RNG.normal(size=(TREE.n_states, 2))
REFERENCE = rto.Policy.from_logits(0.5 * RNG.normal(size=REWARD.shape))
PAIRS = rto.sample_preferences(TREE, REWARD, REFERENCE, 2000, seed=1)
METHODS = ["ppo", "ppo_dense", "dppo", "dppo_offset", "rto", "rto_printed", "rto_released", "rloo"]


def train(method, **others):
    given = dict(reward=REWARD, reference=REFERENCE, beta=BETA, pairs=PAIRS, ppo={"iterations": 8})
    return rto.train(TREE, method, **{**given, **others})


def states(prompt, response):
    return [TREE.state(response[:h], prompt) for h in range(len(response))]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_is_measured_exactly(method):
    run = train(method)
    gap = run.history["suboptimality"]
    assert len(gap) == 9 and list(run.history["iteration"]) == list(range(9))
    assert gap[0] == pytest.approx(rto.suboptimality(TREE, REWARD, REFERENCE, REFERENCE, BETA), abs=1e-12)
    assert gap[-1] == pytest.approx(rto.suboptimality(TREE, REWARD, run.policy, REFERENCE, BETA), abs=1e-12)
    own = run.history["own_suboptimality"]
    assert own[-1] < own[0] and gap[-1] < gap[0]
    value = run.history["reward"] - BETA * run.history["kl"]
    np.testing.assert_allclose(run.history["value"], value, atol=1e-12)
    assert len({len(column) for column in run.history.values()}) == 1


def test_own_suboptimality_is_that_of_the_methods_reward():
    run = train("rto", ppo={"iterations": 3, "beta2": 0.2})
    implicit = BETA * (run.dpo_policy.log_probs - REFERENCE.log_probs)
    own = rto.suboptimality(TREE, implicit, run.policy, REFERENCE, 0.2)
    assert run.history["own_suboptimality"][-1] == pytest.approx(own, abs=1e-12)
    assert run.settings["ppo"]["beta2"] == 0.2 and run.settings["dpo"]["beta"] == BETA


def test_dpo_with_many_pairs_comes_near_the_optimum_and_sft_near_its_data():
    run = train("dpo", fit={"epochs": 20})
    assert run.history["suboptimality"][-1] < 0.05 * run.history["suboptimality"][0]
    assert run.history["loss"][1] == pytest.approx(np.log(2), abs=0.2)
    best = rto.soft_value_iteration(TREE, REWARD, REFERENCE, BETA).policy
    draws = rto.sample_preferences(TREE, REWARD, best, 4000, seed=2)
    shown = [(p, y) for p, w, l in draws for y in (w, l)]
    run = train("sft", demonstrations=shown, fit={"epochs": 3})
    assert run.dpo_policy is None
    assert run.history["suboptimality"][-1] < 0.1 * run.history["suboptimality"][0]


def test_the_same_seed_is_the_same_run_and_another_is_not():
    a, b, c = (train("rto", seed=s).policy.log_probs for s in (3, 3, 4))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_a_token_reward_of_ones_own_that_is_rtos_is_rto():
    dpo = train("dpo").policy

    def token_reward(prompts, responses):
        rows = [states(p, y) for p, y in zip(prompts, responses)]
        return [BETA * (dpo.log_probs[s, y] - REFERENCE.log_probs[s, y]) for s, y in zip(rows, responses)]

    own = train("rto", pairs=None, token_reward=token_reward)
    np.testing.assert_allclose(own.policy.log_probs, train("rto").policy.log_probs, atol=1e-10)


def test_a_preference_loss_of_ones_own_that_is_dpos_is_dpo():
    def dpo(log_prob, reference, length):
        margin = BETA * (log_prob[0] - reference[0] - log_prob[1] + reference[1])
        slope = -BETA / (1 + np.exp(margin))
        return np.log1p(np.exp(-margin)), (slope, -slope)

    few = dict(pairs=PAIRS[:200], fit={"epochs": 2})
    own = train("dpo", preference_loss=dpo, **few).policy.log_probs
    np.testing.assert_allclose(own, train("dpo", **few).policy.log_probs, atol=1e-10)
    other = train("dpo", preference_loss={"simpo": {"gamma": 0.5}}, **few).policy.log_probs
    assert np.abs(other - own).max() > 0.01


def test_what_a_callback_raises_or_returns_is_one_error_with_its_name():
    def raises(*_):
        raise ZeroDivisionError("in two\nlines")

    cases = [
        ("token_reward", raises, r"raised ZeroDivisionError: in two lines$"),
        ("token_reward", lambda p, y: None, "found a value of type NoneType"),
        ("token_reward", lambda p, y: [[0.0]] * len(y), "row 0: found 1 numbers, expected 4"),
        ("token_reward", lambda p, y: [[0.0] * 4] * (len(y) + 1), "expected"),
        ("token_reward", lambda p, y: [[0.0] * 4] * (len(y) - 1), "expected"),
        ("token_reward", lambda p, y: [[np.nan] * 4] * len(y), "row 0, token 0: found NaN"),
        ("token_reward", lambda p, y: [["a"] * 4] * len(y), "row 0"),
        ("token_reward", 3, "expected a function"),
        ("preference_loss", raises, "raised ZeroDivisionError"),
        ("preference_loss", lambda *_: None, "found a value of type NoneType"),
        ("preference_loss", lambda *_: (float("inf"), (0.0, 0.0)), "found inf"),
        ("progress", raises, None),
    ]
    for name, function, line in cases:
        if name == "progress":
            with pytest.raises(ZeroDivisionError):
                train("rto", progress=function)
            continue
        with pytest.raises(ValueError, match=line) as refused:
            train("rto", **{name: function})
        assert str(refused.value).startswith(name) and "\n" not in str(refused.value)
        assert (function is raises) == isinstance(refused.value.__cause__, ZeroDivisionError)


def test_bad_settings_are_named():
    for others, line in [
        (dict(method="rt0"), "method: found"),
        (dict(ppo={"clip": -1}), "clip"),
        (dict(ppo={"clip": "wide"}), r"ppo\.clip"),
        (dict(ppo={"clips": 0.2}), r"ppo\.clips"),
        (dict(ppo={"beta2": float("nan")}), "ppo: found nan"),
        (dict(ppo=3), "ppo: found a value of type int"),
        (dict(ppo=None, fit={"epochs": 0}), "epochs"),
        (dict(fit={"epochs": None}), r"fit\.epochs"),
        (dict(settings={"clip": 1.0}), "settings: .*clip"),
        (dict(settings={"beta2": None}), "settings"),
        (dict(pairs=None), "pairs: found nothing"),
        (dict(pairs=3), "pairs: found a value of type int"),
        (dict(pairs=[([0], [1, 1, 1, 1])]), r"pairs\[0\], winner"),
        (dict(pairs=[7]), r"pairs\[0\]"),
        (dict(method="sft"), "demonstrations: found nothing"),
        (dict(method="sft", demonstrations=[[0]]), r"demonstrations\[0\]"),
        (dict(method="dpo", token_reward=lambda p, y: []), "token_reward"),
        (dict(beta=-1.0), "beta"),
        (dict(beta=float("nan")), "beta"),
        (dict(beta1=float("inf")), "beta1"),
        (dict(eval_every=0), "eval_every"),
        (dict(progress=None), "progress"),
        (dict(preference_loss="dpoo"), "loss"),
        (dict(preference_loss=None), "loss"),
        (dict(reward=np.zeros((2, 2))), "reward: found shape"),
        (dict(reward=np.full((15, 2), np.nan)), "reward"),
        (dict(reward=None), "reward"),
        (dict(reference=np.zeros((15, 2))), "reference"),
    ]:
        others = dict(others)
        with pytest.raises(ValueError, match=line) as refused:
            train(others.pop("method", "rto"), **others)
        assert "\n" not in str(refused.value)


def test_progress_is_told_of_every_measurement(capfd):
    told = []
    run = train("rto", progress=lambda *what: told.append(what), eval_every=3)
    assert [t[:2] for t in told] == [(0, 8), (3, 8), (6, 8), (8, 8)]
    assert [t[2] for t in told] == list(run.history["suboptimality"])
    train("rto", progress=True)
    shown = capfd.readouterr().err
    assert "train rto |" in shown and "8/8" in shown and shown.endswith("\n")


LONG = """
import numpy as np, rto, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
tree = rto.TokenTree(2, 10)
reward = np.random.default_rng(0).normal(size=(tree.n_states, 2))
reference = rto.Policy.uniform(tree)
pairs = rto.sample_preferences(tree, reward, reference, 1000)
told = lambda done, total, gap: print("going", flush=True) if done == {going} else None
def slow(prompts, responses):
    if len(responses) == {responses}: time.sleep(3)
    return [[0.0] * len(y) for y in responses]
try:
    rto.train(tree, {method!r}, reward=reward, reference=reference, beta=0.5, pairs=pairs, progress=told, token_reward={own},
              fit={{"epochs": 1000000}} if {method!r} == "dpo" else None, ppo={{"iterations": 10**9, "prompts_per_iteration": {responses}}})
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for a child")
@pytest.mark.parametrize("method, responses, own", [("rto", 16, "None"), ("rto", 20_000, "None"), ("dpo", 16, "None"), ("rto", 16, "slow")])
def test_ctrl_c_ends_training_within_a_second(method, responses, own):
    code = LONG.format(method=method, responses=responses, own=own, going=int(own == "None"))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "going\n", child.stderr.read()
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "stopped\n", child.stderr.read()
        assert time.monotonic() - start < 1.0
        assert child.wait(timeout=60) == 0, child.stderr.read()
    finally:
        child.kill()
        child.communicate()


def test_two_threads_train_at_once_as_one_does():
    alone = train("rto", seed=5).policy.log_probs
    found = [None, None]

    def work(k):
        found[k] = train("rto", seed=5).policy.log_probs

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert all(np.array_equal(f, alone) for f in found)


def test_a_history_is_a_data_frame():
    pandas = pytest.importorskip("pandas")
    run = train("rto")
    frame = pandas.DataFrame(run.history)
    assert len(frame) == 9 and frame["suboptimality"].iloc[-1] == run.history["suboptimality"][-1]


def test_preferences_are_drawn_from_their_law():
    tree = rto.TokenTree(2, 1, n_prompts=2, initial=[0.25, 0.75])
    reward = np.array([[0.0, 1.0], [2.0, 0.0]])
    uniform = rto.Policy.uniform(tree)
    draws = rto.sample_preferences(tree, reward, uniform, 20000, seed=1)
    assert draws == rto.sample_preferences(tree, reward, uniform, 20000, seed=1)
    second = np.array([p for p, _, _ in draws]) == 1
    assert second.mean() == pytest.approx(0.75, abs=0.02)
    wins = [w[0] == 0 for p, w, l in draws if p == 1 and w != l]
    assert np.mean(wins) == pytest.approx(1 / (1 + np.exp(-2.0)), abs=0.02)
