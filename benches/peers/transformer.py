"""Training steps of transformers on PyTorch, one for every line of standard input; for benches/speed.py.

    python3 transformer.py SHAPE TASK TYPE THREADS     SHAPE: smollm2, pythia-160m; TASK: sft, dpo; TYPE: f32, bf16 (autocast)

Random weights of the published shapes, 4 texts of 256 tokens, AdamW (fused). sft: mean cross-entropy of every token but the first.
dpo: the texts are two pairs, prompts of 32 tokens; a forward pass of a reference of the same shape, then -log sigma(0.1 margin). The
head is applied to the tokens scored alone. The first line says how many weights there are; the line "peak" is answered with the
GFLOP/s of a product of three square matrices, every other by a step: CPU seconds of the process, wall seconds, loss.
"""
import json
import os
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import torch.nn.functional as F
import transformers

VOCABULARY = {"smollm2": 49152, "pythia-160m": 50304}
TEXTS, LENGTH, PROMPT = 4, 256, 32


def network(shape):
    if shape == "smollm2":
        config = transformers.LlamaConfig(
            vocab_size=49152, hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, head_dim=64,
            intermediate_size=1536, max_position_embeddings=2048, rope_theta=1e5, rms_norm_eps=1e-5, tie_word_embeddings=True,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config)
    config = transformers.GPTNeoXConfig(
        vocab_size=50304, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, rotary_pct=0.25,
        max_position_embeddings=2048, use_parallel_residual=True, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPTNeoXForCausalLM(config)


def log_probs(model, ids, kept):
    logits = model(ids, logits_to_keep=kept + 1, use_cache=False).logits[:, :-1]
    return -F.cross_entropy(logits.flatten(0, 1).float(), ids[:, -kept:].flatten(), reduction="none").view(len(ids), kept)


def peak(kind):
    n = 1024
    a, b = torch.randn(n, n).to(kind), torch.randn(n, n).to(kind)
    out, best = torch.empty(n, n, dtype=kind), float("inf")
    for _ in range(30):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - start)
    return 2e-9 * n**3 / best


def main():
    shape, task, kind, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    model = network(shape)
    reference = network(shape).eval() if task == "dpo" else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, betas=(0.9, 0.95), fused=True)
    ids = torch.randint(0, VOCABULARY[shape], (TEXTS, LENGTH))
    prompt = PROMPT if task == "dpo" else 1
    narrow = torch.bfloat16 if kind == "bf16" else torch.float32

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "bf16"):
            ratio = 0.0
            if reference is not None:
                with torch.no_grad():
                    ratio = log_probs(reference, ids, LENGTH - prompt).sum(1)
            scores = log_probs(model, ids, LENGTH - prompt)
        if reference is None:
            loss = -scores.mean()
        else:
            margin = 0.1 * (scores.sum(1) - ratio)
            loss = -F.logsigmoid(margin[: TEXTS // 2] - margin[TEXTS // 2 :]).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    say = lambda **answer: print(json.dumps(answer), flush=True)
    say(weights=sum(p.numel() for p in model.parameters()))
    for line in sys.stdin:
        if line.strip() == "peak":
            say(gflops=peak(narrow))
            continue
        cpu, wall = time.process_time(), time.perf_counter()
        loss = step()
        say(cpu_s=time.process_time() - cpu, wall_s=time.perf_counter() - wall, loss=loss)


if __name__ == "__main__":
    main()
