"""Conformance vectors for policy-gradient losses: numbers in, numbers that a trainer must find out.

    python generate.py            writes vectors.json and vectors.safetensors beside this file
    python generate.py --check    compares with what is there and with the formulas' older golden file; writes nothing

Every derivative is taken by complex step from the loss itself, so that no formula for a slope is written down here. numpy only
(and safetensors, to write the second file). The keys of a recipe are explained in README.md, their types in schema.json.
"""

import json
import os
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
STEP = 1e-30
LENGTHS = [6, 4, 2, 5, 3, 6]
N, T = len(LENGTHS), max(LENGTHS)

# Every key of a recipe with the value that means "not used".
EMPTY = dict(
    group_size=1, reward="sentence", score_clip=None, beta1=None, dpo_clip=None, kl_placement=None, kl_estimator=None, beta=0.0,
    advantage="reward_to_go", std=None, eps=None, gamma=1.0, lam=None, mask_rule="pass_over", whitening=None,
    ratio="token", clip_low=None, clip_high=None, dual_clip=None, cap_low=None, cap_high=None,
    aggregation="sequence_sum", length=None, value_clip=None,
)


def recipe(**keys):
    unknown = set(keys) - set(EMPTY)
    assert not unknown, unknown
    out = dict(EMPTY, **keys)
    if out["ratio"] in ("token", "sequence", "geometric_mean"):
        out["clip_low"] = out["clip_low"] if out["clip_low"] is not None else 0.2
        out["clip_high"] = out["clip_high"] if out["clip_high"] is not None else 0.2
    if out["advantage"] == "gae":
        out["lam"] = 1.0 if out["lam"] is None else out["lam"]
        out["value_clip"] = 0.2 if out["value_clip"] is None else out["value_clip"]
    if out["aggregation"] in ("constant", "per_batch"):
        out["length"] = T
    return out


def all_recipes(score_clip):
    """`score_clip` is OpenRLHF's `--reward.clip_range`: 10, or none where no score reaches it."""
    k1 = dict(kl_placement="reward", kl_estimator="k1", beta=0.1)
    k3 = dict(kl_placement="loss", kl_estimator="k3", beta=0.1)
    corrected = dict(kl_placement="loss", kl_estimator="k3_corrected", beta=0.1)
    z = lambda eps=1e-4: dict(group_size=3, advantage="group", std="group", eps=eps)
    centred = dict(group_size=3, advantage="group")
    tokens = dict(aggregation="token_mean")
    rows = dict(aggregation="sequence_mean")
    gae = lambda lam, clip=0.2: dict(advantage="gae", lam=lam, value_clip=clip)
    rto = dict(beta1=0.1, kl_placement="reward", kl_estimator="k1", beta=0.03, whitening="biased", **gae(0.95), **tokens)
    return {
        "REINFORCE, k1 in reward, sum": recipe(**k1, ratio="log_prob"),
        "TRL RLOO": recipe(**k1, group_size=3, advantage="leave_one_out", ratio="sequence"),
        "OpenRLHF RLOO": recipe(**k1, **tokens, group_size=3, advantage="leave_one_out_of_score"),
        "TRL GRPO (loss_type=dapo)": recipe(**z(), **k3, **tokens),
        "TRL GRPO (dapo), bias-corrected k3": recipe(**z(), **corrected, **tokens),
        "TRL GRPO (loss_type=grpo)": recipe(**z(), **k3, **rows),
        "TRL GRPO (loss_type=dr_grpo, scale_rewards=none)": recipe(**centred, aggregation="constant"),
        "verl GRPO": recipe(**z(1e-6), **k3, **tokens, dual_clip=3.0),
        "verl Dr. GRPO (seq-mean-token-sum-norm)": recipe(**centred, aggregation="per_batch", dual_clip=3.0),
        "DAPO": recipe(**z(1e-6), **tokens, clip_high=0.28, dual_clip=3.0),
        "GSPO": recipe(**z(), **rows, ratio="geometric_mean", clip_low=3e-4, clip_high=4e-4),
        "GSPO, wide clip": recipe(**z(), **rows, ratio="geometric_mean"),
        "CISPO (TRL, cap 5)": recipe(**z(), **tokens, ratio="capped", cap_low=0.0, cap_high=5.0),
        "CISPO (TRL, epsilon_high left at 0.2)": recipe(**z(), **tokens, ratio="capped", cap_low=0.0, cap_high=0.2),
        "CISPO (verl, 0.8..1.28)": recipe(**z(1e-6), **tokens, ratio="capped", cap_low=0.8, cap_high=1.28),
        "OpenRLHF PPO": recipe(**k1, **gae(1.0, 0.5), **tokens, whitening="biased_clamped", score_clip=score_clip),
        "verl PPO": recipe(**k1, **gae(0.95, 0.5), **tokens, whitening="unbiased", dual_clip=3.0),
        "OpenRLHF REINFORCE++": recipe(**k1, **tokens, whitening="biased_clamped", score_clip=score_clip),
        "verl REINFORCE++": recipe(**k1, **tokens, mask_rule="reset", whitening="unbiased", dual_clip=3.0),
        "ReMax (verl)": recipe(**k1, **tokens, advantage="remax", dual_clip=3.0),
        "RTO (paper; toolkit defaults)": recipe(reward="dpo", **rto),
        "DPPO of the paper": recipe(reward="dpo_at_end", **rto),
        "RTO as released": recipe(
            **rows, **gae(0.95), reward="released", beta1=0.05, dpo_clip=0.05, kl_placement="reward", kl_estimator="k1", beta=0.01,
            whitening="biased_clamped", score_clip=10.0),
        "k2 in loss, RLOO": recipe(group_size=3, advantage="leave_one_out", kl_placement="loss", kl_estimator="k2", beta=0.1),
        "GAE, masked tokens as steps of value 0 (OpenRLHF rule)": recipe(**k1, **gae(0.95), **tokens, mask_rule="step_of_value_zero"),
        "GAE, masked tokens as steps with their values": recipe(**k1, **gae(0.95), **tokens, mask_rule="step"),
    }


