"""Losses, advantages and token rewards: against the vectors of `conformance/`, and against PyTorch's own derivatives where it is installed."""

import json
from pathlib import Path

import numpy as np
import pytest
import rto
from rto import advantages, losses
from scipy.special import expit, log_expit

VECTORS = json.loads((Path(__file__).resolve().parents[2] / "conformance" / "vectors.json").read_text())
CASES = [(s, name) for s in VECTORS["sets"] for name in s["recipes"]]


def check(what, got, want, lengths, mask):
    scale = max(1.0, np.abs(want).max())
    for i, n in enumerate(lengths):
        on = np.ones(n, bool) if mask is None else mask[i] != 0
        np.testing.assert_allclose(np.asarray(got[i])[on], np.array(want[i])[:n][on], rtol=0, atol=1e-10 * scale, err_msg=what)


@pytest.mark.parametrize("s, name", CASES, ids=[f"{s['name']}-{n}" for s, n in CASES])
def test_vectors_hold(s, name):
    want, lengths = s["recipes"][name], s["lengths"]
    c = want["config"]
    cut = lambda table: rto.rows(table, lengths)
    inputs = {k: cut(v) if np.ndim(v) == 2 else np.array(v) for k, v in s["inputs"].items()}
    mask = cut(s["mask"]) if s["name"].endswith("masked") else None
    clip = c["score_clip"] if c["reward"] == "sentence" else c["dpo_clip"]
    method = {"sentence": "ppo", "dpo": "rto", "dpo_at_end": "dppo", "released": "rto_released"}[c["reward"]]
    in_reward = c["kl_placement"] == "reward"
    rewards = rto.token_rewards(
        method,
        inputs["ref_log_prob"],
        dpo_log_prob=inputs["dpo_log_prob"],
        beta1=c["beta1"],
        scores=inputs["scores"],
        clip=clip,
        log_prob=inputs["old_log_prob"] if in_reward else None,
        beta2=c["beta"] if in_reward else 0.0,
        mask=mask,
    )
    check("rewards", rewards, want["token_rewards"], lengths, mask)
    sums = np.array([r.sum() if mask is None else r @ m for r, m in zip(rewards, mask or rewards)])
    group, returns = c["group_size"], None
    spread = lambda per_row: [np.full(n, a) if mask is None else a * mask[i] for i, (n, a) in enumerate(zip(lengths, per_row))]
    if c["advantage"] == "gae":
        rule = c["mask_rule"]
        found, returns = advantages.gae(
            rewards, inputs["old_values"], gamma=c["gamma"], lam=c["lam"], mask=mask, mask_rule=rule if mask else "pass_over"
        )
    elif c["advantage"] == "remax":
        found = advantages.remax(rewards, inputs["greedy_scores"], mask=mask)
    elif c["advantage"] == "leave_one_out_of_score":
        found = advantages.leave_one_out_of_score(rewards, inputs["scores"], group, mask=mask)
    elif c["advantage"] == "leave_one_out":
        found = spread(advantages.leave_one_out(sums, group))
    elif c["advantage"] == "group":
        found = spread(advantages.group_relative(sums, group, spread=c["std"] or "one", eps=c["eps"] or 1.0))
    else:
        found = advantages.reward_to_go(rewards, gamma=c["gamma"], mask=mask, mask_rule=c["mask_rule"] if mask else "pass_over")
    if c["whitening"]:
        found = advantages.whiten(found, mask=mask, std=c["whitening"])
    check("advantages", found, want["advantages"], lengths, mask)
    how = dict(aggregation=c["aggregation"], mask=mask, length=c["length"] if c["aggregation"] in ("constant", "per_batch") else None)
    in_loss = c["kl_placement"] == "loss"
    plain = c["ratio"] == "log_prob"
    loss = losses.policy_loss(
        inputs["log_prob"],
        found,
        inputs["old_log_prob"],
        ratio=c["ratio"],
        clip_low=0.2 if c["clip_low"] is None or plain else c["clip_low"],
        clip_high=0.2 if c["clip_high"] is None or plain else c["clip_high"],
        dual_clip=c["dual_clip"],
        cap_low=c["cap_low"] or 0.0,
        cap_high=c["cap_high"],
        kl=c["kl_estimator"] if in_loss else None,
        beta=c["beta"] if in_loss else 0.0,
        ref_log_prob=inputs["ref_log_prob"] if in_loss else None,
        **how,
    )
    assert loss.value == pytest.approx(want["loss"], rel=1e-10, abs=1e-10)
    check("slope", loss.grad["log_prob"], want["dloss_dlogprob"], lengths, mask)
    if returns is not None:
        check("returns", returns, want["returns"], lengths, mask)
        value = losses.value_loss(inputs["values"], returns, inputs["old_values"], clip=c["value_clip"], **how)
        assert value.value == pytest.approx(want["value_loss"], rel=1e-10, abs=1e-10)
        check("value slope", value.grad["value"], want["dvalueloss_dvalue"], lengths, mask)


