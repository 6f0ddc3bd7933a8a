"""Runs a folder of small cases through `rto_llm` and compares each with what `transformers` computes in f32.

A case is a folder with `cmd.txt` (how the program is run there) and its inputs; `expected.json` beside them holds ids and log-probabilities
where they were written down. Every model is also given texts of our own, every data file is trained on for one step at a rate of 1e-30, and
so are the records of `data_array` in more layouts and under more templates. Prints a table; fails where a row does not hold. Needs torch,
transformers 5 and pyarrow.

    python bridge/scripts/check_cases.py target/debug/rto_llm CASES [NAME ...]
"""

import bz2
import gzip
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

import check_training as training

logging.set_verbosity_error()
logging.disable_progress_bar()
# Log-probabilities of tokens, and sums over replies of some tens of tokens.
NEAR, SUM_NEAR = 1e-4, 1e-3
# What a run must say of the files.
NOTES = {"invtop": "skipped", "bom_tokenizer": "byte-order mark", "tied_head_differs": "lm_head", "tokenizer_truncation": "truncation", "tokenizer_padding": "padding"}
TEXTS = [
    ("Human: Hello there\n\nAssistant:", " Sure, plant tomatoes."),
    ("Human: How do I mend a sock?\n\nAssistant:", " You darn it slowly, then you wait until it is dry."),
    ("<|im_start|>user\nWhere is it?<|im_end|>\n", "Under the mat.<|im_end|>"),
    ("Zürich is", " a city; é 好"),
    ("the ot", "her thing"),
]


class Wrong(Exception):
    """What a case shows that is not right."""


def need(holds, why):
    if not holds:
        raise Wrong(why)


