"""What is wrong is one ValueError that begins with the argument's name; nothing aborts."""

import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import rto
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rto import advantages, interchange, losses

TREE = rto.TokenTree(2, 2)
REWARD = np.zeros((3, 2))
UNIFORM = rto.Policy.uniform(TREE)

CALLS = [
    ("reward", lambda v: rto.soft_value_iteration(TREE, v, UNIFORM, 0.5)),
    ("reference", lambda v: rto.soft_value_iteration(TREE, REWARD, v, 0.5)),
    ("policy", lambda v: rto.evaluate(TREE, REWARD, v, UNIFORM, 0.5)),
    ("policy", lambda v: rto.visitation(TREE, v)),
    ("logits", lambda v: rto.Policy.from_logits(v)),
    ("probs", lambda v: rto.Policy.from_probs(v)),
    ("features", lambda v: rto.design(TREE, v, [([0, 1], [1, 1])])),
    ("x", lambda v: rto.fit_bradley_terry(v, 1.0)),
    ("initial", lambda v: rto.TokenTree(2, 2, 2, initial=v)),
    ("next", lambda v: rto.TabularMdp(v, [1.0])),
]
WRONG = {
    "none": None,
    "text": "reward",
    "objects": np.array([[object(), 1], [1, 1], [1, 1]], dtype=object),
    "complex": np.zeros((3, 2), dtype=complex),
    "ragged": [[1.0], [1.0, 2.0], []],
    "a number": 3.0,
    "four axes": np.zeros((1, 1, 1, 1)),
}


@pytest.mark.parametrize("name, call", CALLS, ids=[f"{i}-{c[0]}" for i, c in enumerate(CALLS)])
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_array_of_numbers_is_named(name, call, kind):
    if (name, kind) == ("initial", "none"):
        pytest.skip("None is the uniform law")
    with pytest.raises(ValueError) as refused:
        call(WRONG[kind])
    assert str(refused.value).startswith(name), refused.value
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_caught_where_they_enter(bad):
    reward = REWARD.copy()
    reward[1, 0] = bad
    with pytest.raises(ValueError, match=r"reward\[1, 0\]"):
        rto.soft_value_iteration(TREE, reward, UNIFORM, 0.5)
    with pytest.raises(ValueError):
        rto.fit_bradley_terry([[1.0, bad]], 1.0)
    with pytest.raises(ValueError, match="beta"):
        rto.soft_value_iteration(TREE, REWARD, UNIFORM, bad)


def test_what_is_wrong_with_a_sparse_matrix_is_named():
    csr = lambda indptr=(0, 1, 2), indices=(0, 1), data=(1.0, -1.0), shape=(2, 2): rto.fit_bradley_terry(
        SimpleNamespace(indptr=indptr, indices=indices, data=data, shape=shape), penalty=1.0
    )
    csr()
    for call, line in [
        (lambda: csr(shape=(2,)), r"x: found a sparse matrix of shape \(2,\), expected \(n, d\)$"),
        (lambda: csr(shape=(3, 2)), "x.indptr: found 3 values, expected 4 for 3 rows$"),
        (lambda: csr(indptr=(0, 2, 1)), r"x: indptr\[2\]: found 1, must be from 2 to 2"),
        (lambda: csr(indptr=(0, 0.5, 2)), r"x.indptr\[1\]: found 0.5, expected a whole number of at least 0$"),
        (lambda: csr(indices=(0, -1)), r"x.indices\[1\]: found -1, expected a whole number of at least 0$"),
        (lambda: csr(indices=(0, 2)), r"x: indices\[1\] \(row 1\): found 2, must be below d = 2$"),
        (lambda: csr(data=(1.0, np.nan)), r"x: values\[1\] \(row 1, column 1\) is not finite"),
        (lambda: csr(data=(1.0,)), "x: values"),
        (lambda: csr(data="ab"), "x.data: found a value of type str"),
        (lambda: csr(shape=(2, 0)), "x: feature dimension: found 0"),
    ]:
        with pytest.raises(ValueError, match=f"^{line}") as refused:
            call()
        assert "\n" not in str(refused.value)


