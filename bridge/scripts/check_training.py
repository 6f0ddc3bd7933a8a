"""Trains on preference files at a rate of 1e-30, one pair a step, and finds the pair of step 1 among those that `transformers` scores.

The pairs of a file are read here by hand, conversations in the model's chat template or in HH-RLHF's form; the run's SFT loss, `logps/chosen` and
`logps/rejected` of step 1 must be those of one of them. Needs torch and transformers 5.

    python bridge/scripts/check_training.py target/debug/rto_llm MODEL FILE [rto_llm's flags ...]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

SETS = {"max_prompt_tokens": 64, "max_new_tokens": 32, "held_out_share": 0.3, "sft.learning_rate": 1e-30, "dpo.fit.learning_rate": 1e-30,
        "sft.batch_size": 1, "dpo.fit.batch_size": 1, "weight_decay": 0}


def said(message):
    content = message["content"] if "content" in message else message["value"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    role = {"human": "user", "gpt": "assistant"}.get(message.get("role", message.get("from")), message.get("role"))
    return role, content


def records(file):
    raw = Path(file).read_text(encoding="utf-8-sig")
    return json.loads(raw) if raw.lstrip().startswith("[") else [json.loads(line) for line in raw.splitlines()]


def conversations(row, prompt_column):
    """The two sides as lists of (role, content), or None where the record holds texts."""
    prompt = row.get(prompt_column)
    if isinstance(row["chosen"], str) and isinstance(prompt, str) and "system" not in row:
        return None
    asked = [] if prompt is None else [("user", prompt)] if isinstance(prompt, str) else [said(m) for m in prompt]
    sides = []
    for column in ("chosen", "rejected"):
        value = row[column]
        value = [("assistant", value)] if isinstance(value, str) else [said(m) for m in ([value] if isinstance(value, dict) else value)]
        # A side that holds the prompt's last messages again holds them once.
        n = next((n for n in range(min(len(asked), len(value)), 0, -1) if asked[-n:] == value[:n]), 0)
        whole = value if isinstance(prompt, str) and n else asked + value[n:]
        sides.append(([("system", row["system"])] if row.get("system") else []) + whole)
    return sides


def hh(messages):
    start = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": ""}
    return "".join(start[role] + content for role, content in messages)


def pair(row, prompt_column, tokenizer):
    """(prompt, chosen, rejected, whether a template wrote them) as texts."""
    sides = conversations(row, prompt_column)
    if sides is None:
        prompt, replies = row[prompt_column], [row["chosen"], row["rejected"]]
        if all(reply.startswith(prompt) for reply in replies):
            replies = [reply[len(prompt):] for reply in replies]
        return prompt, *replies, False
    if not tokenizer.chat_template:
        return hh(sides[0][:-1]) + "\n\nAssistant:", *(" " + side[-1][1] for side in sides), False
    chat = lambda messages, **more: tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages], tokenize=False, **more
    )
    prompt = chat(sides[0][:-1], add_generation_prompt=True)
    wholes = [chat(side) for side in sides]
    # A template may open a reply otherwise than it writes one: what both begin with is the prompt, as in TRL.
    for whole in wholes:
        prompt = prompt[: next((i for i, (a, b) in enumerate(zip(prompt, whole)) if a != b), len(prompt))]
    return prompt, *(whole[len(prompt):] for whole in wholes), True


def end_tokens(folder, model, tokenizer):
    ids = lambda value: [] if value is None else value if isinstance(value, list) else [value]
    own = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8-sig")).get("eos_token_id")
    beside = ids(GenerationConfig.from_pretrained(folder).eos_token_id) if (Path(folder) / "generation_config.json").exists() else []
    return {*ids(own), *ids(model.config.eos_token_id), *beside, *ids(tokenizer.eos_token_id)}


def cut(tokenizer, prompt, reply, templated):
    """(prompt, reply) in tokens: the joined text, cut where the prompt ends; a token over the seam is the reply's."""
    encode = lambda text: tokenizer(text, add_special_tokens=not templated)["input_ids"]
    alone, ids = encode(prompt), encode(prompt + reply)
    if ids[: len(alone)] == alone:
        n = len(alone)
    else:
        plain = tokenizer(prompt + reply, add_special_tokens=False, return_offsets_mapping=True)
        n = len(ids) - len(plain["input_ids"])
        for _, stop in plain["offset_mapping"]:
            if stop > len(prompt):
                break
            n += 1
    return ids[:n], ids[n:]


