"""What is wrong is one ValueError that begins with the argument's name; nothing aborts."""

import numpy as np
import pytest
import rto
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


numbers = st.one_of(st.floats(), st.integers(-3, 3), st.none(), st.text(max_size=2))
arrays = st.recursive(numbers, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=arrays, which=st.integers(0, len(CALLS) - 1))
def test_rubbish_is_a_value_or_a_value_error(value, which):
    try:
        CALLS[which][1](value)
    except ValueError as e:
        assert "\n" not in str(e)
