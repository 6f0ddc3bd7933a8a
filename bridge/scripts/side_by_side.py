#!/usr/bin/env python3
"""Training, generation-and-learning and memory of this package beside PyTorch with Hugging Face models, per CPU second.

    cargo bench -p rto-bridge --bench train --no-run     # prints where the program is
    python3 bridge/scripts/side_by_side.py BASELINES PROGRAM [--runs 3] [--top-p 1.0]

BASELINES is the folder with llm_torch.py; the Python that runs this file needs torch and transformers. One thread; the two
programs run in turn, each a median of its own repetitions; printed are medians over the runs and peak memory. Tasks: SFT
(tokens), DPO (pairs) and an iteration of PPO with token rewards (samples: written, scored, learned from for two epochs).
"""
import argparse, json, os, pathlib, statistics, subprocess, sys


def last_line(command, cwd=None):
    env = dict(os.environ, RAYON_NUM_THREADS="1", QUIET_WAIT="0")
    result = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {result.stderr.strip()[-500:]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baselines", type=pathlib.Path)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--top-p", default="1.0", help="of PyTorch's sampling; training samples from the whole distribution")
    args = parser.parse_args()
    program = args.program.resolve()
    print(f"{'shape':<6} {'task':<5} {'unit':<8} {'PyTorch':>9} {'rto':>9} {'ratio':>6}   {'MB':>6} {'rto':>5}")
    for model in ("tiny", "14m"):
        for task, theirs in (("sft", "train"), ("dpo", "dpo"), ("ppo", "ppo")):
            pairs = []
            for _ in range(args.runs):
                ours = last_line([program, model, task, "--repetitions", 3])
                other = ["llm_torch.py", "--model", model, "--task", theirs, "--threads", 1, "--reps", 3, "--top-p", args.top_p]
                pairs.append((last_line([sys.executable, *other], cwd=args.baselines), ours))
            middle = lambda f: statistics.median(f(p) for p in pairs)
            rates = middle(lambda p: p[0]["rate_per_cpu_s"]), middle(lambda p: p[1]["per_cpu_second"])
            ratio = middle(lambda p: p[1]["per_cpu_second"] / p[0]["rate_per_cpu_s"])
            memory = middle(lambda p: p[0]["peak_rss_mb"]), middle(lambda p: p[1]["peak_mb"])
            unit = pairs[0][1]["unit"]
            print(f"{model:<6} {task:<5} {unit:<8} {rates[0]:>9.2f} {rates[1]:>9.2f} {ratio:>6.2f}   {memory[0]:>6.0f} {memory[1]:>5.0f}", flush=True)


if __name__ == "__main__":
    main()