def more_recipes():
    """Rules of today's releases that the older ones do not have, and the clips again where a response has one ratio."""
    z = dict(group_size=3, advantage="group", std="group")
    k1 = dict(kl_placement="reward", kl_estimator="k1", beta=0.1)
    return {
        "verl REINFORCE++ (0.9.1: the return is carried over)": recipe(**k1, aggregation="token_mean", whitening="unbiased", dual_clip=3.0),
        "verl Dr. GRPO (0.9.1: also divided by rows)": recipe(group_size=3, advantage="group", aggregation="constant", dual_clip=3.0),
        "TRL GRPO (scale_rewards=batch)": recipe(group_size=3, advantage="group", std="batch", eps=1e-4, aggregation="token_mean"),
        "TRL RLOO, dual clip 3": recipe(**k1, group_size=3, advantage="leave_one_out", ratio="sequence", dual_clip=3.0),
        "GSPO, dual clip 3": recipe(**z, eps=1e-4, aggregation="sequence_mean", ratio="geometric_mean", dual_clip=3.0),
        "verl GRPO, k3+": recipe(
            **z, eps=1e-6, kl_placement="loss", kl_estimator="k3_plus", beta=0.1, aggregation="token_mean", dual_clip=3.0),
        "OpenRLHF GRPO (group_norm, k3 in loss)": recipe(
            **z, eps=1e-9, kl_placement="loss", kl_estimator="k3", beta=0.1, aggregation="token_mean"),
        "OpenRLHF GRPO, unbiased_gradient": recipe(
            **z, eps=1e-9, kl_placement="loss", kl_estimator="k3_corrected", beta=0.1, aggregation="token_mean"),
        "OpenRLHF GRPO, sequence mean": recipe(
            **z, eps=1e-9, kl_placement="loss", kl_estimator="k3", beta=0.1, aggregation="sequence_mean"),
        "OpenRLHF GRPO, dual clip 3": recipe(**z, eps=1e-9, aggregation="token_mean", dual_clip=3.0),
        "OpenRLHF GSPO": recipe(**z, eps=1e-9, aggregation="sequence_mean", ratio="geometric_mean"),
        "k1 in loss, RLOO": recipe(group_size=3, advantage="leave_one_out", kl_placement="loss", kl_estimator="k1", beta=0.1),
    }