class Cases:
    def __init__(self, program, root, scratch):
        self.program, self.root, self.scratch = program, root, scratch
        self.expected = json.loads((root / "expected.json").read_text())

    def run(self, name, command, *more):
        """Runs a line of cmd.txt in the case's folder; --out goes to a folder of our own."""
        parts = shlex.split(command.split(";")[0])
        assert parts[0] == "rto_llm", command
        if "--out" in parts:
            out = self.scratch / f"{name}{len(list(self.scratch.iterdir()))}"
            parts[parts.index("--out") + 1] = str(out)
        else:
            out = None
        done = subprocess.run([self.program, *parts[1:], *more], cwd=self.root / name, capture_output=True, text=True)
        return done, out

    def sound(self, name, command, *more):
        done, out = self.run(name, command, *more)
        need(done.returncode == 0, f"exit code {done.returncode}: {done.stderr.strip()}")
        return done, out

    def command(self, name):
        text = (self.root / name / "cmd.txt").read_text().strip()
        if text.startswith("as "):
            text = (self.root / text.split(";")[0].removeprefix("as ").strip() / "cmd.txt").read_text().strip()
        return text

    def model(self, name):
        return self.root / name / "model"

    # Rows.

    def score(self, name):
        """The case's line against expected.json, and texts of our own against transformers."""
        done, _ = self.sound(name, self.command(name))
        want, got = self.expected[name], json.loads(done.stdout.splitlines()[0])
        need(got["token_ids"] == want["response_ids"], f"ids {got['token_ids']}, expected {want['response_ids']}")
        need(NOTES.get(name, "") in done.stderr, f"no note of {NOTES.get(name)}: {done.stderr}")
        far = distance(got["log_probs"], want["log_probs"])
        more, n = self.texts(name)
        need(max(far, more) < NEAR, f"log-probabilities are {max(far, more):.1e} apart")
        return f"ids equal, log π {far:.1e}; {n} texts of ours: ids equal, {more:.1e}"

    def texts(self, name):
        folder = self.model(name)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except Exception:  # noqa: BLE001 transformers itself may stumble over the file
            plain = self.scratch / f"{name}-plain"
            shutil.copytree(folder, plain)
            for file in plain.glob("*.json"):
                file.chmod(0o644)
                file.write_text(file.read_text(encoding="utf-8-sig"))
            folder, tokenizer = plain, AutoTokenizer.from_pretrained(plain)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        rows = model.get_input_embeddings().weight.shape[0]
        lines, wanted = [], []
        for prompt, reply in TEXTS:
            a, b = training.cut(tokenizer, prompt, reply, False)
            if max(a + b) < rows:
                lines.append(json.dumps({"prompt": prompt, "response": reply}))
                wanted.append((a, b))
        file = self.scratch / f"{name}.jsonl"
        file.write_text("\n".join(lines) + "\n")
        done, _ = self.sound(name, f"rto_llm score --model model --input {file} --json")
        far = 0.0
        for line, (prompt, reply) in zip(done.stdout.splitlines(), wanted, strict=True):
            got = json.loads(line)
            need(got["token_ids"] == reply, f"a text of ours: ids {got['token_ids']}, expected {reply}")
            far = max(far, distance(got["log_probs"], log_probs(model, prompt, reply)))
        return far, len(wanted)

    def prompt_ids(self, name):
        done, _ = self.sound(name, self.command(name))
        got, want = json.loads(done.stdout.splitlines()[0])["prompt_ids"], self.expected[name]["prompt_ids"]
        need(got == want, f"ids {got}, expected {want}")
        far, n = self.texts(name)
        need(far < NEAR, f"log-probabilities are {far:.1e} apart")
        return f"ids equal; {n} texts of ours: ids equal, {far:.1e}"

    def ends(self, name):
        done, _ = self.sound(name, self.command(name))
        got, want = json.loads(done.stdout.splitlines()[0]), self.expected[name]["greedy"]
        need((got["token_ids"], got["finish"]) == (want, "eos"), f"greedy {got['token_ids']} ({got['finish']}), expected {want}")
        _, out = self.sound(name, "rto_llm convert --model model --out out")
        old, new = (json.loads((f / "config.json").read_text())["eos_token_id"] for f in (self.model(name), out))
        need(new == old, f"convert writes {new}, expected {old}")
        # Prompts of our own.
        model, prompts = AutoModelForCausalLM.from_pretrained(self.model(name), dtype=torch.float32), [[1, 2, 3], [77, 12], [300, 41, 8, 8], [9]]
        tokenizer = AutoTokenizer.from_pretrained(self.model(name))
        ends = sorted(training.end_tokens(self.model(name), model, tokenizer))
        file = self.scratch / "ends.jsonl"
        file.write_text("".join(json.dumps({"prompt_ids": p}) + "\n" for p in prompts))
        done, _ = self.sound(name, f"rto_llm generate --model model --input {file} --greedy --max-new-tokens 40 --json")
        for prompt, line in zip(prompts, done.stdout.splitlines(), strict=True):
            free = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False, eos_token_id=ends, pad_token_id=0)
            free, got = free[0, len(prompt):].tolist(), json.loads(line)["token_ids"]
            need(got == free, f"a prompt of ours: greedy {got}, expected {free}")
        return f"{len(want)} greedy tokens equal, convert keeps {new}; {len(prompts)} prompts of ours: equal"

    def trained(self, name, file, *flags, base=None):
        """The case's command runs, and step 1 of training is a pair's."""
        folder = base or self.model(name)
        done, out = self.sound(name, self.command(name), *flags)
        by_pair, by_loss, gap, n = training.compare(self.program, str(folder), str(self.root / name / file), list(flags))
        need(max(by_pair, by_loss) < SUM_NEAR, f"step 1 is {by_pair:.1e} from a pair, SFT's {by_loss:.1e} from a reply")
        return f"step 1: logps {by_pair:.1e}, SFT loss {by_loss:.1e}", done, out

    def data(self, name, file, *flags):
        said, _, _ = self.trained(name, file, *flags, base=self.root / "base_NX/model")
        return said

    def layouts(self):
        """The records of `data_array` in layouts of our own: (name, text or bytes, flags, rows as JSON where the file is none)."""
        user, bot = (lambda role: lambda text: {"role": role, "content": text})("user"), (lambda text: {"role": "assistant", "content": text})
        triples = [
            (r["prompt"].removeprefix("\n\nHuman: ").removesuffix("\n\nAssistant:"), r["chosen"].strip(), r["rejected"].strip())
            for r in training.records(self.root / "data_array/arr.json")
        ]
        lines = lambda rows: "".join(json.dumps(row) + "\n" for row in rows)
        apart = [{"prompt": [user(x)], "chosen": [bot(c)], "rejected": [bot(r)]} for x, c, r in triples]
        yield "conversation_apart", lines(apart), [], None
        earlier = lambda x: [user(f"About {x.split()[-1]}"), bot("Yes?"), user(x)]
        yield "conversation_longer", lines({"chosen": [*earlier(x), bot(c)], "rejected": [*earlier(x), bot(r)]} for x, c, r in triples), [], None
        yield "prompt_overlaps", lines({"prompt": earlier(x), "chosen": [user(x), bot(c)], "rejected": [user(x), bot(r)]} for x, c, r in triples), [], None
        texts = [{"prompt": f"Q: {x}\nA:", "chosen": " " + c, "rejected": " " + r} for x, c, r in triples]
        yield "texts", lines(texts), [], None
        yield "texts_again", lines({k: v if k == "prompt" else t["prompt"] + v for k, v in t.items()} for t in texts), [], None
        ufb = [
            {"prompt": x, "chosen": [user(x), bot(c)], "rejected": [user(x), bot(r)], "score_chosen": float("nan"), "score_rejected": 1.5}
            for x, c, r in triples
        ]
        yield "ultrafeedback_nan", lines(ufb), [], None
        yield "array_over_lines", "\ufeff" + json.dumps(ufb, indent=1), [], None
        packed = lines(ufb).encode()
        yield "ultrafeedback_gz", gzip.compress(packed), [], ufb
        yield "ultrafeedback_zst", zstd(packed), [], ufb
        yield "ultrafeedback_bz2", bz2.compress(packed), [], ufb
        for codec in ["snappy", "zstd"]:
            out = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_pylist(ufb), out, compression=codec)
            yield f"ultrafeedback_parquet_{codec}", out.getvalue().to_pybytes(), [], ufb
        part = lambda m: {**m, "content": [{"type": "text", "text": m["content"][:3]}, {"type": "text", "text": m["content"][3:]}]}
        yield "content_parts", lines({k: [part(m) for m in v] for k, v in row.items()} for row in apart), [], None
        share = lambda who, text: {"from": who, "value": text}
        yield "sharegpt", lines({"conversations": [share("human", x)], "chosen": share("gpt", c), "rejected": share("gpt", r)} for x, c, r in triples), ["--prompt-column", "conversations"], None
        system = ["You help.", None, ""]
        orca = [{"system": system[i % 3], "question": x, "chosen": c, "rejected": r} for i, (x, c, r) in enumerate(triples)]
        yield "orca_some_systems", lines(orca), ["--prompt-column", "question"], None
        yield "system_message", lines({"chosen": [{"role": "system", "content": "Be brief."}, user(x), bot(c)], "rejected": [{"role": "system", "content": "Be brief."}, user(x), bot(r)]} for x, c, r in triples), [], None

    def own_data(self, name):
        worst, done = [0.0, 0.0], []
        for layout, data, flags, rows in self.layouts():
            file = self.scratch / f"{layout}.data"
            file.write_bytes(data.encode() if isinstance(data, str) else data)
            try:
                by_pair, by_loss, _, _ = training.compare(self.program, str(self.root / "base_NX/model"), str(file), flags, rows)
            except ValueError as why:
                raise Wrong(f"{layout}: {why}") from why
            need(max(by_pair, by_loss) < SUM_NEAR, f"{layout}: step 1 is {by_pair:.1e} from a pair, SFT's {by_loss:.1e} from a reply")
            worst = [max(worst[0], by_pair), max(worst[1], by_loss)]
            done.append(layout)
        return f"step 1: logps {worst[0]:.1e}, SFT loss {worst[1]:.1e} at most, over {len(done)} layouts: {', '.join(done)}"

    def own_templates(self, name):
        """Templates of our own, with models whose tokenizers end texts and begin them in different ways."""
        from compatibility import TEMPLATES

        worst, done = [0.0, 0.0], 0
        for base in ["eos_of_tokenizer", "template_without_bos"]:
            for template in ["chatml", "generation", "generation_lines", "llama2", "tools_branch"]:
                folder = self.scratch / f"{base}-{template}"
                shutil.copytree(self.model(base), folder)
                for file in folder.iterdir():
                    file.chmod(0o644)
                (folder / "chat_template.jinja").write_text(TEMPLATES[template])
                file = self.root / base / "chat.jsonl"
                try:
                    by_pair, by_loss, _, _ = training.compare(self.program, str(folder), str(file), [])
                except ValueError as why:
                    raise Wrong(f"{base}, {template}: {why}") from why
                need(max(by_pair, by_loss) < SUM_NEAR, f"{base}, {template}: step 1 is {by_pair:.1e} from a pair, SFT's {by_loss:.1e} from a reply")
                worst, done = [max(worst[0], by_pair), max(worst[1], by_loss)], done + 1
        return f"step 1: logps {worst[0]:.1e}, SFT loss {worst[1]:.1e} at most, over {done} pairs of a model and a template"

    def orca(self, name):
        done, _ = self.run(name, self.command(name))
        words = done.stderr.strip()
        for part in ["question", "system", "chosen", "rejected", "--prompt-column"]:
            need(part in words, f"the refusal does not name {part}: {words}")
        need(done.returncode == 1 and len(words.splitlines()) == 1, f"exit code {done.returncode}: {words}")
        return f"refused: {words.removeprefix('error: ')}; with --prompt-column question: {self.data(name, 'orca.jsonl', '--prompt-column', 'question')}"

    def template(self, name):
        """Prompts of the run are those of the model's own template, with nothing put in front."""
        said, done, out = self.trained(name, "chat.jsonl")
        tokenizer = AutoTokenizer.from_pretrained(self.model(name))
        model = AutoModelForCausalLM.from_pretrained(self.model(name), dtype=torch.float32)
        ends = training.end_tokens(self.model(name), model, tokenizer)
        asked, begun = set(), set()
        for row in training.records(self.root / name / "chat.jsonl"):
            prompt, _, _ = training.token_pair(row, "prompt", tokenizer, ends)
            asked.add(tokenizer.decode(prompt, skip_special_tokens=True))
            begun.add(prompt[0])
        responses = [json.loads(line) for line in (out / "responses.jsonl").read_text().splitlines()]
        odd = [r["prompt"] for r in responses if r["prompt"] not in asked]
        need(not odd, f"{odd[:1]} is no prompt of the template")
        words = (done.stdout + done.stderr).split("\n")
        used = [w for w in words if "chat template of" in w]
        need(len(used) == 1, f"which form is used is said {len(used)} times")
        return f"{len(responses)} prompts are the template's and begin with {sorted(begun)}, said once; {said}"

    def end_of_tokenizer(self, name):
        said, done, out = self.trained(name, "chat.jsonl")
        tokenizer = AutoTokenizer.from_pretrained(self.model(name))
        words = [w for w in done.stdout.splitlines() if f"{tokenizer.eos_token_id} ends the replies of training" in w]
        need(len(words) == 1, f"the end token is said {len(words)} times: {done.stdout}")
        saved = json.loads((out / "policies/rto/config.json").read_text())["eos_token_id"]
        return f"{said}; said: {words[0].split(': ', 1)[-1]}; saved: {saved}"

    def oracle(self, name, data):
        command = self.command(name).replace("std.jsonl", str(data))
        # The held-out prompts that a smoke run wants, as the other cases name them.
        done, out = self.sound(name, command, "--set", "held_out_share=0.3")
        tokenizer = AutoTokenizer.from_pretrained(self.model(name))
        model = AutoModelForSequenceClassification.from_pretrained(self.model(name), dtype=torch.float32)
        end, far, n = model.config.eos_token_id, 0.0, 0
        for line in (out / "responses.jsonl").read_text().splitlines():
            row = json.loads(line)
            a, b = training.cut(tokenizer, row["prompt"], row["response"], False)
            ids = (a + b)[: model.config.max_position_embeddings - 1] + ([end] if row["finished"] else [])
            with torch.no_grad():
                far = max(far, abs(row["reward"] - model(torch.tensor([ids])).logits[0, 0].item()))
            n += 1
        need(far < NEAR, f"rewards are {far:.1e} apart")
        said = [w for w in done.stdout.splitlines() if "--oracle" in w]
        need(said, f"nothing is said of the reward model: {done.stdout}")
        return f"{n} rewards {far:.1e} from transformers; said: {'; '.join(w.split(': ', 1)[-1] for w in said)}"

    def own_oracles(self, name):
        """The reward models of the cases on other data: how a reply is read must not depend on its layout."""
        said, wanted = [], ["conversation_longer", "ultrafeedback_nan"]
        for layout, data, _, _ in self.layouts():
            if layout in wanted:
                file = self.scratch / f"oracle-{layout}.jsonl"
                file.write_text(data)
                said += [f"{oracle}, {layout}: {self.oracle(oracle, file).split(';')[0]}" for oracle in ["oracle_pad_is_eos", "oracle_lmhead_left"]]
        need(len(said) == 2 * len(wanted), f"{len(said)} runs")
        return "; ".join(said)

    def base(self, name):
        far, n = self.texts(name)
        need(far < NEAR, f"log-probabilities are {far:.1e} apart")
        return f"{n} texts of ours: ids equal, {far:.1e}"

    def rows(self):
        standard = self.root / "oracle_pad_is_eos/std.jsonl"
        yield from (
            (name, self.score)
            for name in ["tokenizer_truncation", "tokenizer_padding", "sentencepiece_blank", "tied_head_differs", "added_tokens_in_config", "invtop", "bom_tokenizer"]
        )
        yield "add_prefix_space", self.prompt_ids
        yield "eos_list", self.ends
        yield from ((name, self.template) for name in ["template_generation_tag", "template_jinja_without_tokenizer_config", "template_without_bos"])
        yield "eos_of_tokenizer", self.end_of_tokenizer
        yield "oracle_pad_is_eos", lambda name: self.oracle(name, standard)
        yield "oracle_lmhead_left", lambda name: self.oracle(name, standard)
        yield "data_prompt_repeated", lambda name: self.data(name, "conv_repeat.jsonl")
        yield "data_ultrafeedback", lambda name: self.data(name, "ufb.jsonl")
        yield "data_array", lambda name: self.data(name, "arr.json")
        yield "data_orca", self.orca
        yield "base_NX", self.base
        yield "data of our own", self.own_data
        yield "templates of our own", self.own_templates
        yield "oracles of our own", self.own_oracles


