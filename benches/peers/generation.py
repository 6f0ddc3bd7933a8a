"""Text written by transformers or llama.cpp, one piece of work for every line of standard input; for benches/speed.py.

    python3 generation.py transformers THREADS
    python3 generation.py make TYPE FILE              a GGUF file of the shape of SmolLM2-135M, random weights in f32, f16 or q8_0 (gguf)
    python3 generation.py llama.cpp THREADS FILE      llama-cpp-python, or its folder in PYTHONPATH and its libraries in LLAMA_CPP_LIB_PATH

A line `ROWS PROMPT NEW` is answered by NEW tokens after each of ROWS random prompts of PROMPT tokens, sampled at temperature 0.9 without
truncation, with a key-value cache: CPU seconds of the process and wall seconds.
"""
import json
import os
import sys
import time

import numpy as np

VOCABULARY, WIDTH, LAYERS, HEADS, KV_HEADS, INNER, POSITIONS = 49152, 576, 30, 9, 3, 1536, 2048


def say(**answer):
    print(json.dumps(answer), flush=True)


def serve(write, prepare):
    for line in sys.stdin:
        rows, prompt, new = map(int, line.split())
        prompts = np.random.default_rng(0).integers(1, VOCABULARY, (rows, prompt))
        ready = prepare(rows, prompt + new)
        cpu, wall = time.process_time(), time.perf_counter()
        write(ready, prompts, new)
        say(cpu_s=time.process_time() - cpu, wall_s=time.perf_counter() - wall)


def transformers(threads):
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformer import network

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = network("smollm2").eval()
    model.generation_config.eos_token_id = None
    say(weights=sum(p.numel() for p in model.parameters()))

    def write(_, prompts, new):
        ids = torch.from_numpy(prompts)
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=0.9, top_k=0, top_p=1.0, max_new_tokens=new,
            pad_token_id=0,
        )  # fmt: skip
        assert out.shape[1] == ids.shape[1] + new

    serve(write, lambda rows, length: None)


def make(kind, path):
    import gguf

    rng = np.random.default_rng(0)
    type_ = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0}[kind]
    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(POSITIONS)
    file.add_embedding_length(WIDTH)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(INNER)
    file.add_head_count(HEADS)
    file.add_head_count_kv(KV_HEADS)
    file.add_rope_freq_base(1e5)
    file.add_rope_dimension_count(WIDTH // HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_vocab_size(VOCABULARY)
    file.add_tokenizer_model("no_vocab")

    def matrix(name, rows, columns):
        values = (0.02 * rng.standard_normal((rows, columns))).astype(np.float32)
        file.add_tensor(name, gguf.quants.quantize(values, type_), raw_dtype=type_)

    def norm(name):
        file.add_tensor(name, np.ones(WIDTH, np.float32))

    keys = WIDTH // HEADS * KV_HEADS
    matrix("token_embd.weight", VOCABULARY, WIDTH)
    norm("output_norm.weight")
    for i in range(LAYERS):
        norm(f"blk.{i}.attn_norm.weight")
        norm(f"blk.{i}.ffn_norm.weight")
        for name, rows, columns in [
            ("attn_q", WIDTH, WIDTH), ("attn_k", keys, WIDTH), ("attn_v", keys, WIDTH), ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", INNER, WIDTH), ("ffn_up", INNER, WIDTH), ("ffn_down", WIDTH, INNER),
        ]:  # fmt: skip
            matrix(f"blk.{i}.{name}.weight", rows, columns)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def llama(threads, path):
    import llama_cpp as lib

    silent = lib.llama_log_callback(lambda *_: None)  # held for as long as the library may call it
    lib.llama_log_set(silent, None)
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    if not model:
        sys.exit(f"{path}: llama.cpp does not read it")
    say(weights=lib.llama_model_n_params(model))
    state = {}

    def prepare(rows, length):
        """A context of that size (kept between equal requests, emptied), a batch and samplers."""
        if (rows, length) not in state:
            state.clear()
            params = lib.llama_context_default_params()
            params.n_ctx, params.n_seq_max = max(rows * length, 256), rows
            params.n_batch = params.n_ubatch = max(rows * length, 512)
            params.n_threads = params.n_threads_batch = threads
            params.kv_unified = False
            chains = []
            for row in range(rows):
                chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
                lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_temp(0.9))
                lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(row))
                chains.append(chain)
            state[rows, length] = lib.llama_init_from_model(model, params), lib.llama_batch_init(params.n_batch, 0, 1), chains
        context, batch, chains = state[rows, length]
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        return context, batch, chains

    def decode(context, batch, tokens):
        """Tokens as (token, position, row, whether its logits are read)."""
        batch.n_tokens = len(tokens)
        for i, (token, position, row, read) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, read
            batch.seq_id[i][0] = row
        if lib.llama_decode(context, batch) != 0:
            sys.exit("llama_decode failed")

    def write(ready, prompts, new):
        context, batch, chains = ready
        rows, length = prompts.shape
        last = length - 1
        decode(context, batch, [(int(prompts[r, t]), t, r, t == last) for r in range(rows) for t in range(length)])
        at = [r * length + last for r in range(rows)]
        for step in range(new):
            tokens = [lib.llama_sampler_sample(chain, context, i) for chain, i in zip(chains, at)]
            if step + 1 < new:
                decode(context, batch, [(token, length + step, r, True) for r, token in enumerate(tokens)])
                at = list(range(rows))

    serve(write, prepare)


def main():
    what = sys.argv[1]
    if what == "make":
        make(*sys.argv[2:])
    elif what == "transformers":
        transformers(int(sys.argv[2]))
    else:
        llama(int(sys.argv[2]), sys.argv[3])


if __name__ == "__main__":
    main()
