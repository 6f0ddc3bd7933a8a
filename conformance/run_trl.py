"""Holds GRPOTrainer and RLOOTrainer of TRL to the vectors: the methods themselves run, on a trainer that holds only what they read.

    pip install trl==1.16.0; python run_trl.py [RESULT.json]
"""

import collections
import contextlib
import os
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
import trl.trainer.grpo_trainer as grpo
import trl.trainer.rloo_trainer as rloo
from common import Book, vectors, where

torch.set_default_dtype(torch.float64)
GRPO, RLOO = grpo.GRPOTrainer, rloo.RLOOTrainer

LOSS_TYPES = {
    "TRL GRPO (loss_type=dapo)": dict(loss_type="dapo", bias_corrected=False),
    "TRL GRPO (dapo), bias-corrected k3": dict(loss_type="dapo", bias_corrected=True),
    "TRL GRPO (loss_type=grpo)": dict(loss_type="grpo", bias_corrected=False),
    "TRL GRPO (loss_type=dr_grpo, scale_rewards=none)": dict(loss_type="dr_grpo"),
    "GSPO": dict(loss_type="grpo", level="sequence"),
    "GSPO, wide clip": dict(loss_type="grpo", level="sequence"),
    "CISPO (TRL, cap 5)": dict(loss_type="cispo"),
    "CISPO (TRL, epsilon_high left at 0.2)": dict(loss_type="cispo"),
    "TRL GRPO (scale_rewards=batch)": dict(loss_type="dapo"),
}


# What a user gets who sets beta alone.
DEFAULTS = {
    n: grpo.GRPOConfig.__dataclass_fields__[n].default
    for n in ("beta", "loss_type", "scale_rewards", "use_bias_correction_kl", "epsilon", "epsilon_high", "num_generations")}


def tensor(x):
    return torch.tensor(x, dtype=torch.float64)


def trainer(s, config):
    """A trainer without a model: the attributes that the two methods read."""
    t = mock.MagicMock()
    t.accelerator.device = torch.device("cpu")
    t.accelerator.process_index, t.accelerator.num_processes = 0, 1
    t.accelerator.gather = t.accelerator.gather_for_metrics = lambda x: x
    t.accelerator.reduce = lambda x, reduction: x
    t.model.training = True
    t.environment_factories, t.environments, t.tools, t.images = None, None, None, None
    t.mask_truncated_completions = t.use_vllm = t.aux_loss_enabled = t._entropy_bonus_enabled = t.use_adaptive_entropy = False
    t.pad_to_multiple_of, t.off_policy_mask_threshold, t.top_entropy_quantile = None, None, 1.0
    t._tokenizer.pad_token_id = 0
    t.beta = config["beta"] if config["kl_placement"] else 0.0
    t.num_generations = config["group_size"]
    t.reward_weights, t.reward_func_names = torch.ones(1), ["score"]
    t.reward_clip_range, t.normalize_advantages = None, False
    t.multi_objective_aggregation = "sum_then_normalize"
    t.scale_rewards = config["std"] or "none"
    t.epsilon_low = config["clip_low"]
    t.epsilon_high = config["cap_high"] if config["ratio"] == "capped" else config["clip_high"]
    t.max_completion_length = config["length"] or len(s["mask"][0])
    # One optimiser step from one micro-batch, whose old log-probs were kept.
    t.current_gradient_accumulation_steps = t.args.gradient_accumulation_steps = 1
    t.args.steps_per_generation, t.num_iterations, t.args.num_iterations = 1, 2, 2
    t.args.delta = None
    t._metrics = {"train": collections.defaultdict(list)}
    t._logs = collections.defaultdict(list, rewards=collections.defaultdict(list), extra=collections.defaultdict(list))
    t._pending_extra_logs, t._pending_metrics = {}, {}
    scores = tensor(s["inputs"]["scores"]).unsqueeze(1)
    t._calculate_rewards = lambda *_: scores.clone()
    t.ref_model = object()

    def log_probs(model, *_, **__):
        # The reference, or the policy as it was when the responses were drawn.
        key = "ref_log_prob" if model is t.ref_model else "old_log_prob"
        return tensor(s["inputs"][key]), None, None

    t._get_per_token_logps_and_entropies = log_probs
    return t


def rollout(s):
    """Token ids and masks as `_generate` hands them on."""
    lengths = s["lengths"]
    ids = [[1] * n for n in lengths]
    tools = [[int(m) for m in row[:n]] for row, n in zip(s["mask"], lengths)]
    return [[7]] * len(ids), ids, (tools if "tool" in s["name"] else None), [""] * len(ids)