def near():
    """Rows in which few clips bind: ratios from .7 to 1.4."""
    k = np.arange(N * T, dtype=float).reshape(N, T)
    lp = -0.9 + 0.6 * np.sin(1.1 * k + 0.2)
    v = 0.4 * np.cos(1.9 * k + 0.1)
    return dict(
        log_prob=lp, old_log_prob=lp + 0.35 * np.cos(2.3 * k), ref_log_prob=-1.1 + 0.5 * np.cos(0.8 * k),
        dpo_log_prob=-1.0 + 0.5 * np.sin(0.9 * k + 0.7), values=v, old_values=v + 0.3 * np.sin(1.3 * k),
        scores=np.array([1.0, -0.5, 0.25, 0.7, 0.7, -1.2]), greedy_scores=np.array([0.3, 0.3, 0.3, -0.1, -0.1, -0.1]))


def far():
    """Rows in which every clip binds somewhere: ratios from .15 to 6.7, a mean ratio above 3, scores to 14, values 1.2 apart."""
    k = np.arange(N * T, dtype=float).reshape(N, T)
    old = -3.6 + 0.7 * np.sin(0.7 * k + 0.3)
    away = 1.9 * np.cos(2.3 * k + 0.4)
    away[1, :] = 1.3 + 0.2 * np.cos(k[1])      # a whole response grown likelier, with a bad score
    away[2, :] = -0.9 + 0.3 * np.cos(k[2])     # and one grown less likely
    v = 0.4 * np.cos(1.9 * k + 0.1)
    return dict(
        log_prob=old + away, old_log_prob=old, ref_log_prob=old + 0.9 * np.cos(1.7 * k + 0.5),
        dpo_log_prob=old + 1.1 * np.sin(0.9 * k + 0.7), values=v + 1.2 * np.sin(1.3 * k), old_values=v,
        scores=np.array([14.0, -11.5, -2.5, 3.25, 0.75, -12.5]), greedy_scores=np.array([0.3, 0.3, 0.3, -0.1, -0.1, -0.1]))


def distant():
    """Rows whose log-ratio to the reference runs to 5: k3 beyond 10."""
    out = far()
    k = np.arange(N * T, dtype=float).reshape(N, T)
    out["ref_log_prob"] = out["log_prob"] + 3.2 * np.cos(1.7 * k + 0.5)
    return out


def pad_mask():
    return (np.arange(T)[None] < np.array(LENGTHS)[:, None]).astype(float)


def tool_mask():
    m = pad_mask()
    m[0, 2:4] = 0
    m[3, 1] = 0
    return m


# ------------------------------------------------------------------------------------------------ the rules


def last_of(mask):
    return np.array([np.flatnonzero(row).max() for row in mask])


def token_rewards(c, x, mask):
    end = np.zeros((N, T))
    end[np.arange(N), last_of(mask)] = 1
    scores = x["scores"] if c["score_clip"] is None else np.clip(x["scores"], -c["score_clip"], c["score_clip"])
    paid = end * scores[:, None]
    if c["reward"] != "sentence":
        ratio = c["beta1"] * (x["dpo_log_prob"] - x["ref_log_prob"]) * mask
        paid = {
            "dpo": lambda: ratio,
            "dpo_at_end": lambda: end * ratio.sum(1, keepdims=True),
            "released": lambda: np.clip(ratio, -c["dpo_clip"], c["dpo_clip"]) + paid,
        }[c["reward"]]()
    if c["kl_placement"] == "reward":
        paid = paid - c["beta"] * (x["old_log_prob"] - x["ref_log_prob"]) * mask
    return paid * mask


def to_go(r):
    return np.cumsum(r[:, ::-1], axis=1)[:, ::-1]


def gae(c, r, values, mask):
    """Backwards from the last column. Where masked tokens are passed over, neither the sum nor the next value changes at them."""
    out = np.zeros((N, T))
    for i in range(N):
        following, carried = 0.0, 0.0
        for h in reversed(range(T)):
            if c["mask_rule"] == "pass_over" and mask[i, h] == 0:
                continue
            carried = r[i, h] + c["gamma"] * following - values[i, h] + c["gamma"] * c["lam"] * carried
            following = values[i, h]
            out[i, h] = carried
    return out * mask