def test_every_vector_is_held():
    assert len(CASES) == 138


def ragged(rng, lengths, scale=1.0):
    return [scale * rng.normal(size=n) for n in lengths]


PAIR_LOSSES = ["dpo", "cdpo", "robust", "ipo", "hinge", "simpo", "rdpo", "chi_po", "cal_dpo", "dpop", "rpo", "tdpo1", "tdpo2"]


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_slopes_of_pair_losses_are_differences(name):
    rng = np.random.default_rng(len(name))
    lengths = [3, 2, 4, 4]
    x, ref, kl = ragged(rng, lengths), ragged(rng, lengths), [np.abs(r) for r in ragged(rng, lengths)]
    others = dict(beta=0.3, loss=name, kl_from_reference=kl if name.startswith("tdpo") else None)
    loss = losses.preference_loss(x, ref, **others)
    for i, n in enumerate(lengths):
        for h in range(n):
            step = lambda e: [r + e * (np.arange(len(r)) == h) * (k == i) for k, r in enumerate(x)]
            up, down = (losses.preference_loss(step(e), ref, **others).value for e in (1e-6, -1e-6))
            assert loss.grad["log_prob"][i][h] == pytest.approx((up - down) / 2e-6, abs=1e-7)


def test_pair_losses_are_their_formulas():
    rng = np.random.default_rng(0)
    lengths = [3, 2, 5, 1]
    x, ref = ragged(rng, lengths), ragged(rng, lengths)
    ratio = np.array([a.sum() - b.sum() for a, b in zip(x, ref)])
    margin = ratio[::2] - ratio[1::2]
    assert losses.preference_loss(x, ref, beta=0.3).value == pytest.approx(-log_expit(0.3 * margin).mean(), rel=1e-12)
    assert losses.preference_loss(x, ref, beta=0.3, loss="ipo").value == pytest.approx(((margin - 1 / 0.6) ** 2).mean(), rel=1e-12)
    per_token = np.array([a.mean() for a in x])
    simpo = -log_expit(2 * (per_token[::2] - per_token[1::2]) - 0.4).mean()
    assert losses.preference_loss(x, beta=2.0, loss={"simpo": {"gamma": 0.4}}).value == pytest.approx(simpo, rel=1e-12)
    good = np.array([1, 0, 0, 1])
    kto = np.where(good, 1.5 * expit(-0.3 * (ratio - 0.1)), 0.5 * expit(0.3 * (ratio - 0.1))).mean()
    found = losses.kto_loss(x, ref, good, beta=0.3, z0=0.1, desirable_weight=1.5, undesirable_weight=0.5)
    assert found.value == pytest.approx(kto, rel=1e-12)
    total = np.array([r.sum() for r in x])
    assert losses.reward_loss(x).value == pytest.approx(-log_expit(total[::2] - total[1::2]).mean(), rel=1e-12)
    assert losses.sft_loss(x).value == pytest.approx(-np.concatenate(x).mean(), rel=1e-12)