def test_shapes_and_ranges_are_named():
    for call, line in [
        (lambda: rto.soft_value_iteration(TREE, np.zeros((2, 2)), UNIFORM, 0.5), "reward"),
        (lambda: rto.soft_value_iteration(TREE, REWARD, np.full((3, 2), 0.4), 0.5), "reference"),
        (lambda: rto.TokenTree(0, 2), "actions"),
        (lambda: rto.TokenTree(2, 64), "states"),
        (lambda: rto.visitation(None, UNIFORM), "mdp"),
        (lambda: rto.Policy.uniform(3), "mdp"),
        (lambda: rto.TabularMdp([[0, -1]], [1.0]), r"transition\[0\]\[0\]"),
        (lambda: rto.TabularMdp([[0.5, -1]], [1.0]), r"next\[0, 0\]"),
        (lambda: TREE.prefix(3), "state"),
        (lambda: TREE.state([0, 1, 0]), "."),
        (lambda: rto.design(TREE, np.zeros((3, 2, 1)), [([0], [1, 1])]), r"pairs\[0\], winner"),
        (lambda: rto.design(TREE, np.zeros((3, 2, 1)), [7]), r"pairs\[0\]"),
        (lambda: rto.fit_bradley_terry([[1.0]]), "."),
        (lambda: rto.confidence_radius([[1.0]], [0.0], "walt", horizon=1, feature_bound=1, param_bound=1), "kind"),
        (lambda: rto.algorithm1(TREE, np.zeros((3, 2, 1)), UNIFORM, 0.5, [[1.0]], [0.0], 1.0, metric="sigma"), "metric"),
    ]:
        with pytest.raises(ValueError, match=line):
            call()


def test_lists_float32_and_views_are_read_as_they_are():
    reward = np.arange(12.0).reshape(3, 4)[:, ::2]
    expected = rto.soft_value_iteration(TREE, np.ascontiguousarray(reward), UNIFORM, 0.5).v
    for same in (reward, reward.tolist(), reward.astype(np.float32), reward.astype(int), np.asfortranarray(reward)):
        assert np.array_equal(rto.soft_value_iteration(TREE, same, UNIFORM, 0.5).v, expected)


def test_a_number_of_another_type_is_named():
    for wrong in (None, "half", [0.5], 1j):
        with pytest.raises(TypeError) as refused:
            rto.soft_value_iteration(TREE, REWARD, UNIFORM, wrong)
        # Before 3.11 an exception takes no notes, and a number's own error has no place for the argument's name.
        if sys.version_info >= (3, 11):
            assert any("beta" in line for line in [str(refused.value), *getattr(refused.value, "__notes__", [])])


def test_what_is_quoted_stays_on_one_line():
    for call in (lambda: rto.audit({"kl": ["\n"]}), lambda: rto.bench({"a\nb": 1}), lambda: rto.solve({"a\nb": 1})):
        with pytest.raises(ValueError) as refused:
            call()
        assert "\n" not in str(refused.value) and "\\n" in str(refused.value)