def advantages(c, x, r, mask):
    """Advantages and, with a critic, returns."""
    groups = [slice(k, k + c["group_size"]) for k in range(0, N, c["group_size"])]
    kind = c["advantage"]
    returns = None
    if kind == "gae":
        present = {"pass_over": mask, "step_of_value_zero": mask, "step": pad_mask()}[c["mask_rule"]]
        values = x["old_values"] * present
        a = gae(c, r, values, mask)
        returns = (a + values) * mask
    elif kind == "reward_to_go" and c["mask_rule"] == "reset":
        a = np.zeros((N, T))
        for i in range(N):
            running = 0.0
            for h in reversed(range(T)):
                running += r[i, h]
                a[i, h] = running * mask[i, h]
                running *= mask[i, h]
    elif kind == "reward_to_go":
        a = to_go(r) * mask
    elif kind == "remax":
        a = (to_go(r) - x["greedy_scores"][:, None]) * mask
    else:
        a = np.zeros((N, T))
        for g in groups:
            if kind == "leave_one_out_of_score":
                s = x["scores"][g]
                others = (s.sum() - s) / (len(s) - 1)
                a[g] = (to_go(r[g]) - others[:, None]) * mask[g]
                continue
            total = r[g].sum(1)
            if kind == "leave_one_out":
                row = total - (total.sum() - total) / (len(total) - 1)
            else:
                row = total - total.mean()
            if c["std"] == "group":
                row = row / (total.std(ddof=1) + c["eps"])
            if c["std"] == "batch":
                row = row / (r.sum(1).std(ddof=1) + c["eps"])
            a[g] = row[:, None] * mask[g]
    if c["whitening"]:
        on = a[mask > 0]
        var = on.var(ddof=1 if c["whitening"] == "unbiased" else 0)
        var = max(var, 1e-8) if c["whitening"] == "biased_clamped" else var + 1e-8
        a = (a - on.mean()) / np.sqrt(var) * mask
    return a, returns


def token_weights(c, mask):
    per_row = mask.sum(1, keepdims=True)
    return {
        "token_mean": lambda: mask / mask.sum(),
        "sequence_mean": lambda: mask / (per_row * N),
        "sequence_sum": lambda: mask / N,
        "constant": lambda: mask / (N * c["length"]),
        "per_batch": lambda: mask / c["length"],
    }[c["aggregation"]]()


def cut(z, low, high):
    """Clamps by the real part, and drops the derivative where it does."""
    r = np.real(z)
    return np.where(r < low, low + 0j, np.where(r > high, high + 0j, z))


def smaller(a, b):
    return np.where(np.real(b) < np.real(a), b, a)


def policy_loss(c, x, a, mask, lp):
    """The loss at complex log-probs; `x["log_prob"]` stands for what is detached."""
    now, old, ref = x["log_prob"], x["old_log_prob"], x["ref_log_prob"]
    w = token_weights(c, mask)

    def surrogate(rho, adv):
        out = smaller(rho * adv, cut(rho, 1 - c["clip_low"], 1 + c["clip_high"]) * adv)
        if c["dual_clip"] is not None:
            held = np.where(np.real(out) < c["dual_clip"] * adv, c["dual_clip"] * adv + 0j, out)
            out = np.where(adv < 0, held, out)
        return -out

    if c["ratio"] == "log_prob":
        total = (w * -a * lp).sum()
    elif c["ratio"] == "capped":
        weight = np.clip(np.exp(now - old), c["cap_low"], c["cap_high"])
        total = (w * -weight * a * lp).sum()
    elif c["ratio"] == "token":
        total = (w * surrogate(np.exp(lp - old), a)).sum()
    else:
        row = ((lp - old) * mask).sum(1)
        first = np.array([a[i, np.flatnonzero(mask[i]).min()] for i in range(N)])
        if c["ratio"] == "geometric_mean":
            total = (w.sum(1) * surrogate(np.exp(row / mask.sum(1)), first)).sum()
        else:
            total = surrogate(np.exp(row), first).mean()
    if c["kl_placement"] == "loss":
        d = lp - ref
        k3 = np.exp(-d) - 1 + d
        k = {
            "k1": lambda: d,
            "k2": lambda: d * d / 2,
            "k3": lambda: k3,
            "k3_corrected": lambda: np.exp(lp - old) * k3,
            # The value of k3 with the derivative of k2.
            "k3_plus": lambda: np.real(k3) + (d * d / 2 - np.real(d * d / 2)),
        }[c["kl_estimator"]]()
        total = total + c["beta"] * (w * k).sum()
    return total


