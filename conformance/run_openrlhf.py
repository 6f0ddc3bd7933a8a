"""Holds the functions of OpenRLHF to the vectors. The experience maker runs without ray, DeepSpeed or vLLM, for which stand-ins are put
where they are not installed.

    pip install --no-deps openrlhf==0.11.2; pip install torch transformers; python run_openrlhf.py [RESULT.json]
"""

from types import SimpleNamespace as Of

import torch
from common import EXACT, FLOAT32, Book, stand_in, vectors, where

for package in (
        "ray", "ray.util.placement_group", "ray.util.scheduling_strategies", "deepspeed", "flash_attn", "flash_attn.bert_padding",
        "flash_attn.utils.distributed", "vllm", "datasets", "optree", "torchdata.stateful_dataloader", "ring_flash_attn",
        "deepspeed.ops.adam", "deepspeed.runtime.zero.partition_parameters", "deepspeed.runtime.zero.offload_config",
        "peft", "peft.tuners.lora", "wandb", "aiohttp", "vllm.utils", "vllm.inputs", "pylatexenc", "bitsandbytes"):
    stand_in(package)

import openrlhf.models.utils as utils
from openrlhf.models.loss import PolicyLoss, ValueLoss, aggregate_loss
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker as Maker

torch.set_default_dtype(torch.float64)

# The estimator, and whether the KL term is in the loss (`--algo.kl.use_loss`) with its estimator and gradient.
RECIPES = {
    "OpenRLHF RLOO": ("rloo", None, False),
    "OpenRLHF PPO": ("gae", None, False),
    "OpenRLHF REINFORCE++": ("reinforce", None, False),
    "OpenRLHF GRPO (group_norm, k3 in loss)": ("group_norm", "k3", False),
    "OpenRLHF GRPO, unbiased_gradient": ("group_norm", "k3", True),
    "OpenRLHF GRPO, sequence mean": ("group_norm", "k3", False),
    "OpenRLHF GRPO, dual clip 3": ("group_norm", None, False),
    "OpenRLHF GSPO": ("group_norm", None, False),
    "k2 in loss, RLOO": (None, "k2", False),
    "k1 in loss, RLOO": (None, "k1", False),
    "GAE, masked tokens as steps of value 0 (OpenRLHF rule)": ("gae", None, False),
}


def tensor(x):
    return torch.tensor(x, dtype=torch.float64)


def maker(c, estimator):
    """An experience maker with the arguments that the method reads."""
    m = object.__new__(Maker)
    advantage = Of(estimator=estimator, gamma=c["gamma"], lambd=c["lam"] or 1.0, no_std_norm=False)
    in_reward = c["kl_placement"] == "reward"
    args = Of(
        algo=Of(advantage=advantage), rollout=Of(n_samples_per_prompt=c["group_size"]), reward=Of(
            clip_range=(-10, 10), overlong_buffer_len=None, stop_properly_penalty_coef=None), data=Of(max_new_tokens=None))
    m.strategy, m.advantage_estimator = Of(args=args), estimator
    m.kl_ctl = Of(value=c["beta"] if in_reward else 0.0)
    return m


def rollout(s, c):
    x, mask = s["inputs"], tensor(s["mask"])
    kl = utils.compute_approx_kl(tensor(x["old_log_prob"]), tensor(x["ref_log_prob"]), kl_estimator="k1").to(torch.float64)
    return Experience(
        action_mask=mask, values=tensor(x["old_values"]), rewards=tensor(x["scores"]), kl=kl, index=list(range(len(mask))),
        response_length=mask.sum(1), info={})


def advantages(book, s, name, e, estimator):
    c = e["config"]
    mask = tensor(s["mask"])
    m = maker(c, estimator)
    at = where(Maker.compute_advantages_and_returns, {
        "rloo": "rewards = rewards - baseline", "gae": "rstd = var.clamp", "reinforce": "rstd = var.clamp", "group_norm": "+ 1e-9"}[estimator])
    # The log-ratios of the KL term are cast to 32 bits, and so are advantages before whitening.
    tolerance = FLOAT32 if c["kl_placement"] == "reward" or c["whitening"] else EXACT
    if estimator == "gae" and not c["whitening"]:
        kl = rollout(s, c).kl
        r = utils.compute_reward(tensor(s["inputs"]["scores"]), c["beta"], kl, action_mask=mask)
        a, returns = m.get_advantages_and_returns(tensor(s["inputs"]["old_values"]), r, mask, c["gamma"], c["lam"])
        at = where(Maker.get_advantages_and_returns, "values = action_mask * values")
        book.compare(s, name, "advantages", a * mask, e["advantages"], at, tolerance)
        book.compare(s, name, "returns", returns * mask, e["returns"], at, tolerance)
        return
    [out] = m.compute_advantages_and_returns([rollout(s, c)])
    book.compare(s, name, "advantages", out.advantages * mask, e["advantages"], at, tolerance)
    if "returns" in e:
        book.compare(s, name, "returns", out.returns * mask, e["returns"], where(Maker.get_advantages_and_returns, "returns = advantages"), tolerance)


