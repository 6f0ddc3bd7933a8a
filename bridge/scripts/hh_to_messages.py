"""Writes HH-RLHF's texts as conversations, for a model with a chat template: JSON lines with `prompt`, `chosen` and `rejected`, each a list of
messages. A pair whose two texts part before the last reply, or in which somebody speaks twice in a row, is left out and counted.

    python bridge/scripts/hh_to_messages.py harmless-base/test.jsonl.gz >harmless.messages.jsonl
"""

import gzip
import json
import re
import sys

ROLES = {"Human": "user", "Assistant": "assistant"}


def messages(text: str) -> list[dict[str, str]]:
    """The turns of a text."""
    parts = re.split(r"\n\n(Human|Assistant):", text)
    if parts[0].strip():
        raise ValueError("a text before the first turn")
    turns = [{"role": ROLES[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2])]
    if [turn["role"] for turn in turns] != ["user", "assistant"] * (len(turns) // 2) or not turns:
        raise ValueError("turns that do not alternate")
    return turns


def main(path: str) -> None:
    opened = gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8")
    kept, left_out = 0, 0
    with opened as lines:
        for line in lines:
            pair = json.loads(line)
            try:
                chosen, rejected = messages(pair["chosen"]), messages(pair["rejected"])
                if chosen[:-1] != rejected[:-1]:
                    raise ValueError("histories that part")
            except ValueError:
                left_out += 1
                continue
            print(json.dumps({"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}, ensure_ascii=False))
            kept += 1
    print(f"{kept} pairs written, {left_out} left out", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
