"""`rto.llm` against numbers that transformers computed, and against the program `rto_llm` bit by bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rto import llm

FIXTURES = Path(__file__).resolve().parents[3] / "bridge" / "tests" / "fixtures"
CASES = json.loads((FIXTURES / "compatibility" / "cases.json").read_text())["texts"]
BYTES = FIXTURES / "compatibility" / "bytes"
PAIRS = sorted(f.parent for f in FIXTURES.glob("*/policy") if (f.parent / "io.safetensors").exists() and "experts" not in str(f))


def tensors(file):
    """The tensors of a safetensors file by name."""
    raw = Path(file).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8 : 8 + size])
    kinds = {"F32": np.float32, "I64": np.int64}
    out = {}
    for name, entry in head.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            out[name] = np.frombuffer(raw[8 + size :][first:last], kinds[entry["dtype"]]).reshape(entry["shape"])
    return out


def merged(value, patch):
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    out = dict(value) if isinstance(value, dict) else {}
    for key, new in patch.items():
        if new is None:
            out.pop(key, None)
        else:
            out[key] = merged(out.get(key), new)
    return out


def folder_of(case, root):
    folder = shutil.copytree(FIXTURES / "compatibility" / case["base"], root / case["name"])
    for name, patch in (case["files"] or {}).items():
        file = folder / name
        if patch is None:
            file.unlink()
        elif isinstance(patch, str):
            file.parent.mkdir(exist_ok=True)
            file.write_text(patch)
        else:
            file.write_text(json.dumps(merged(json.loads(file.read_text()) if file.exists() else None, patch)))
    if case["bom"]:
        for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
            (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_texts_are_cut_and_scored_as_transformers_does(case, tmp_path):
    model = llm.Model(str(folder_of(case, tmp_path)))
    for line in case["lines"]:
        if line.get("refused"):
            with pytest.raises(ValueError, match="expected one below the vocabulary's"):
                llm.score(model, [line["prompt"]], [line["response"]])
    lines = [line for line in case["lines"] if not line.get("refused")]
    found = llm.score(model, [c["prompt"] for c in lines], [c["response"] for c in lines])
    for k, line in enumerate(lines):
        assert found["token_ids"][k] == line["response_ids"]
        assert model.pair(line["prompt"], line["response"])[0] == line["prompt_ids"]
        np.testing.assert_allclose(found["log_probs"][k], line["log_probs"], rtol=2e-5, atol=2e-5)
    # Ids say what their texts say.
    again = llm.score(model, [c["prompt_ids"] for c in lines], [c["response_ids"] for c in lines])
    assert [list(a) for a in again["log_probs"]] == [list(a) for a in found["log_probs"]]


@pytest.mark.parametrize("folder", PAIRS, ids=lambda f: f.name)
def test_token_rewards_are_those_of_transformers(folder):
    """(4.5) for every family: β (log π - log π_ref) at every token behind the first."""
    want = tensors(folder / "io.safetensors")
    rows = want["plain.input_ids"].tolist()
    prompts, responses = [r[:1] for r in rows], [r[1:] for r in rows]
    found = llm.token_rewards(folder / "policy", folder / "ref", prompts, responses, beta=0.3)
    rewards = 0.3 * (want["plain.token_logprobs"].astype(float) - want["plain.ref_token_logprobs"])
    np.testing.assert_allclose(found, rewards, rtol=1e-4, atol=1e-4)
    sums = llm.score(folder / "policy", prompts, responses)["log_probs"]
    np.testing.assert_allclose(sums, want["plain.token_logprobs"], rtol=1e-4, atol=1e-4)


def test_greedy_is_that_of_transformers():
    folder = FIXTURES / "generation" / "plain"
    want = tensors(folder / "expected.safetensors")
    prompts = [[t for t, m in zip(ids, mask) if m] for ids, mask in zip(want["left.ids"].tolist(), want["left.mask"])]
    model = llm.Model(str(folder))
    found = llm.generate(model, prompts, greedy=True, max_new_tokens=12)
    for got, end, whole in zip(found["token_ids"], found["finish"], want["left.greedy"].tolist()):
        assert got == whole[: len(got)] and (end == "eos" or len(got) == 12)


def test_a_sample_is_of_the_law_it_names():
    model = llm.Model(str(BYTES))
    found = llm.generate(model, ["Human: Hi"], samples=3, max_new_tokens=9, seed=5)
    scored = llm.score(model, found["prompt_ids"], found["token_ids"])
    for drawn, given in zip(found["log_probs"], scored["log_probs"]):
        np.testing.assert_allclose(drawn, given, atol=1e-4)
    assert found["prompt"] == [0, 0, 0] and len({tuple(t) for t in found["token_ids"]}) > 1
    split = llm.generate(llm.Model(str(BYTES), threads=2), ["Human: Hi"], samples=3, max_new_tokens=9, seed=5, batch=1)
    assert split["token_ids"] == found["token_ids"] and split["text"] == found["text"]
    firsts = llm.generate(model, ["a", "b"], samples=400, max_new_tokens=1, seed=1)
    seen = [ids[0] for ids, p in zip(firsts["token_ids"], firsts["prompt"]) if p == 0]
    vocabulary = range(model.vocabulary)
    p = np.exp(np.concatenate(llm.score(model, ["a"] * len(vocabulary), [[t] for t in vocabulary])["log_probs"]))
    assert p.sum() == pytest.approx(1, abs=1e-5)
    top = int(p.argmax())
    assert abs(np.mean([t == top for t in seen]) - p[top]) < 4 * np.sqrt(p[top] * (1 - p[top]) / 400)


def program(*arguments):
    binary = os.environ.get("RTO_LLM")
    if binary is None:
        pytest.skip("RTO_LLM names no program to compare with")
    done = subprocess.run([binary, *map(str, arguments), "--json", "--quiet"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_scores_and_samples_are_the_programs(tmp_path):
    other = FIXTURES / "compatibility" / "tied_head_equal"
    lines = [{"prompt": c["prompt"], "response": c["response"]} for c in CASES[0]["lines"]]
    file = tmp_path / "lines.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["--model", BYTES, "--reference", BYTES, "--input", file, "--beta", "0.3"]
    found = llm.score(BYTES, [c["prompt"] for c in lines], [c["response"] for c in lines], reference=BYTES, beta=0.3)
    for k, want in enumerate(program("score", *arguments)):
        assert {key: found[key][k] if key in ("token_ids", "tokens") else list(found[key][k]) for key in want} == want
    for folder, more, asked in [
        (BYTES, [], {}),
        (other, ["--top-p", 0.9, "--top-k", 20, "--min-new-tokens", 3, "--temperature", 0.8], dict(top_p=0.9, top_k=20, min_new_tokens=3, temperature=0.8)),
    ]:
        want = program("generate", "--model", folder, "--input", file, "--samples", 2, "--seed", 7, "--max-new-tokens", 8, *more)
        got = llm.generate(folder, [c["prompt"] for c in lines], samples=2, seed=7, max_new_tokens=8, **asked)
        for k, line in enumerate(want):
            assert {key: list(got[key][k]) if key == "log_probs" else got[key][k] for key in line if key != "tokens"} == {
                key: value for key, value in line.items() if key != "tokens"
            }


def test_bad_input_is_named(tmp_path):
    model = llm.Model(str(BYTES))
    policy = str(FIXTURES / "neox_parallel_rot25" / "policy")
    for call, line in [
        (lambda: llm.Model(str(tmp_path / "none")), "none"),
        (lambda: llm.Model(str(BYTES), threads=0), "threads"),
        (lambda: llm.Model(str(FIXTURES / "compatibility" / "score")), "classification"),
        (lambda: llm.score(3, ["a"], ["b"]), "model: found"),
        (lambda: llm.score(model, "a", ["b"]), "prompts: found"),
        (lambda: llm.score(model, ["a"], ["b", "c"]), "responses: found 2"),
        (lambda: llm.score(model, ["a"], ["b"], beta=0), "beta"),
        (lambda: llm.score(model, ["a"], ["b"], beta=float("nan")), "beta"),
        (lambda: llm.score(model, ["a"], [None]), "row 0, response: found"),
        (lambda: llm.score(model, ["a"], [[-1]]), "row 0, response: found"),
        (lambda: llm.score(model, ["a"], [[10**6]]), "row 0, response: found token 1000000"),
        (lambda: llm.score(model, [[]], [[1]]), "empty prompt"),
        (lambda: llm.score(model, [[1]], [[1] * 10**5]), "context"),
        (lambda: llm.score(policy, ["a"], ["b"]), "no tokenizer"),
        (lambda: llm.score(model, [[1]], [[1]], reference=policy), "reference: found a vocabulary"),
        (lambda: model.log_probs([([10**6], [1])]), "row 0"),
        (lambda: model.pieces([10**6]), "ids"),
        (lambda: llm.generate(model, ["a"], max_new_tokens=0), "max_new_tokens"),
        (lambda: llm.generate(model, ["a"], temperature=0.0), "temperature"),
        (lambda: llm.generate(model, ["a"], top_p=1.5), "top_p"),
        (lambda: llm.generate(model, ["a"], top_p=float("nan")), "top_p"),
        (lambda: llm.generate(model, ["a"], min_new_tokens=99), "min_new_tokens"),
        (lambda: llm.generate(model, ["a"], samples=0), "samples"),
        (lambda: llm.generate(model, ["a"], samples=2, greedy=True), "samples"),
        (lambda: llm.generate(model, [""]), r"prompts\[0\]"),
    ]:
        with pytest.raises(ValueError, match=line) as refused:
            call()
        assert "\n" not in str(refused.value)


def test_models_show_themselves():
    model = llm.Model(str(BYTES))
    assert "vocabulary" in model._repr_html_() and repr(model).startswith("Model(")
    assert model.decode(model.encode(" Sure")) == " Sure" and "".join(model.pieces(model.encode(" Sure"))) == " Sure"


SLOW = """
import signal, sys, threading
from rto import llm
signal.signal(signal.SIGINT, signal.default_int_handler)
model = llm.Model(sys.argv[1])
print("going", flush=True)
try:
    llm.generate(model, [[1]] * 100_000, max_new_tokens=30)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for a child")
def test_ctrl_c_ends_a_generation():
    child = subprocess.Popen([sys.executable, "-c", SLOW, str(BYTES)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "going\n"
        time.sleep(0.5)
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "stopped\n", child.stderr.read()
        assert time.monotonic() - start < 1.0
        assert child.wait(timeout=60) == 0
    finally:
        child.kill()
        child.communicate()
