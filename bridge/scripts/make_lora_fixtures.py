"""Writes `bridge/tests/fixtures/lora`: adapters made by PEFT and what PEFT computes with them.

    pip install torch transformers peft safetensors && python bridge/scripts/make_lora_fixtures.py

Run with torch 2.15.0, transformers 5.24.0 and peft 0.21.2 on a CPU in f32. The bases are fixtures that are there already; beside each
adapter's folder stands a JSON file with the base, the tokens of a text, and logits `[tokens][vocab]` or the reward of the whole text.
"""
import json, os, shutil
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

FIXTURES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests/fixtures")
IDS = [5, 17, 9, 33, 2, 60, 41]
torch.set_num_threads(1)


def randomise(net, seed):
    """Large enough that every factor moves the logits."""
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(net.named_parameters()):
            if weight.requires_grad:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=stream))


def write(name, base, task, seed, **settings):
    kind = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModelForSequenceClassification
    net = kind.from_pretrained(os.path.join(FIXTURES, base), dtype=torch.float32, attn_implementation="eager")
    net = get_peft_model(net, LoraConfig(task_type=task, lora_dropout=0.05, **settings)).eval()
    randomise(net, seed)
    folder = os.path.join(FIXTURES, "lora", name)
    shutil.rmtree(folder, ignore_errors=True)
    # A name that says nothing about the machine it was made on.
    net.peft_config["default"].base_model_name_or_path = base
    net.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    with torch.no_grad():
        out = net(torch.tensor([IDS])).logits[0]
    expected = {"base": base, "ids": IDS, "logits" if task == "CAUSAL_LM" else "reward": out.tolist()}
    with open(folder + ".json", "w") as file:
        json.dump(expected, file)
        file.write("\n")


if __name__ == "__main__":
    write("causal", "neox_parallel_rot25/policy", "CAUSAL_LM", 1, r=3, lora_alpha=8,
          target_modules=["query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"])
    write("sequential", "neox_sequential_rot100/policy", "CAUSAL_LM", 2, r=2, lora_alpha=3, use_rslora=True,
          target_modules=["query_key_value", "layers.1.mlp.dense_4h_to_h"])
    write("reward", "generation/reward", "SEQ_CLS", 3, r=2, lora_alpha=4, target_modules=["query_key_value"])
    write("llama", "llama_scaled_untied/policy", "CAUSAL_LM", 4, r=2, lora_alpha=4,
          target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
