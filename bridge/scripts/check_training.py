"""Trains on preference files at a rate of 1e-30, one pair a step, and finds the pair of step 1 among those that `transformers` scores.

The pairs of a file are read here by hand, in HH-RLHF's form; the run's SFT loss, `logps/chosen` and `logps/rejected` of step 1 must be those of
one of them. Needs torch and transformers 5.

    python bridge/scripts/check_training.py target/debug/rto_llm MODEL FILE [rto_llm's flags ...]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def said(message):
    content = message["content"] if "content" in message else message["value"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    role = {"human": "user", "gpt": "assistant"}.get(message.get("role", message.get("from")), message.get("role"))
    return role, content


def text(messages):
    start = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": ""}
    return "".join(start[role] + content for role, content in messages)


def pair(row, prompt_column):
    """(prompt, chosen, rejected) as texts."""
    prompt = row.get(prompt_column)
    if isinstance(row["chosen"], str) and isinstance(prompt, str) and "system" not in row:
        return prompt, row["chosen"], row["rejected"]
    sides = []
    for column in ("chosen", "rejected"):
        value = row[column]
        value = [("assistant", value)] if isinstance(value, str) else [said(m) for m in ([value] if isinstance(value, dict) else value)]
        if not any(role == "user" for role, _ in value):
            asked = [("user", prompt)] if isinstance(prompt, str) else [said(m) for m in prompt]
            value = asked + value
        if row.get("system"):
            value = [("system", row["system"])] + value
        sides.append(value)
    opening = text(sides[0][:-1]) + "\n\nAssistant:"
    return opening, *(" " + side[-1][1] for side in sides)


def main():
    program, folder, file, *flags = sys.argv[1:]
    column = flags[flags.index("--prompt-column") + 1] if "--prompt-column" in flags else "prompt"
    raw = Path(file).read_text()
    rows = json.loads(raw) if raw.lstrip().startswith("[") else [json.loads(line) for line in raw.splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    end = model.config.eos_token_id

    def score(prompt, reply):
        start = len(tokenizer(prompt)["input_ids"])
        ids = tokenizer(prompt + reply)["input_ids"] + [end]
        with torch.no_grad():
            at = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
        return sum(at[i - 1, ids[i]].item() for i in range(start, len(ids))), len(ids) - start

    scored = []
    for row in rows:
        prompt, chosen, rejected = pair(row, column)
        (c, n), (r, _) = score(prompt, chosen), score(prompt, rejected)
        scored.append((c, r, -c / n))
    with tempfile.TemporaryDirectory() as out:
        sets = {"max_prompt_tokens": 64, "max_new_tokens": 32, "held_out_share": 0.3, "sft.learning_rate": 1e-30, "dpo.fit.learning_rate": 1e-30,
                "sft.batch_size": 1, "dpo.fit.batch_size": 1, "weight_decay": 0}
        more = [a for k, v in sets.items() for a in ("--set", f"{k}={v}")]
        run = subprocess.run(
            [program, "--smoke", "--quiet", "--stage", "dpo", "--data", file, "--model", folder, "--out", f"{out}/run", *more, *flags],
            capture_output=True, text=True,
        )
        if run.returncode:
            sys.exit(run.stderr.strip())
        first = {}
        for stage in ("sft", "dpo"):
            path = next(p for p in Path(f"{out}/run").rglob("*.jsonl") if p.stem == stage or p.parent.name == stage)
            first[stage] = json.loads(path.read_text().splitlines()[0])
    chosen, rejected, loss = first["dpo"]["logps/chosen"], first["dpo"]["logps/rejected"], first["sft"]["loss"]
    by_pair = min(max(abs(c - chosen), abs(r - rejected)) for c, r, _ in scored)
    by_loss = min(abs(l - loss) for _, _, l in scored)
    print(f"{Path(file).name}: {len(rows)} records; DPO's step 1 is {by_pair:.1e} from a pair, SFT's {by_loss:.1e} from a reply")
    if max(by_pair, by_loss) > 1e-3:
        sys.exit("not the same")


main()