def test_losses_are_those_of_a_torch_trainer():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    lengths = [5, 3, 4, 2]
    shape = (4, 5)
    x = torch.tensor(rng.normal(size=shape) - 1, requires_grad=True)
    old, ref, adv = (torch.tensor(rng.normal(size=shape) - 1) for _ in range(3))
    ent = torch.tensor(np.abs(rng.normal(size=shape)), requires_grad=True)
    mask = torch.arange(5)[None] < torch.tensor(lengths)[:, None]
    rows = lambda t: rto.rows(t.detach(), lengths)
    ratio = (x - old).exp()
    surrogate = torch.maximum(-ratio * adv, -ratio.clamp(0.8, 1.28) * adv)
    d = ref - x
    per_token = surrogate - 0.01 * ent + 0.04 * (d.exp() - 1 - d)
    grpo = ((per_token * mask).sum(1) / mask.sum(1)).mean()
    grpo.backward()
    found = losses.policy_loss(
        rows(x), rows(adv), rows(old), clip_low=0.2, clip_high=0.28, aggregation="sequence_mean", kl="k3", beta=0.04,
        ref_log_prob=rows(ref), entropy=rows(ent), entropy_bonus=0.01,
    )
    assert found.value == pytest.approx(grpo.item(), rel=1e-12)
    np.testing.assert_allclose(rto.pad(found.grad["log_prob"]), x.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(rto.pad(found.grad["entropy"]), ent.grad.numpy(), atol=1e-12)
    x.grad = None
    log_ratio = ((x - ref) * mask).sum(1)
    dpo = -torch.nn.functional.logsigmoid(0.1 * (log_ratio[::2] - log_ratio[1::2])).mean()
    dpo.backward()
    found = losses.preference_loss(rows(x), rows(ref), beta=0.1)
    assert found.value == pytest.approx(dpo.item(), rel=1e-12)
    np.testing.assert_allclose(rto.pad(found.grad["log_prob"]), x.grad.numpy(), atol=1e-12)


def test_rows_and_padding_are_each_others_inverse():
    rng = np.random.default_rng(0)
    table, lengths = rng.normal(size=(3, 4)), [4, 1, 2]
    mask = np.arange(4) < np.array(lengths)[:, None]
    for given in (lengths, mask, mask.astype(int)):
        cut = rto.rows(table, given)
        assert [len(r) for r in cut] == lengths
        np.testing.assert_array_equal(rto.pad(cut), table * mask)
    assert rto.pad([]).shape == (0, 0)
    full = [row for row in table]
    for a, b in zip(advantages.reward_to_go(table), advantages.reward_to_go(full)):
        np.testing.assert_array_equal(a, b)


GOOD = [[-1.0, -0.5], [-1.0, -0.2, -0.1]]
CALLS = {
    "policy_loss": lambda v, **o: losses.policy_loss(v, GOOD, GOOD, **o),
    "policy_loss advantages": lambda v, **o: losses.policy_loss(GOOD, v, GOOD, **o),
    "policy_loss old": lambda v, **o: losses.policy_loss(GOOD, GOOD, v, **o),
    "value_loss": lambda v, **o: losses.value_loss(GOOD, v, **o),
    "sft_loss": lambda v, **o: losses.sft_loss(v, **o),
    "preference_loss": lambda v, **o: losses.preference_loss(v, GOOD, beta=0.1),
    "preference_loss ref": lambda v, **o: losses.preference_loss(GOOD, v, beta=0.1),
    "kto_loss": lambda v, **o: losses.kto_loss(v, GOOD, [True, False], beta=0.1),
    "reward_loss": lambda v, **o: losses.reward_loss(v),
    "gae": lambda v, **o: advantages.gae(v, GOOD),
    "gae values": lambda v, **o: advantages.gae(GOOD, v),
    "reward_to_go": lambda v, **o: advantages.reward_to_go(v),
    "remax": lambda v, **o: advantages.remax(v, [0.0, 0.0]),
    "leave_one_out_of_score": lambda v, **o: advantages.leave_one_out_of_score(v, [0.0, 1.0], 2),
    "whiten": lambda v, **o: advantages.whiten(v),
    "token_rewards": lambda v, **o: rto.token_rewards("ppo", v, scores=[0.0, 1.0]),
    "token_rewards dpo": lambda v, **o: rto.token_rewards("rto", GOOD, dpo_log_prob=v, beta1=0.1),
}
WRONG = {
    "none": None,
    "a number": 1.0,
    "text": "rows",
    "objects": [[object(), 1], [1, 1, 1]],
    "nan": [[np.nan, 1.0], [1.0, 1.0, 1.0]],
    "inf": [[np.inf, 1.0], [1.0, 1.0, 1.0]],
    "complex": [np.zeros(2, complex), np.zeros(3, complex)],
    "one row": [[0.0, 0.0]],
    "empty": [],
    "three axes": np.zeros((2, 2, 2)),
    "tables": [np.zeros((2, 2)), np.zeros((3, 3))],
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", WRONG)
def test_bad_rows_are_one_line(call, kind):
    fine = {"one row": {"policy_loss", "sft_loss", "reward_to_go", "whiten"}, "empty": {"reward_to_go", "gae"}}
    try:
        CALLS[call](WRONG[kind])
    except ValueError as e:
        assert "\n" not in str(e) and len(str(e)) > 5
    else:
        assert call in fine.get(kind, ()), "was taken"


def test_non_contiguous_and_single_precision_rows_are_read():
    wide = np.arange(12.0).reshape(2, 6)
    want = advantages.reward_to_go(np.ascontiguousarray(wide[:, ::2]))
    for same in (wide[:, ::2], wide.astype(np.float32)[:, ::2], [list(r[::2]) for r in wide], np.asfortranarray(wide[:, ::2])):
        assert np.array_equal(advantages.reward_to_go(same), want)


def test_bad_choices_are_named():
    for call, line in [
        (lambda: losses.policy_loss(GOOD, GOOD), "old_log_prob"),
        (lambda: losses.policy_loss(GOOD, GOOD, GOOD, ratio="tokens"), "ratio"),
        (lambda: losses.policy_loss(GOOD, GOOD, GOOD, ratio="capped"), "cap_high"),
        (lambda: losses.policy_loss(GOOD, GOOD, GOOD, aggregation="mean"), "aggregation"),
        (lambda: losses.policy_loss(GOOD, GOOD, GOOD, aggregation="constant"), "length"),
        (lambda: losses.policy_loss(GOOD, GOOD, GOOD, length=3), "length"),
        (lambda: losses.policy_loss(GOOD, GOOD, GOOD, kl="k3"), "ref_log_prob"),
        (lambda: losses.policy_loss(GOOD, GOOD, GOOD, ref_log_prob=GOOD), "kl"),
        (lambda: losses.policy_loss(GOOD, GOOD, GOOD, kl="k4", ref_log_prob=GOOD), "kl"),
        (lambda: losses.policy_loss(GOOD, GOOD, GOOD, entropy_bonus=0.1), "entropy"),
        (lambda: losses.policy_loss(GOOD, GOOD, GOOD, mask=[[1, 2], [1, 1, 1]]), "mask"),
        (lambda: losses.policy_loss(GOOD, GOOD, GOOD, clip_low=-1.0), "clip"),
        (lambda: losses.policy_loss(GOOD, GOOD, GOOD, dual_clip=0.5), "dual_clip"),
        (lambda: losses.value_loss(GOOD, GOOD, clip=0.2), "old_values"),
        (lambda: losses.preference_loss(GOOD, beta=0.1), "ref_log_prob"),
        (lambda: losses.preference_loss(GOOD, GOOD, beta=0.0), "beta"),
        (lambda: losses.preference_loss(GOOD, GOOD, beta=0.1, loss="dpo2"), "loss"),
        (lambda: losses.preference_loss(GOOD * 2, GOOD * 2, beta=0.1, loss="kto"), "loss"),
        (lambda: losses.preference_loss(GOOD, GOOD, beta=0.1, loss="tdpo1"), "kl_from_reference"),
        (lambda: losses.preference_loss(GOOD[:1], GOOD[:1], beta=0.1), "log_prob"),
        (lambda: losses.kto_loss(GOOD, GOOD, [True, 3], beta=0.1), "desirable"),
        (lambda: losses.kto_loss(GOOD, GOOD, [True], beta=0.1), "desirable"),
        (lambda: losses.reward_loss(GOOD, "first"), "readout"),
        (lambda: advantages.gae(GOOD, GOOD, gamma=2.0), "gamma"),
        (lambda: advantages.gae(GOOD, GOOD, last_values=[0.0]), "last_values"),
        (lambda: advantages.gae(GOOD, GOOD, mask=GOOD), "mask"),
        (lambda: advantages.gae(GOOD, GOOD, mask_rule="skip"), "mask_rule"),
        (lambda: advantages.leave_one_out([1.0, 2.0, 3.0], 2), "group"),
        (lambda: advantages.leave_one_out([1.0, 2.0], 1), "group"),
        (lambda: advantages.leave_one_out([1.0, np.nan], 2), "return"),
        (lambda: advantages.group_relative([1.0, 2.0], 2, spread="std"), "spread"),
        (lambda: advantages.group_relative([1.0, 2.0], 2, eps=0.0), "eps"),
        (lambda: advantages.whiten(GOOD, std="mean"), "std"),
        (lambda: rto.token_rewards("grpo", GOOD), "method"),
        (lambda: rto.token_rewards("rto", GOOD), "dpo_log_prob"),
        (lambda: rto.token_rewards("rto", GOOD, dpo_log_prob=GOOD), "beta1"),
        (lambda: rto.token_rewards("ppo", GOOD), "scores"),
        (lambda: rto.token_rewards("ppo", GOOD, scores=[1.0, 2.0], beta2=0.1), "log_prob"),
        (lambda: rto.token_rewards("rto_released", GOOD, scores=[0.0, 0.0], dpo_log_prob=GOOD, beta1=1.0), "clip"),
        (lambda: rto.rows(np.zeros((2, 3)), [4, 1]), r"lengths\[0\]"),
        (lambda: rto.rows(np.zeros((2, 3)), [[1, 0, 1], [1, 1, 1]]), "lengths"),
        (lambda: rto.rows(np.zeros((2, 3)), [1]), "lengths"),
        (lambda: rto.rows(None, [1]), "padded"),
        (lambda: rto.pad([[1.0], None]), r"rows\[1\]"),
    ]:
        with pytest.raises(ValueError, match=line) as refused:
            call()
        assert "\n" not in str(refused.value)