def value_loss(c, x, returns, mask, v):
    w = token_weights(c, mask)
    old = x["old_values"]
    held = old + cut(v - old, -c["value_clip"], c["value_clip"])
    plain, clipped = (v - returns) ** 2, (held - returns) ** 2
    worse = np.where(np.real(clipped) > np.real(plain), clipped, plain)
    return 0.5 * (w * worse).sum()


def slope(f, at, mask):
    out = np.zeros((N, T))
    for i, h in zip(*np.nonzero(mask)):
        z = at.astype(complex)
        z[i, h] += STEP * 1j
        out[i, h] = np.imag(f(z)) / STEP
    return out


def reached(c, x, a, returns, mask):
    """How many tokens (rows, where a row has one ratio) each branch holds."""
    out = {}
    count = lambda name, where: out.__setitem__(name, int(np.sum(where)))
    d = x["log_prob"] - x["old_log_prob"]
    on = mask > 0
    if c["ratio"] in ("token", "sequence", "geometric_mean"):
        rho, adv = np.exp(d), a
        if c["ratio"] != "token":
            row = (d * mask).sum(1)
            rho = np.exp(row / mask.sum(1) if c["ratio"] == "geometric_mean" else row)
            adv, on = np.array([a[i, np.flatnonzero(mask[i]).min()] for i in range(N)]), np.ones(N, bool)
        high, low = on & (adv > 0) & (rho > 1 + c["clip_high"]), on & (adv < 0) & (rho < 1 - c["clip_low"])
        count("clipped_high", high)
        count("clipped_low", low)
        if c["dual_clip"] is not None:
            count("dual_clip", on & (adv < 0) & (rho > c["dual_clip"]))
        count("live", on & ~high & ~low & ~((adv < 0) & (rho > (c["dual_clip"] or np.inf))))
    if c["ratio"] == "capped":
        count("cap_high", on & (np.exp(d) > c["cap_high"]))
        count("cap_low", on & (np.exp(d) < c["cap_low"]))
    if returns is not None:
        v, old = x["values"], x["old_values"]
        held = old + np.clip(v - old, -c["value_clip"], c["value_clip"])
        count("value_clip", (mask > 0) & ((held - returns) ** 2 > (v - returns) ** 2))
    if c["score_clip"] is not None:
        count("score_clip", np.abs(x["scores"]) > c["score_clip"])
    if c["reward"] == "released":
        count("dpo_clip", (mask > 0) & (np.abs(c["beta1"] * (x["dpo_log_prob"] - x["ref_log_prob"])) > c["dpo_clip"]))
    return out


def entry(c, x, mask):
    r = token_rewards(c, x, mask)
    a, returns = advantages(c, x, r, mask)
    f = lambda z: policy_loss(c, x, a, mask, z)
    out = dict(
        config=c, reached=reached(c, x, a, returns, mask), token_rewards=r, advantages=a,
        loss=float(np.real(f(x["log_prob"].astype(complex)))), dloss_dlogprob=slope(f, x["log_prob"], mask))
    if returns is not None:
        g = lambda z: value_loss(c, x, returns, mask, z)
        out.update(returns=returns, value_loss=float(np.real(g(x["values"].astype(complex)))), dvalueloss_dvalue=slope(g, x["values"], mask))
    return out


def build():
    sets = []
    for name, x, mask, clip, more in (
        ("padding", near(), pad_mask(), None, False),
        ("tool tokens masked", near(), tool_mask(), None, False),
        ("far", far(), pad_mask(), 10.0, True),
        ("far, tool tokens masked", far(), tool_mask(), 10.0, True),
        ("distant reference", distant(), pad_mask(), 10.0, True),
    ):
        recipes = all_recipes(clip)
        if more:
            recipes.update(more_recipes())
        if name == "distant reference":
            recipes = {n: c for n, c in recipes.items() if c["kl_placement"] == "loss"}
        sets.append(dict(
            name=name, lengths=LENGTHS, mask=mask, inputs=x, group_ids=[0, 0, 0, 1, 1, 1],
            recipes={n: entry(c, x, mask) for n, c in recipes.items()}))
    return dict(format=1, sets=sets)