def ended(reply, ends, tokenizer):
    """A reply up to its own end and no white space behind it, or with the tokenizer's end behind it."""
    end = None
    for i in range(len(reply) - 1, -1, -1):
        if reply[i] in ends:
            end = i
        elif tokenizer.decode([reply[i]]).strip():
            break
    return reply[: end + 1] if end is not None else [*reply, tokenizer.eos_token_id]


def token_pair(row, prompt_column, tokenizer, ends):
    prompt, chosen, rejected, templated = pair(row, prompt_column, tokenizer)
    (a, c), (b, r) = (cut(tokenizer, prompt, reply, templated) for reply in (chosen, rejected))
    same = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return a[:same], ended(a[same:] + c, ends, tokenizer), ended(b[same:] + r, ends, tokenizer)


def compare(program, folder, file, flags, rows=None):
    """How far DPO's step 1 is from the nearest pair and SFT's loss from the nearest reply; how far pairs are apart; how many there are.

    `rows` are the file's records where they are not read from JSON here.
    """
    column = flags[flags.index("--prompt-column") + 1] if "--prompt-column" in flags else "prompt"
    rows = records(file) if rows is None else rows
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ends = end_tokens(folder, model, tokenizer)

    def score(prompt, reply):
        with torch.no_grad():
            at = torch.log_softmax(model(torch.tensor([prompt + reply])).logits[0].double(), -1)
        return sum(at[len(prompt) + i - 1, t].item() for i, t in enumerate(reply))

    scored = []
    for row in rows:
        prompt, chosen, rejected = token_pair(row, column, tokenizer, ends)
        c, r = score(prompt, chosen), score(prompt, rejected)
        scored.append((c, r, -c / len(chosen)))
    with tempfile.TemporaryDirectory() as out:
        more = [a for k, v in SETS.items() for a in ("--set", f"{k}={v}")]
        run = subprocess.run(
            [program, "--smoke", "--quiet", "--stage", "dpo", "--data", file, "--model", folder, "--out", f"{out}/run", *more, *flags],
            capture_output=True, text=True,
        )
        if run.returncode:
            raise ValueError(run.stderr.strip())
        first = {}
        for stage in ("sft", "dpo"):
            path = Path(f"{out}/run/metrics/{stage}.jsonl")
            first[stage] = json.loads(path.read_text().splitlines()[0])
    chosen, rejected, loss = first["dpo"]["logps/chosen"], first["dpo"]["logps/rejected"], first["sft"]["loss"]
    by_pair = min(max(abs(c - chosen), abs(r - rejected)) for c, r, _ in scored)
    by_loss = min(abs(l - loss) for _, _, l in scored)
    # How far apart the pairs are: a distance far below says that the right one was found.
    apart = sorted(c for c, _, _ in scored)
    gap = min((b - a for a, b in zip(apart, apart[1:])), default=float("inf"))
    return by_pair, by_loss, gap, len(rows)


def main():
    program, folder, file, *flags = sys.argv[1:]
    try:
        by_pair, by_loss, gap, n = compare(program, folder, file, flags)
    except ValueError as why:
        sys.exit(str(why))
    print(f"{Path(file).name}: {n} records; DPO's step 1 is {by_pair:.1e} from a pair (pairs are {gap:.1e} apart), SFT's {by_loss:.1e} from a reply")
    if max(by_pair, by_loss) > 1e-3:
        sys.exit("not the same")


if __name__ == "__main__":
    main()
