"""Writes tests/fixtures/data: preference files in the layouts that users have, and what they mean.

Needs pyarrow, zstandard, datasets and trl. Each file is read back with `datasets`; prompts are told from replies by `trl`'s own
functions; conversations are written out in HH-RLHF's form here, as the network of a folder without a chat template reads them.
Where this project reads a layout otherwise than trl does, `expected.json` says so under "note".

    python bridge/scripts/make_data_fixtures.py
"""

import bz2
import gzip
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from datasets import load_dataset
from trl.data_utils import maybe_extract_prompt, unpair_preference_dataset

OUT = Path(__file__).parent.parent / "tests/fixtures/data"
OUT.mkdir(exist_ok=True)
EXPECTED = {}

ASKED = ["How do I mend a sock?", "Where is the key?", "Why \"salt\"?\n\nAnd pepper?", "Ça va, 你好?", "Hi"]
GOOD = ["You darn it slowly.", "Under the mat.", "For taste.\nBoth.", "Oui — 好。", "Hi there."]
BAD = ["I will not say.", "No.", "NaN", "Non.", "Hi you."]
SYSTEM = ["You help.", None, "", "Be brief.", "You help."]


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


def hh(messages, open_turn):
    said = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": ""}
    text = "".join(said[m["role"]] + m["content"] for m in messages)
    return text + ("\n\nAssistant:" if open_turn else "")


def texts(row):
    """A row of trl's layout as texts: conversations in HH-RLHF's form, texts as they are."""
    if isinstance(row["prompt"], str):
        return [row["prompt"], row["chosen"], row["rejected"]]
    prompt = hh(row["prompt"], True)
    out = [prompt]
    for side in ("chosen", "rejected"):
        whole = hh(row["prompt"] + row[side], False)
        assert whole.startswith(prompt)
        out.append(whole[len(prompt) :])
    return out


def trl_reads(path, kind):
    with tempfile.TemporaryDirectory() as cache:
        rows = load_dataset(kind, data_files=str(path), split="train", cache_dir=cache)
        return [texts(maybe_extract_prompt(row)) for row in rows]


def expect(name, rows, note=""):
    EXPECTED[name] = {"pairs": rows, "note": note}


def lines(rows, **options):
    return "".join(json.dumps(row, **options) + "\n" for row in rows)


def write(name, data):
    data = data.encode() if isinstance(data, str) else data
    (OUT / name).write_bytes(data)
    return OUT / name


triples = list(zip(ASKED, GOOD, BAD, strict=True))

# UltraFeedback-binarized: a text in `prompt`, whole conversations in `chosen` and `rejected`, scores.
ufb = [
    {
        "prompt": x,
        "prompt_id": f"{i:04x}",
        "chosen": [user(x), bot(g)],
        "rejected": [user(x), bot(b)],
        "messages": [user(x), bot(g)],
        "score_chosen": float("nan") if i == 1 else 8.0,
        "score_rejected": 6.5,
    }
    for i, (x, g, b) in enumerate(triples)
]
plain = write("ultrafeedback.jsonl", lines(ufb))
wanted = trl_reads(plain, "json")
expect("ultrafeedback.jsonl", wanted)
for name, packed in {
    "ultrafeedback.jsonl.zst": zstandard.ZstdCompressor().compress(lines(ufb).encode()),
    "ultrafeedback.jsonl.bz2": bz2.compress(lines(ufb[:2]).encode()) + bz2.compress(lines(ufb[2:]).encode()),
    "ultrafeedback.jsonl.gz": gzip.compress(lines(ufb).encode(), mtime=0),
}.items():
    write(name, packed)
    expect(name, wanted)
write("ultrafeedback_array.json", json.dumps(ufb, indent=2, ensure_ascii=False))
expect("ultrafeedback_array.json", trl_reads(OUT / "ultrafeedback_array.json", "json"))
write("ultrafeedback_array_line.json", "\ufeff" + json.dumps(ufb))
expect("ultrafeedback_array_line.json", wanted)

# Parquet as users have it.
table = pa.Table.from_pylist(ufb)
for name, options in {
    "snappy": {"compression": "snappy"},
    "zstd": {"compression": "zstd"},
    "gzip": {"compression": "gzip"},
    "lz4": {"compression": "lz4"},
    "brotli": {"compression": "brotli"},
    "plain_v2": {"compression": "none", "use_dictionary": False, "data_page_version": "2.0"},
    "groups": {"compression": "snappy", "row_group_size": 2},
    "delta": {
        "compression": "zstd",
        "use_dictionary": False,
        "column_encoding": {"prompt": "DELTA_BYTE_ARRAY", "prompt_id": "DELTA_LENGTH_BYTE_ARRAY"},
    },
}.items():
    path = OUT / f"ultrafeedback_{name}.parquet"
    pq.write_table(table, path, **options)
    expect(path.name, trl_reads(path, "parquet"))
large = table.set_column(0, "prompt", table["prompt"].cast(pa.large_string()).dictionary_encode())
pq.write_table(large, OUT / "ultrafeedback_dictionary.parquet", compression="snappy")
expect("ultrafeedback_dictionary.parquet", trl_reads(OUT / "ultrafeedback_dictionary.parquet", "parquet"))