def main():
    book = Book("openrlhf")
    for s in vectors():
        x, mask = s["inputs"], tensor(s["mask"])
        for name, (estimator, kl, unbiased) in RECIPES.items():
            e = s["recipes"].get(name)
            if e is None:
                continue
            c = e["config"]
            if estimator:
                advantages(book, s, name, e, estimator)
            if c["aggregation"] == "sequence_sum":
                # It has no sum over tokens: k of every token is compared by a mean of its own.
                terms(book, s, name, c, kl)
                continue
            rows = c["aggregation"] == "sequence_mean"
            f = PolicyLoss(
                clip_eps_low=c["clip_low"], clip_eps_high=c["clip_high"], dual_clip=c["dual_clip"], token_level_loss=not rows,
                policy_loss_type="gspo" if c["ratio"] == "geometric_mean" else "ppo")
            lp = tensor(x["log_prob"]).requires_grad_()
            loss = f(lp, tensor(x["old_log_prob"]), tensor(e["advantages"]), action_mask=mask)[0]
            at = where(PolicyLoss.forward, "clip2 = torch.max" if c["dual_clip"] else "surr2 = ratio.clamp")
            if kl:
                # As `training_step` of openrlhf/trainer/ray/ppo_actor.py adds it: without `token_level_loss`.
                k = utils.compute_approx_kl(lp, tensor(x["ref_log_prob"]), tensor(x["old_log_prob"]), kl, unbiased)
                loss = loss + c["beta"] * aggregate_loss(k, mask)
                at = where(utils.compute_approx_kl, "return value.detach()" if unbiased else "value = value.clamp(")
                if rows:
                    at = "openrlhf/trainer/ray/ppo_actor.py:331"
            loss.backward()
            # Log-ratios of the KL term are cast to 32 bits; 1e-8 is added to the length of a row.
            tolerance = FLOAT32 if kl else 1e-8 if rows else EXACT
            book.compare(s, name, "loss", loss, e["loss"], at, tolerance)
            book.compare(s, name, "dloss_dlogprob", lp.grad, e["dloss_dlogprob"], at, tolerance)
            if "value_loss" in e:
                v = tensor(x["values"]).requires_grad_()
                loss = ValueLoss(clip_eps=c["value_clip"])(v, tensor(x["old_values"]), tensor(e["returns"]), action_mask=mask)
                loss.backward()
                at = where(ValueLoss.forward, "values_clipped = ")
                book.compare(s, name, "value_loss", loss, e["value_loss"], at)
                book.compare(s, name, "dvalueloss_dvalue", v.grad, e["dvalueloss_dvalue"], at)
    book.write()


def terms(book, s, name, c, kl):
    """The slope of the KL term alone, from d by its definition: 1 or d."""
    x = s["inputs"]
    lp = tensor(x["log_prob"]).requires_grad_()
    k = utils.compute_approx_kl(lp, tensor(x["ref_log_prob"]), kl_estimator=kl)
    k.sum().backward()
    d = tensor(x["log_prob"]) - tensor(x["ref_log_prob"])
    want = {"k1": (d, torch.ones_like(d)), "k2": (d * d / 2, d)}[kl]
    at = where(utils.compute_approx_kl, "value = log_ratio  #" if kl == "k1" else "value = log_ratio**2")
    mask = tensor(s["mask"])
    book.compare(s, name, f"{kl} of every token", k * mask, want[0] * mask, at, FLOAT32)
    book.compare(s, name, f"d{kl}/dlogprob", lp.grad * mask, want[1] * mask, at, FLOAT32)


if __name__ == "__main__":
    main()
