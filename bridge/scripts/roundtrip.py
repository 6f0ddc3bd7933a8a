"""Folders written by this crate load in Hugging Face's transformers, with the same logits.

    pip install torch transformers safetensors
    python bridge/scripts/roundtrip.py            # from anywhere in the repository

For each fixture and stored type the example `roundtrip` writes the folder again and prints what our engine computes;
transformers then reads the folder (AutoConfig, AutoModelFor…, AutoTokenizer) and must agree to 1e-5 of the largest
logit, with a report of missing or unexpected weights that is empty. Where no value was rounded, its logits for the written
folder and for the original are the same bits. Ends with 'all N folders agree' or a non-zero exit.
"""
import json, os, subprocess, sys, tempfile
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
import torch, transformers
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FIXTURES = os.path.join(ROOT, "bridge/tests/fixtures/generation")
FAMILIES = ["qwen2_tied", "qwen2_windows", "qwen3_tied", "gpt2_tied", "gemma2_tied", "gemma2_scalar", "gemma3_tied", "gemma3_scaled", "olmo2_untied",
            "phi3_partial"]
IDS = [5, 17, 9, 33, 2, 60, 41]
TOLERANCE = 1e-5
WHOLE, SHARDED = 5_000_000_000, 5_000


def ours(name, to, dtype, shard_bytes):
    command = ["cargo", "run", "-q", "-p", "rto-bridge", "--example", "roundtrip", "--",
               os.path.join(FIXTURES, name), to, dtype, str(shard_bytes), ",".join(map(str, IDS))]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def theirs(folder, kind, clean=True):
    model, report = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not (clean and report[what]), (folder, what, report[what])
    with torch.no_grad():
        return model, model.eval()(torch.tensor([IDS])).logits[0]


def stored_types(folder):
    types = set()
    for file in os.listdir(folder):
        if file.endswith(".safetensors"):
            with safe_open(os.path.join(folder, file), "pt") as f:
                types |= {f.get_slice(k).get_dtype() for k in f.keys()}
    return types


def check(name, dtype, shard_bytes, root):
    folder = os.path.join(root, f"{name.replace('/', '_')}-{dtype}-{shard_bytes}")
    printed = ours(name, folder, dtype, shard_bytes)
    kind = AutoModelForSequenceClassification if "scores" in printed else AutoModelForCausalLM
    model, logits = theirs(folder, kind)
    mine = torch.tensor(printed.get("logits") or printed["scores"][0])
    source = os.path.join(FIXTURES, name)
    exact = dtype == "f32" or stored_types(source) == {dtype.upper()}
    if exact:
        # The original may carry buffers that transformers does not expect.
        assert torch.equal(theirs(source, kind, clean=False)[1], logits), folder
    error = ((mine - logits).abs().max() / logits.abs().max()).item()
    assert error < TOLERANCE, (folder, error)
    assert stored_types(folder) == {dtype.upper()}, stored_types(folder)
    assert os.path.exists(os.path.join(folder, "model.safetensors.index.json")) == (shard_bytes == SHARDED)
    assert str(model.config.dtype or "").endswith("float32")
    if kind is AutoModelForCausalLM:
        assert GenerationConfig.from_pretrained(folder).eos_token_id == 0
    if os.path.exists(os.path.join(FIXTURES, name, "tokenizer.json")):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = tokenizer("Hello, world")["input_ids"]
        assert tokenizer.decode(ids) == "Hello, world" and ids == AutoTokenizer.from_pretrained(source)("Hello, world")["input_ids"]
    print(f"{name:24} {dtype:5} {'sharded' if shard_bytes == SHARDED else 'whole':8} deviates by {error:.1e}{', transformers by no bit' if exact else ''}")


def main():
    names = ["plain", "sharded", "half", "reward"] + [f"../{family}/policy" for family in FAMILIES]
    cases = [(name, dtype, size) for name in names for dtype in ("f32", "f16", "bf16") for size in (WHOLE, SHARDED)]
    with tempfile.TemporaryDirectory() as root:
        for case in cases:
            check(*case, root)
    print(f"transformers {transformers.__version__}: all {len(cases)} folders agree")


if __name__ == "__main__":
    sys.exit(main())