def inputs_of(t, s, cls, module):
    prompts, ids, tools, texts = rollout(s)
    if cls is GRPO:
        t._generate = lambda _: (prompts, ids, tools, texts, None, {}, None, None)
    else:
        t._generate = lambda _: (prompts, ids, texts)
    with mock.patch.object(module, "disable_gradient_checkpointing", lambda *_: contextlib.nullcontext()), \
            mock.patch.object(module, "gather", lambda x: x), mock.patch.object(module, "gather_object", lambda x: x):
        return cls._generate_and_score_completions(t, [{"prompt": ""}] * len(ids))


def loss_of(t, s, cls, inputs):
    lp = tensor(s["inputs"]["log_prob"]).requires_grad_()
    t._get_per_token_logps_and_entropies = lambda *_, **__: (lp, torch.zeros_like(lp), None)
    loss = cls._compute_loss(t, None, inputs)
    loss.backward()
    return loss, lp.grad


def main():
    book = Book("trl")
    for s in vectors():
        mask = tensor(s["mask"])
        for name, e in s["recipes"].items():
            c = e["config"]
            if name in LOSS_TYPES:
                cls, module, how = GRPO, grpo, LOSS_TYPES[name]
            elif name == "TRL RLOO":
                cls, module, how = RLOO, rloo, {}
                if "tool" in s["name"]:
                    book.skip(s, name, "RLOOTrainer has no mask of tool tokens")
                    continue
            else:
                continue
            t = trainer(s, c)
            t.loss_type = how.get("loss_type")
            t.importance_sampling_level = how.get("level", "token")
            t.args.use_bias_correction_kl = how.get("bias_corrected", True)
            inputs = inputs_of(t, s, cls, module)
            advantage = inputs["advantages"].unsqueeze(1) * mask
            scored = where(cls._generate_and_score_completions, "advantages = rewards - ")
            book.compare(s, name, "advantages", advantage, e["advantages"], scored)
            loss, slope = loss_of(t, s, cls, inputs)
            line = where(cls._compute_loss, {
                "cispo": "clamped_ratios = ", "dr_grpo": "self.max_completion_length)", "dapo": "loss = (per_token_loss * mask).sum() / normalizer",
                "grpo": "mask.sum(-1).clamp(min=1.0)).mean()", None: "loss = per_sequence_loss.mean()"}[t.loss_type])
            book.compare(s, name, "loss", loss, e["loss"], line)
            book.compare(s, name, "dloss_dlogprob", slope, e["dloss_dlogprob"], line)
            if c["kl_placement"] == "loss" and c["kl_estimator"] == "k3":
                # The same vector where the user sets beta and leaves the rest as it is.
                t.args.use_bias_correction_kl = DEFAULTS["use_bias_correction_kl"]
                loss, slope = loss_of(t, s, cls, inputs)
                line = where(cls._compute_loss, "per_token_kl = per_token_kl * coef_1")
                book.compare(s, name + ", use_bias_correction_kl as by default", "loss", loss, e["loss"], line)
                book.compare(s, name + ", use_bias_correction_kl as by default", "dloss_dlogprob", slope, e["dloss_dlogprob"], line)
    micro_batches(book)
    book.rows.append(dict(defaults=DEFAULTS, quantity=None))
    book.write()


def micro_batches(book):
    """The gradient of one optimiser step from two micro-batches of three rows, beside that of the six rows at once."""
    s = next(s for s in vectors() if s["name"] == "far")
    for name, steps_per_generation in (("TRL GRPO (loss_type=dapo)", 2), ("TRL GRPO (loss_type=dapo)", 1)):
        e = s["recipes"][name]
        t = trainer(s, e["config"])
        t.loss_type, t.importance_sampling_level, t.args.use_bias_correction_kl = "dapo", "token", False
        whole = inputs_of(t, s, GRPO, grpo)
        t.current_gradient_accumulation_steps, t.args.steps_per_generation = 2, steps_per_generation
        slopes = []
        for rows in (slice(0, 3), slice(3, 6)):
            part = {k: v[rows] if v.ndim else v for k, v in whole.items()}
            if steps_per_generation == 1:
                # Every micro-batch is then a generation batch of its own.
                part["num_items_in_batch"] = part["completion_mask"].sum()
            cut = dict(s, inputs=dict(s["inputs"], log_prob=s["inputs"]["log_prob"][rows]))
            slopes.append(loss_of(t, cut, GRPO, part)[1])
        line = where(GRPO._compute_loss, "normalizer * self.current_gradient_accumulation_steps")
        label = f"{name}, 2 micro-batches, steps_per_generation={steps_per_generation}"
        book.compare(s, label, "dloss_dlogprob", torch.cat(slopes), e["dloss_dlogprob"], line)


if __name__ == "__main__":
    main()