# ------------------------------------------------------------------------------------------------ files


def plain(v):
    if isinstance(v, dict):
        return {k: plain(u) for k, u in v.items()}
    if isinstance(v, (list, tuple)):
        return [plain(u) for u in v]
    if isinstance(v, np.ndarray):
        return plain(v.tolist())
    return 0.0 if isinstance(v, float) and v == 0 else v


def text(doc):
    """JSON with every row of numbers on one line."""
    def write(v, depth):
        pad, flat = " " * depth, json.dumps(v)
        if not isinstance(v, (dict, list)) or not v or len(flat) < 160 and "[[" not in flat and '": {' not in flat:
            return flat
        if isinstance(v, dict):
            return "{\n" + ",\n".join(f"{pad} {json.dumps(k)}: {write(u, depth + 1)}" for k, u in v.items()) + f"\n{pad}}}"
        return "[\n" + ",\n".join(f"{pad} {write(u, depth + 1)}" for u in v) + f"\n{pad}]"
    return write(doc, 0) + "\n"


def tensors(doc):
    """`SET/inputs/NAME` and `SET/recipes/RECIPE/NAME`, float64; the configurations are the file's metadata, one JSON object."""
    out, configs = {}, {}
    for s in doc["sets"]:
        out[f"{s['name']}/mask"] = np.array(s["mask"])
        for k, v in s["inputs"].items():
            out[f"{s['name']}/inputs/{k}"] = np.array(v, float)
        for n, e in s["recipes"].items():
            configs[f"{s['name']}/recipes/{n}"] = e["config"]
            for k, v in e.items():
                if k not in ("config", "reached"):
                    out[f"{s['name']}/recipes/{n}/{k}"] = np.array(v, float)
    meta = dict(format="1", configs=json.dumps(configs), lengths=json.dumps(LENGTHS), group_ids=json.dumps([0, 0, 0, 1, 1, 1]))
    return out, meta


def gap(a, b):
    return float(np.max(np.abs(np.array(a, float) - np.array(b, float))))


def check_golden(doc):
    """The first two sets beside the golden file, which other code wrote."""
    path = os.path.join(HERE, "..", "tests", "golden", "estimators.json")
    with open(path) as f:
        golden = json.load(f)["conformance"]
    worst = 0.0
    for s in golden["sets"]:
        ours = next(o for o in doc["sets"] if o["name"] == s["name"])
        mask = np.array(s["mask"])
        for n, e in s["recipes"].items():
            for k, v in e.items():
                if k in ("config", "value_clip"):
                    continue
                m = mask if np.ndim(v) == 2 else 1.0
                worst = max(worst, gap(np.array(v) * m, np.array(ours["recipes"][n][k]) * m))
    assert worst < 1e-11, worst
    return worst


def main():
    doc = plain(build())
    print(f"against tests/golden/estimators.json: largest gap {check_golden(doc):.1e}")
    path = os.path.join(HERE, "vectors.json")
    if "--check" in sys.argv:
        with open(path) as f:
            there = json.load(f)
        for s, t in zip(doc["sets"], there["sets"], strict=True):
            assert s["name"] == t["name"] and list(s["recipes"]) == list(t["recipes"])
            for n in s["recipes"]:
                for k, v in s["recipes"][n].items():
                    w = t["recipes"][n][k]
                    assert v == w if k in ("config", "reached") else gap(v, w) < 1e-12, (s["name"], n, k)
        print("vectors.json holds what this program computes")
        return
    with open(path, "w") as f:
        f.write(text(doc))
    from safetensors.numpy import save_file
    arrays, meta = tensors(doc)
    save_file(arrays, os.path.join(HERE, "vectors.safetensors"), metadata=meta)
    print(f"{sum(len(s['recipes']) for s in doc['sets'])} vectors in vectors.json and vectors.safetensors")


if __name__ == "__main__":
    main()