def zstd(data):
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as packer:
        packer.write(data)
    return out.getvalue().to_pybytes()


def distance(a, b):
    need(len(a) == len(b), f"{len(a)} numbers, expected {len(b)}")
    return max(abs(x - y) for x, y in zip(a, b))


def log_probs(model, prompt, reply):
    with torch.no_grad():
        at = torch.log_softmax(model(torch.tensor([prompt + reply])).logits[0].double(), -1)
    return [at[len(prompt) + i - 1, t].item() for i, t in enumerate(reply)]


def main():
    program, root = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    wanted, wrong = sys.argv[3:], 0
    print("| case | holds | figures |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        cases = Cases(program, root, Path(scratch))
        rows = list(cases.rows())
        left = {p.name for p in root.iterdir() if p.is_dir()} - {name for name, _ in rows}
        for name, check in rows:
            if wanted and name not in wanted:
                continue
            try:
                holds, said = "yes", check(name)
            except Wrong as why:
                holds, said, wrong = "**no**", str(why), wrong + 1
            said = " ".join(said.split()).replace("|", "\\|")
            print(f"| {name} | {holds} | {said} |", flush=True)
    for name in sorted(left):
        print(f"| {name} | **not run** | |")
    if wrong or left:
        sys.exit(1)


if __name__ == "__main__":
    main()