numbers = st.one_of(st.floats(), st.integers(-3, 3), st.none(), st.text(max_size=2), st.booleans())
arrays = st.recursive(numbers, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
ROWS = [[-1.0, -0.5], [-0.3]]
PAIRS = [([0, 1], [1, 1])]
# Every function with an argument of anything; what is small comes back at once.
ANY = [call for _, call in CALLS] + [
    lambda v: rto.suboptimality(TREE, v, UNIFORM, UNIFORM, 0.5),
    lambda v: rto.soft_value_iteration(v, REWARD, UNIFORM, 0.5),
    lambda v: rto.coverage(TREE, v, behaviour=UNIFORM),
    lambda v: rto.coverage(TREE, UNIFORM, pairs=v),
    lambda v: rto.coverage(TREE, UNIFORM, behaviour=UNIFORM, features=v),
    lambda v: rto.linear_coverage(v, [1.0]),
    lambda v: rto.best_of_n(v, [0.0, 1.0], 2),
    lambda v: rto.best_of_n([0.5, 0.5], v, 2),
    lambda v: rto.soft_best_of_n([0.5, 0.5], v, 1.0, 2),
    lambda v: rto.additive_coverage(v, [0.5, 0.5], [0.5, 0.5]),
    lambda v: rto.additive_coverage([[1.0], [2.0]], [0.5, 0.5], v),
    lambda v: rto.linear_coverage([[1.0]], v),
    lambda v: rto.covering_behaviour(TREE, v, UNIFORM, 0.5, 0.5),
    lambda v: rto.design(TREE, np.zeros((3, 2, 1)), v),
    lambda v: rto.theorem_b1(TREE, np.zeros((3, 2, 1)), UNIFORM, 0.5, v, [[1.0]], [0.0], 1.0, param_bound=1.0),
    lambda v: rto.algorithm1(TREE, np.zeros((3, 2, 1)), UNIFORM, 0.5, v, [0.0], 1.0),
    lambda v: rto.confidence_radius([[1.0]], v, "wald", horizon=1, feature_bound=1.0, param_bound=1.0),
    lambda v: rto.sample_preferences(TREE, v, UNIFORM, 1),
    lambda v: rto.sample_preferences(TREE, REWARD, v, 1),
    lambda v: losses.policy_loss(v, ROWS, ROWS),
    lambda v: losses.policy_loss(ROWS, v, ROWS),
    lambda v: losses.policy_loss(ROWS, ROWS, ROWS, mask=v),
    lambda v: losses.policy_loss(ROWS, ROWS, ROWS, kl="k3", beta=0.1, ref_log_prob=v),
    lambda v: losses.value_loss(v, ROWS),
    lambda v: losses.sft_loss(v),
    lambda v: losses.preference_loss(v, ROWS, beta=0.1),
    lambda v: losses.preference_loss(ROWS, ROWS, beta=0.1, loss=v),
    lambda v: losses.kto_loss(ROWS, ROWS, v, beta=0.1),
    lambda v: losses.reward_loss(v),
    lambda v: advantages.gae(v, ROWS),
    lambda v: advantages.gae(ROWS, ROWS, last_values=v),
    lambda v: advantages.reward_to_go(v),
    lambda v: advantages.leave_one_out(v, 2),
    lambda v: advantages.group_relative(v, 2),
    lambda v: advantages.leave_one_out_of_score(ROWS, v, 2),
    lambda v: advantages.remax(ROWS, v),
    lambda v: advantages.whiten(v),
    lambda v: rto.token_rewards("ppo", v, scores=[0.0, 1.0]),
    lambda v: rto.token_rewards("ppo", ROWS, scores=v),
    lambda v: rto.rows(v, [1]),
    lambda v: rto.rows([[1.0, 2.0]], v),
    lambda v: rto.pad(v),
    lambda v: rto.best_first(lambda path: v, 2, 2, budget=2),
    lambda v: rto.best_first(v, 2, 2),
    lambda v: rto.solve({"beta": v}),
    lambda v: rto.bench({"A": v}),
    lambda v: rto.audit({"kl": v}, beta=0.3),
    lambda v: rto.audit("rto", {"A": v}),
    lambda v: rto.train(TREE, "sft", reward=REWARD, reference=UNIFORM, beta=0.5, demonstrations=v, fit={"epochs": 1}),
    lambda v: rto.train(TREE, "dpo", reward=REWARD, reference=UNIFORM, beta=0.5, pairs=v, fit={"epochs": 1}),
    lambda v: rto.train(TREE, "rto", reward=v, reference=UNIFORM, beta=0.5, pairs=PAIRS, ppo={"iterations": 1}),
    lambda v: rto.train(TREE, "rto", reward=REWARD, reference=UNIFORM, beta=0.5, pairs=PAIRS, ppo={"clip": v, "iterations": 1}),
    lambda v: rto.train(TREE, "rto", reward=REWARD, reference=UNIFORM, beta=0.5, token_reward=lambda p, y: v, ppo={"iterations": 1}),
    lambda v: rto.train(TREE, "dpo", reward=REWARD, reference=UNIFORM, beta=0.5, pairs=PAIRS, preference_loss=lambda *_: v, fit={"epochs": 1}),
    lambda v: interchange.token_level_scores(v),
    lambda v: interchange.trl_reward(lambda ids: v)(completion_ids=[[1, 2]]),
    lambda v: interchange.pair_accuracy(v, len),
    lambda v: interchange.pair_accuracy([{"prompt": "a", "chosen": "b", "rejected": "c"}], lambda x, y: v),
]


@settings(
    max_examples=int(os.environ.get("RTO_EXAMPLES", "1500")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(value=arrays, which=st.integers(0, len(ANY) - 1))
def test_rubbish_is_a_value_or_a_value_error(value, which):
    try:
        ANY[which](value)
    except ValueError as e:
        assert "\n" not in str(e)
