#!/usr/bin/env python3
"""PyTorch on the shapes of `card` (bridge/device/examples): a step of supervised fine-tuning with sdpa, checkpointing and fused AdamW in bf16,
and `generate`. Prints a line of JSON each. `--small` runs small shapes on the processor."""

import json
import sys
import time

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

small = sys.argv[1:] == ["--small"]
if sys.argv[1:] and not small:
    sys.exit(f"gpu_torch.py: found {sys.argv[1:]}, expected --small or nothing")
if not small and not torch.cuda.is_available():
    sys.exit("gpu_torch.py: torch sees no card; --small runs on the processor")
device = "cpu" if small else "cuda"
layers, width, heads, vocabulary = (2, 32, 2, 67) if small else (32, 2560, 32, 50304)
texts, length, prompt, new = (2, 11, 5, 3) if small else (16, 512, 128, 128)
slots, warm, count = (2, 1, 1) if small else (64, 2, 5)


def sync():
    if device == "cuda":
        torch.cuda.synchronize()


def report(check, seconds, tokens, **more):
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    line = {"check": check, "executor": "torch", "small": small, "seconds": seconds, "tokens_per_second": tokens / seconds, "peak_bytes": peak}
    print(json.dumps(line | more), flush=True)


torch.manual_seed(0)
config = GPTNeoXConfig(
    vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width, max_position_embeddings=2048
)
config._attn_implementation = "sdpa"
model = GPTNeoXForCausalLM(config).to(device=device, dtype=torch.bfloat16)
ids = torch.randint(0, vocabulary, (texts, length), device=device)

model.eval()
prompts = torch.randint(0, vocabulary, (slots, prompt), device=device)
settings = {"do_sample": True, "max_new_tokens": new, "min_new_tokens": new, "pad_token_id": 0}
with torch.no_grad():
    for _ in range(2):
        sync()
        begun = time.perf_counter()
        model.generate(prompts, attention_mask=torch.ones_like(prompts), **settings)
        sync()
report("generate", time.perf_counter() - begun, slots * new)

model.train()
model.gradient_checkpointing_enable()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.0, fused=device == "cuda")
for step in range(warm + count):
    if step == warm:
        sync()
        begun = time.perf_counter()
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
sync()
# bf16 weights without an f32 master: less memory and arithmetic than the step it is compared with.
report("sft", (time.perf_counter() - begun) / count, texts * length, loss=loss.item())
