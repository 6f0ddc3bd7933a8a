"""Folders that are a little other than `save_pretrained` writes them, read here and by `transformers` in f32.

Makes variants of two committed fixtures, scores one text with `rto_llm score` and with transformers, and prints a table: the largest
difference in log-probability, or what each says in place of a number. Needs torch, transformers 5, safetensors.

    python bridge/scripts/check_folders.py target/debug/rto_llm
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
FIXTURES = Path(__file__).parent.parent / "tests/fixtures/generation"
PROMPT, RESPONSE = [5, 9, 33, 7], [12, 4, 40]


def layers(weights, part):
    return [n for n in weights if n.endswith(part)]


def zeros_like_rows(weights, part):
    return {n.replace("weight", "bias"): torch.zeros(weights[n].shape[0]) for n in layers(weights, part)}


def noise(shape, seed):
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def variants():
    """(name, fixture, change of config and weights in place)."""
    yield "as saved", "llama", lambda c, w: None
    yield "inv_freq of every layer", "llama", lambda c, w: w.update(
        {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(2) for i in range(c["num_hidden_layers"])}
    )
    yield "inv_freq of the model", "llama", lambda c, w: w.update({"model.rotary_emb.inv_freq": torch.ones(2)})
    yield "inv_freq of the model (GPT-NeoX)", "plain", lambda c, w: w.update({"gpt_neox.rotary_emb.inv_freq": torch.ones(2)})
    yield "v_head of TRL", "llama", lambda c, w: w.update(
        {"v_head.summary.weight": torch.ones(1, c["hidden_size"]), "v_head.summary.bias": torch.ones(1)}
    )
    yield "score beside the text head", "llama", lambda c, w: w.update({"score.weight": torch.ones(1, c["hidden_size"])})
    yield "pad_token_id -1", "llama", lambda c, w: c.update(pad_token_id=-1)
    yield "pad_token_id beyond the vocabulary", "llama", lambda c, w: c.update(pad_token_id=c["vocab_size"])
    yield "no max_position_embeddings", "llama", lambda c, w: c.pop("max_position_embeddings")
    yield "no max_position_embeddings, vocab_size wrong", "llama", lambda c, w: (c.pop("max_position_embeddings"), c.pop("vocab_size"))
    yield "no rms_norm_eps, rope, bias keys", "llama", lambda c, w: [
        c.pop(k, None) for k in ("rms_norm_eps", "attention_bias", "mlp_bias", "rope_theta", "rope_scaling")
    ]
    yield "no num_key_value_heads", "llama", lambda c, w: c.pop("num_key_value_heads")
    yield "null num_key_value_heads", "mistral", lambda c, w: c.update(num_key_value_heads=None)

    def half_biases(c, w):
        c["attention_bias"] = True
        for k, part in enumerate(("q_proj", "k_proj", "v_proj")):
            for name in layers(w, f"{part}.weight"):
                w[name.replace("weight", "bias")] = noise(w[name].shape[0], k)

    yield "attention_bias, but none of o_proj", "llama", half_biases
    yield "biases of zeros that config.json does not have", "llama", lambda c, w: w.update(zeros_like_rows(w, "q_proj.weight"))

    def dropped(c, w):
        for name in layers(w, "q_proj.weight"):
            w[name.replace("weight", "bias")] = noise(w[name].shape[0], 3)

    yield "biases that config.json does not have", "llama", dropped
    yield "no biases in the norms (GPT-NeoX)", "plain", lambda c, w: [w.pop(n) for n in layers(w, "layernorm.bias")]
    yield "NaN where nothing reads it", "llama", lambda c, w: c.update(initializer_range=float("nan"))
    yield "NaN in rms_norm_eps", "llama", lambda c, w: c.update(rms_norm_eps=float("nan"))
    yield "architectures FSDPLlamaForCausalLM", "llama", lambda c, w: c.update(architectures=["FSDPLlamaForCausalLM"])
    yield "architectures LLaMAForCausalLM", "llama", lambda c, w: c.update(architectures=["LLaMAForCausalLM"])
    yield "architectures AutoModelForCausalLMWithValueHead", "llama", lambda c, w: c.update(
        architectures=["AutoModelForCausalLMWithValueHead"]
    )

    def scaled(where):
        def change(c, w):
            for key in ("rope_parameters", "rope_scaling"):
                c.pop(key, None)
            rope = {"rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            if where == "both":
                rope["original_max_position_embeddings"] = 64
            if where != "nowhere":
                c["original_max_position_embeddings"] = 16
            c["rope_parameters"] = rope

        return change

    yield "original_max_position_embeddings at the top", "llama", scaled("top")
    yield "original_max_position_embeddings in both places", "llama", scaled("both")
    yield "original_max_position_embeddings nowhere", "llama", scaled("nowhere")

    for method, settings in {
        "GPTQ": {"quant_method": "gptq", "bits": 4},
        "AWQ": {"quant_method": "awq", "bits": 4},
        "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "FP8": {"quant_method": "fp8"},
    }.items():
        yield f"quantised: {method}", "llama", lambda c, w, s=settings: c.update(quantization_config=s)
    yield "FSDP's prefix in the names", "llama", lambda c, w: [w.update({f"_orig_mod.{n}": w.pop(n)}) for n in list(w)]


def theirs(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT + RESPONSE])).logits[0].double()
    at = torch.log_softmax(logits, -1)[len(PROMPT) - 1 : -1]
    return [at[i, t].item() for i, t in enumerate(RESPONSE)]


def ours(program, folder):
    line = folder / "in.jsonl"
    line.write_text(json.dumps({"prompt_ids": PROMPT, "response_ids": RESPONSE}) + "\n")
    run = subprocess.run([program, "score", "--model", folder, "--input", line, "--json"], capture_output=True, text=True)
    line.unlink()
    notes = [n for n in run.stderr.splitlines() if n.startswith(f"{folder}: ") and "memory for" not in n]
    said = "; ".join(n.removeprefix(f"{folder}: ") for n in notes)
    if run.returncode != 0:
        return None, run.stderr.strip().splitlines()[-1].replace(f"{folder}/", "")
    return json.loads(run.stdout.splitlines()[0]), said


def main():
    program = Path(sys.argv[1]).resolve()
    print("| folder | transformers | here | note or refusal |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as root:
        for i, (name, fixture, change) in enumerate(variants()):
            folder = Path(root) / f"m{i}"
            shutil.copytree(FIXTURES / fixture, folder)
            (folder / "expected.safetensors").unlink()
            config = json.loads((folder / "config.json").read_text())
            weights = load_file(folder / "model.safetensors")
            change(config, weights)
            (folder / "config.json").write_text(json.dumps(config))
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
            try:
                wanted, theirs_said = theirs(folder), "reads"
            except Exception as e:  # noqa: BLE001
                wanted, theirs_said = None, f"refuses: {type(e).__name__}"
            got, said = ours(program, folder)
            if got is None:
                here = "refused"
            elif wanted is None:
                here = "reads"
            else:
                found = got["log_probs"]
                here = f"reads, {max(abs(a - b) for a, b in zip(wanted, found, strict=True)):.1e}"
            print(f"| {name} | {theirs_said} | {here} | {said} |")


main()
