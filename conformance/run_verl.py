"""Holds the functions of verl to the vectors.

    pip install verl==0.9.1 torchdata; python run_verl.py [RESULT.json]
"""

import os

os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")

import numpy as np
import torch
from common import EXACT, FLOAT32, Book, stand_in, vectors, where

for package in ("torchdata.stateful_dataloader", "torchdata"):
    stand_in(package)

import verl.trainer.ppo.core_algos as algos
import verl.utils.torch_functional as functional
from verl.trainer.config import AlgoConfig
from verl.workers.config import ActorConfig

torch.set_default_dtype(torch.float64)

AGGREGATION = {
    "token_mean": "token-mean", "sequence_mean": "seq-mean-token-mean", "sequence_sum": "seq-mean-token-sum",
    "constant": "seq-mean-token-sum-norm", "per_batch": "seq-mean-token-sum-norm"}

# What of a vector verl is asked to meet: those of other frameworks where it has the same rule.
RECIPES = (
    "verl GRPO", "verl GRPO, k3+", "DAPO", "GSPO", "GSPO, wide clip", "CISPO (verl, 0.8..1.28)", "CISPO (TRL, cap 5)", "verl PPO",
    "verl REINFORCE++", "verl REINFORCE++ (0.9.1: the return is carried over)", "ReMax (verl)", "k2 in loss, RLOO", "k1 in loss, RLOO",
    "verl Dr. GRPO (seq-mean-token-sum-norm)", "verl Dr. GRPO (0.9.1: also divided by rows)")


def tensor(x):
    return torch.tensor(x, dtype=torch.float64)


def actor(c):
    low, high = c["clip_low"], c["clip_high"]
    if c["ratio"] == "capped":
        low, high = 1 - c["cap_low"], c["cap_high"] - 1
    return ActorConfig(
        strategy="fsdp", rollout_n=1, use_dynamic_bsz=True, clip_ratio=low, clip_ratio_low=low, clip_ratio_high=high,
        # Without a dual clip in the vector its bound is put where no ratio comes.
        clip_ratio_c=c["dual_clip"] or 1e9, loss_agg_mode=AGGREGATION[c["aggregation"]])


def rewards(book, s, name, e, mask):
    """The score at the last token less beta k1, as `apply_kl_penalty` of the trainer has it."""
    c, x = e["config"], s["inputs"]
    paid = torch.zeros_like(mask)
    last = (mask * torch.arange(1, mask.shape[1] + 1)).argmax(1)
    paid[torch.arange(len(last)), last] = tensor(x["scores"])
    if c["kl_placement"] == "reward":
        kl = algos.kl_penalty(tensor(x["old_log_prob"]), tensor(x["ref_log_prob"]), c["kl_estimator"]) * mask
        paid = paid - c["beta"] * kl
        book.compare(s, name, "token_rewards", paid, e["token_rewards"], where(algos.kl_penalty_forward, "return logprob - ref_logprob"))
    return paid


