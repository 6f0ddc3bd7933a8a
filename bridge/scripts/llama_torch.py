"""SmolLM2-135M's shape in PyTorch with Hugging Face: what `--bench train -- smollm2` and `--bench generate -- smollm2` are held against.

    pip install torch transformers
    python bridge/scripts/llama_torch.py [--threads 1] [--repetitions 3] [--tasks sft,dpo,generate,loop]

Random weights, f32, the same batches as the benches. A line of JSON per task: medians of CPU seconds after one warm-up.
"""
import argparse, json, os, statistics, time
parser = argparse.ArgumentParser()
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--repetitions", type=int, default=3)
parser.add_argument("--tasks", default="sft,dpo,generate,loop")
args = parser.parse_args()
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS=str(args.threads))
import torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM
transformers.logging.set_verbosity_error()
torch.set_num_threads(args.threads)
BATCH, LENGTH, PROMPT = 4, 128, 32
SAMPLES, NEW = 16, 64
CONFIG = LlamaConfig(vocab_size=49152, hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536,
                     max_position_embeddings=2048, rms_norm_eps=1e-5, rope_theta=1e5, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0)
CONFIG._attn_implementation = "sdpa"


def model(seed):
    torch.manual_seed(seed)
    return LlamaForCausalLM(CONFIG)


def log_probs(net, ids, keep):
    logits = net(ids, logits_to_keep=keep + 1).logits[:, :-1]
    return torch.log_softmax(logits, -1).gather(-1, ids[:, -keep:, None])[..., 0]


def sft():
    net, ids = model(0), torch.randint(0, 49152, (BATCH, LENGTH))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def step():
        optimizer.zero_grad(set_to_none=True)
        net(ids, labels=ids).loss.backward()
        optimizer.step()
    return step, "tokens", BATCH * LENGTH


def dpo():
    net, ref, ids = model(0), model(1).eval(), torch.randint(0, 49152, (BATCH, LENGTH))
    optimizer, keep = torch.optim.AdamW(net.parameters(), lr=1e-4), LENGTH - PROMPT

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            fixed = log_probs(ref, ids, keep).sum(1)
        d = 0.1 * (log_probs(net, ids, keep).sum(1) - fixed)
        (-torch.nn.functional.logsigmoid(d[:BATCH // 2] - d[BATCH // 2:]).mean()).backward()
        optimizer.step()
    return step, "pairs", BATCH // 2


def generate():
    net, ids = model(0).eval(), torch.randint(1, 49152, (SAMPLES, PROMPT))

    def step():
        net.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, top_p=1.0, temperature=0.9, min_new_tokens=NEW, max_new_tokens=NEW,
                     pad_token_id=0)
    return step, "tokens", SAMPLES * NEW


def loop():
    net, ids = model(0).eval(), torch.randint(1, 49152, (SAMPLES, PROMPT))

    @torch.inference_mode()
    def step():
        out = net(ids, use_cache=True, logits_to_keep=1)
        for i in range(NEW):
            token = torch.multinomial((out.logits[:, -1] / 0.9).softmax(-1), 1)
            if i + 1 < NEW:
                out = net(token, past_key_values=out.past_key_values, use_cache=True)
    return step, "tokens", SAMPLES * NEW


for name in args.tasks.split(","):
    step, unit, count = globals()[name]()
    step()
    seconds = []
    for _ in range(args.repetitions):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    median = statistics.median(seconds)
    print(json.dumps({"task": name, "unit": unit, "per_cpu_second": round(count / median, 2), "cpu_median_s": round(median, 3)}), flush=True)
