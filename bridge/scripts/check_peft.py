"""Adapters written by this crate load in PEFT with the same logits, and the other way round.

    pip install torch transformers peft safetensors
    python bridge/scripts/check_peft.py [FOLDER ...]      # from anywhere in the repository

Runs over the fixtures and over every model folder named, with several ranks, targets and scales. The example `lora` is our half. Agreement
is to 1e-5 of the largest number. Ends with 'all N adapters agree' or a non-zero exit.
"""
import json, os, subprocess, sys, tempfile
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from make_lora_fixtures import FIXTURES, IDS, randomise
from roundtrip import FAMILIES

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOLERANCE = 1e-5
EVERY = "query_key_value,attention.dense,dense_h_to_4h,dense_4h_to_h"
# rank, alpha, targets, rank-stabilised
NEOX = [(4, 8, "query_key_value", False), (3, 2.5, EVERY, False), (5, 4, "mlp.dense_4h_to_h,attention.dense", True),
        (40, 16, "layers.0.attention.query_key_value", False)]
GPT2 = [(4, 8, "c_attn", False), (3, 2.5, "c_attn,c_proj,c_fc", True), (20, 16, "h.1.mlp.c_proj,h.0.attn.c_attn", False)]
PHI3 = [(4, 8, "qkv_proj", False), (3, 2.5, "qkv_proj,o_proj,gate_up_proj,down_proj", True), (20, 16, "layers.1.mlp.gate_up_proj", False)]
TARGETS = {"gpt_neox": NEOX, "gpt2": GPT2, "phi3": PHI3}
LLAMA = [(4, 8, "q_proj,v_proj", False), (3, 2.5, "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj", True),
         (20, 16, "layers.1.mlp.down_proj,layers.0.self_attn.k_proj", False)]


def ours(*arguments):
    command = ["cargo", "run", "-q", "-p", "rto-bridge", "--example", "lora", "--", *map(str, arguments)]
    found = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    return found["beside"], found["merged"]


def task(folder):
    return "SEQ_CLS" if "SequenceClassification" in AutoConfig.from_pretrained(folder).architectures[0] else "CAUSAL_LM"


def base(folder):
    kind = AutoModelForCausalLM if task(folder) == "CAUSAL_LM" else AutoModelForSequenceClassification
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def widened(folder, scratch):
    """The base in float32, in which both sides compute."""
    if AutoConfig.from_pretrained(folder).dtype == torch.float32:
        return folder
    wide = os.path.join(scratch, os.path.basename(os.path.dirname(folder)))
    base(folder).save_pretrained(wide)
    return wide


def theirs(net):
    with torch.no_grad():
        whole = net.eval()(torch.tensor([IDS])).logits[0]
        # One reward may happen to be near 0; those of every beginning of the text have a size.
        parts = [net(torch.tensor([IDS[:n]])).logits[0] for n in range(2, len(IDS) + 1)]
    return whole if whole.dim() == 2 else torch.cat(parts)


def compare(what, found, expected, plain):
    assert (expected - plain).abs().max() > 1e-2 * plain.abs().max(), f"{what}: the adapter changes nothing"
    for way, numbers in zip(("beside", "merged"), found):
        numbers = torch.tensor(numbers["logits"]) if "logits" in numbers else torch.tensor(numbers["rewards"])
        apart = float((numbers - expected).abs().max() / expected.abs().max())
        print(f"{what}, {way}: {apart:.1e}")
        assert apart < TOLERANCE, (what, way, apart)


def main():
    folders = [os.path.join(FIXTURES, f) for f in ("neox_parallel_rot25/policy", "neox_sequential_rot100/policy", "generation/reward", "llama_scaled_untied/policy",
                                                        "llama_grouped_tied/policy", "mistral_window/policy", "generation/judge")]
    folders += [os.path.join(FIXTURES, f"{family}/policy") for family in FAMILIES]
    folders += [os.path.abspath(f) for f in sys.argv[1:]]
    count = 0
    wide = tempfile.TemporaryDirectory()
    for place in folders:
        folder = widened(place, wide.name)
        plain, ids = theirs(base(folder)), ",".join(map(str, IDS))
        for rank, alpha, targets, rslora in TARGETS.get(AutoConfig.from_pretrained(folder).model_type, LLAMA):
            with tempfile.TemporaryDirectory() as scratch:
                name = f"{os.path.relpath(place, ROOT)} r={rank} {targets}"
                adapter = os.path.join(scratch, "ours")
                found = ours("make", folder, adapter, rank, alpha, targets, str(rslora).lower(), ids)
                compare(f"{name}: ours in PEFT", found, theirs(PeftModel.from_pretrained(base(folder), adapter)), plain)
                config = LoraConfig(task_type=task(folder), r=rank, lora_alpha=alpha, use_rslora=rslora,
                                    target_modules=targets.split(","))
                net = get_peft_model(base(folder), config)
                randomise(net, rank)
                adapter = os.path.join(scratch, "theirs")
                net.save_pretrained(adapter)
                compare(f"{name}: PEFT's in ours", ours("load", folder, adapter, ids), theirs(net), plain)
                count += 2
    print(f"all {count} adapters agree")


if __name__ == "__main__":
    main()