def advantages(book, s, name, e, paid, mask):
    c, x = e["config"], s["inputs"]
    index = np.array(s["group_ids"])
    kind = c["advantage"]
    line = lambda f, text: where(f, text)
    if kind == "gae":
        f = algos.compute_gae_advantage_return
        a, returns = f(paid, tensor(x["old_values"]), mask, c["gamma"], c["lam"])
        book.compare(s, name, "returns", returns * mask, e["returns"], line(f, "returns = advantages + values"))
        at = line(f, "advantages = verl_F.masked_whiten")
    elif kind == "group":
        f = algos.compute_grpo_outcome_advantage
        a, _ = f(paid.clone(), mask, index, epsilon=c["eps"] or 1e-6, norm_adv_by_std_in_grpo=c["std"] is not None)
        at = line(f, "id2std[index[i]] + epsilon" if c["std"] else "scores[i] = scores[i] - id2mean")
        g = algos.compute_grpo_vectorized_outcome_advantage
        b, _ = g(paid.clone(), mask, index, epsilon=c["eps"] or 1e-6, norm_adv_by_std_in_grpo=c["std"] is not None)
        book.compare(s, name, "advantages, vectorised", b * mask, e["advantages"], line(g, "group_mean_std"), FLOAT32)
    elif kind == "leave_one_out":
        f = algos.compute_rloo_outcome_advantage
        a, _ = f(paid.clone(), mask, index)
        at = line(f, "scores[i] = scores[i] * response_num")
        g = algos.compute_rloo_vectorized_outcome_advantage
        b, _ = g(paid.clone(), mask, index)
        book.compare(s, name, "advantages, vectorised", b * mask, e["advantages"], line(g, "def "), FLOAT32)
    elif kind == "remax":
        f = algos.compute_remax_outcome_advantage
        a, _ = f(paid, tensor(x["greedy_scores"]), mask)
        at = line(f, "advantages = returns - reward_baselines")
    else:
        f = algos.compute_reinforce_plus_plus_outcome_advantage
        a, _ = f(paid, mask, config=AlgoConfig(gamma=c["gamma"]))
        at = line(f, "running_return = new_running_return")
    a = a * mask
    book.compare(s, name, "advantages", a, e["advantages"], at)
    return a


def main():
    book = Book("verl")
    for s in vectors():
        mask = tensor(s["mask"])
        for name in RECIPES:
            e = s["recipes"].get(name)
            if e is None:
                continue
            c, x = e["config"], s["inputs"]
            paid = rewards(book, s, name, e, mask)
            advantages(book, s, name, e, paid, mask)
            # Losses start from the vector's advantages, so that a difference above is counted once.
            kind = {"geometric_mean": "gspo", "capped": "cispo"}.get(c["ratio"], "vanilla")
            f, config = algos.get_policy_loss_fn(kind), actor(c)
            lp = tensor(x["log_prob"]).requires_grad_()
            loss, _ = f(tensor(x["old_log_prob"]), lp, tensor(e["advantages"]), mask, config.loss_agg_mode, config)
            at = where(f, {"gspo": "seq_importance_ratio = torch.exp", "cispo": "clipped_ratio = torch.clamp", "vanilla": "clip_pg_losses2 = "}[kind])
            if c["aggregation"] == "per_batch":
                at = where(algos.agg_loss, "/ global_batch_size * dp_size  # seq-mean")
            if c["kl_placement"] == "loss":
                # As `ppo_loss` of verl/workers/utils/losses.py adds it.
                k = algos.kl_penalty(lp, tensor(x["ref_log_prob"]), c["kl_estimator"].replace("_plus", "+"))
                loss = loss + c["beta"] * algos.agg_loss(k, mask, config.loss_agg_mode)
                at += ", " + where(algos.kl_penalty_forward, "return torch.clamp(kld") if c["kl_estimator"].startswith("k3") else ""
            loss.backward()
            # 1e-8 is added to the length of a row.
            tolerance = 1e-8 if c["aggregation"] == "sequence_mean" else EXACT
            book.compare(s, name, "loss", loss, e["loss"], at, tolerance)
            book.compare(s, name, "dloss_dlogprob", lp.grad, e["dloss_dlogprob"], at, tolerance)
            if "value_loss" in e:
                v = tensor(x["values"]).requires_grad_()
                f = algos.compute_value_loss
                loss, _ = f(v, tensor(e["returns"]), tensor(x["old_values"]), mask, c["value_clip"], config.loss_agg_mode)
                loss.backward()
                at = where(f, "vpredclipped = ")
                book.compare(s, name, "value_loss", loss, e["value_loss"], at)
                book.compare(s, name, "dvalueloss_dvalue", v.grad, e["dvalueloss_dvalue"], at)
    fields = ActorConfig.__dataclass_fields__
    names = ["clip_ratio", "clip_ratio_low", "clip_ratio_high", "clip_ratio_c", "loss_agg_mode", "use_kl_loss", "kl_loss_type", "kl_loss_coef"]
    book.rows.append(dict(defaults={n: fields[n].default for n in names}, quantity=None))
    book.write()


if __name__ == "__main__":
    main()
