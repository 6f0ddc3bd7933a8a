"""KTO's loss and gradient on two small models, computed in PyTorch from the formula that TRL's trainer uses.

    python bridge/scripts/make_kto_fixture.py   # writes bridge/tests/fixtures/kto.json

For rows with labels, log-ratios r_i of policy to reference, and log-ratios of mismatched rows whose mean, clamped at 0 and detached, is z0:
the mean over rows of desirable * (1 - sigmoid(beta * (r - z0))) and undesirable * (1 - sigmoid(beta * (z0 - r))). Mismatched rows come in
TRL's order (each prompt with the reply of the row before it) and in ours (of the next row of another prompt).
"""

import json
import pathlib

import torch
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures"
# Prompts, replies, labels; the last two rows share a prompt.
ROWS = [([5, 9, 33], [7, 12, 0], True), ([17, 2], [40, 41, 42, 3, 0], False), ([8, 8, 1, 60], [2, 0], True), ([11], [30, 31, 9], False), ([11], [22, 0], True)]
BETA, WEIGHTS = 0.3, (1.0, 1.33)


def log_prob(model, prompt, reply):
    at = torch.log_softmax(model(torch.tensor([prompt + reply])).logits[0].double(), -1)
    return sum(at[len(prompt) + i - 1, token] for i, token in enumerate(reply))


def ours(i):
    n = len(ROWS)
    return next(ROWS[(i + k) % n][1] for k in range(1, n) if ROWS[(i + k) % n][0] != ROWS[i][0])


def main():
    out = {"beta": BETA, "desirable": WEIGHTS[0], "undesirable": WEIGHTS[1], "rows": ROWS, "cases": []}
    for name in ["neox_parallel_rot25", "llama_grouped_tied"]:
        policy, reference = (AutoModelForCausalLM.from_pretrained(HERE / name / part, dtype=torch.float32).eval() for part in ["policy", "ref"])
        for order, mismatched in [("trl", [(ROWS[i][0], ROWS[i - 1][1]) for i in range(len(ROWS))]), ("ours", [(ROWS[i][0], ours(i)) for i in range(len(ROWS))])]:
            ratio = lambda prompt, reply: log_prob(policy, prompt, reply) - log_prob(reference, prompt, reply).detach()
            z0 = torch.stack([ratio(p, y) for p, y in mismatched]).mean().clamp(min=0).detach()
            losses = []
            for prompt, reply, label in ROWS:
                r = ratio(prompt, reply)
                losses.append(WEIGHTS[0] * (1 - torch.sigmoid(BETA * (r - z0))) if label else WEIGHTS[1] * (1 - torch.sigmoid(BETA * (z0 - r))))
            loss = torch.stack(losses).mean()
            policy.zero_grad()
            loss.backward()
            norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in policy.parameters() if p.grad is not None))
            out["cases"].append({"model": name, "order": order, "mismatched": mismatched, "z0": z0.item(), "loss": loss.item(), "grad_norm": norm.item()})
            print(out["cases"][-1]["model"], order, z0.item(), loss.item(), norm.item())
    (HERE / "kto.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