# A conversation in three columns, with and without the prompt said again.
apart = [{"prompt": [user(x)], "chosen": [bot(g)], "rejected": [bot(b)]} for x, g, b in triples]
path = write("conversation_apart.jsonl", lines(apart))
expect("conversation_apart.jsonl", trl_reads(path, "json"))
again = [{"prompt": [user(x)], "chosen": [user(x), bot(g)], "rejected": [user(x), bot(b)]} for x, g, b in triples]
write("conversation_again.jsonl", lines(again))
twice = "trl trains on the prompt's messages twice here; they count once"
expect("conversation_again.jsonl", trl_reads(OUT / "conversation_apart.jsonl", "json"), twice)
long = [user("One?"), bot("Two."), user("Three?")]
rows = [{"prompt": [{"role": "system", "content": "S."}, *long], "chosen": [*long, bot("A.")], "rejected": [*long[2:], bot("B.")]}]
write("conversation_overlap.jsonl", lines(rows))
expect("conversation_overlap.jsonl", [texts({"prompt": rows[0]["prompt"], "chosen": [bot("A.")], "rejected": [bot("B.")]})], twice)

# Parts of content, as OpenAI's interface has them.
parts = [
    {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": x[:2]}, {"type": "text", "text": x[2:]}]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": g}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": b}]}],
    }
    for x, g, b in triples
]
write("content_parts.jsonl", lines(parts))
expect("content_parts.jsonl", EXPECTED["conversation_apart.jsonl"]["pairs"], "the texts of the parts, joined")

# ShareGPT's names: conversations and single messages.
sharegpt = [
    {
        "conversations": [{"from": "human", "value": x}],
        "chosen": {"from": "gpt", "value": g},
        "rejected": {"from": "gpt", "value": b},
    }
    for x, g, b in triples
]
write("sharegpt.jsonl", lines(sharegpt))
EXPECTED["sharegpt.jsonl"] = {
    "pairs": EXPECTED["conversation_apart.jsonl"]["pairs"],
    "columns": {"prompt": "conversations"},
    "note": "trl has the user convert these",
}

# Orca: texts with a system message beside them.
orca = [{"system": s, "question": x, "chosen": g, "rejected": b} for s, (x, g, b) in zip(SYSTEM, triples, strict=True)]
write("orca.jsonl", lines(orca))
told = [
    texts({"prompt": ([{"role": "system", "content": s}] if s else []) + [user(x)], "chosen": [bot(g)], "rejected": [bot(b)]})
    for s, (x, g, b) in zip(SYSTEM, triples, strict=True)
]
EXPECTED["orca.jsonl"] = {
    "pairs": told,
    "columns": {"prompt": "question"},
    "note": "a column of system messages makes texts a conversation; trl does not read it",
}
pq.write_table(pa.Table.from_pylist(orca), OUT / "orca.parquet")
EXPECTED["orca.parquet"] = EXPECTED["orca.jsonl"]

# Texts, and texts that hold the prompt as well.
std = [{"prompt": x, "chosen": g, "rejected": b, "margin": float("inf")} for x, g, b in triples]
path = write("texts.jsonl", lines(std))
expect("texts.jsonl", trl_reads(path, "json"))
held = [{"prompt": x, "chosen": x + " " + g, "rejected": x + " " + b} for x, g, b in triples]
write("texts_again.jsonl", lines(held))
expect(
    "texts_again.jsonl",
    [[x, " " + g, " " + b] for x, g, b in triples],
    "trl trains on the prompt twice here; most records hold it, so it counts once",
)

# Unpaired data, and pairs as unpaired data.
labels = [True, False, True, True, False]
kto = [{"prompt": x, "completion": g, "label": l} for (x, g, _), l in zip(triples, labels, strict=True)]
write("kto.jsonl", lines(kto))
pq.write_table(pa.Table.from_pylist(kto), OUT / "kto.parquet")
chat = [{"prompt": [user(x)], "completion": [bot(g)], "label": int(l)} for (x, g, _), l in zip(triples, labels, strict=True)]
write("kto_chat.jsonl", lines(chat))
EXPECTED["kto.jsonl"] = {"labelled": [[r["prompt"], r["completion"], r["label"]] for r in kto], "note": ""}
EXPECTED["kto.parquet"] = EXPECTED["kto.jsonl"]
EXPECTED["kto_chat.jsonl"] = {
    "labelled": [[hh([user(x)], True), " " + g, l] for (x, g, _), l in zip(triples, labels, strict=True)],
    "note": "a label may be 0 or 1",
}
with tempfile.TemporaryDirectory() as cache:
    pairs = load_dataset("json", data_files=str(OUT / "texts.jsonl"), split="train", cache_dir=cache)
    unpaired = unpair_preference_dataset(pairs.remove_columns("margin"))
    rows = sorted(([r["prompt"], r["completion"], r["label"]] for r in unpaired), key=lambda r: (ASKED.index(r[0]), not r[2]))
EXPECTED["unpaired:texts.jsonl"] = {"labelled": rows, "note": "each side of a pair, in the order of the pairs"}

(OUT / "expected.json").write_text(json.dumps(EXPECTED, indent=1, ensure_ascii=False) + "\n")
print(f"{len(EXPECTED)} cases")
