#!/usr/bin/env python3
"""Kills a run of rto_llm at random moments and checks that it ends as if nothing had happened.

    cargo build --bin rto_llm
    python3 bridge/scripts/kill_resume.py target/debug/rto_llm FOLDER [--kills 10] [--seed 0] [-- FLAGS OF THE RUN]

FOLDER gets two runs, `whole` and `killed`. The second is ended by SIGKILL after random times drawn so that all stages are
hit, started again each time with the same command, and at last left alone. All files but timings.json and TensorBoard's event
files, which carry the wall clock, must then have the same bytes. Exit code 0 if they do.
"""
import argparse, hashlib, pathlib, random, subprocess, sys, time


def start(program, folder, flags):
    return subprocess.Popen([program, "--quiet", "--out", folder, *flags], stdout=subprocess.DEVNULL)


def contents(folder):
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "timings.json" and "tfevents" not in p.name)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def where(folder):
    stages = sorted((p for p in (folder / "metrics").glob("*.jsonl")), key=lambda p: p.stat().st_mtime)
    return stages[-1].stem if stages else "before the first stage"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("flags", nargs="*")
    args = parser.parse_args()
    whole, killed = args.folder / "whole", args.folder / "killed"
    begin = time.monotonic()
    if start(args.program, whole, args.flags).wait() != 0:
        sys.exit("the undisturbed run failed")
    length = time.monotonic() - begin
    print(f"undisturbed: {length:.0f} s", flush=True)
    rng = random.Random(args.seed)
    for kill in range(args.kills):
        wait = rng.uniform(0.3, 1.7) * length / (args.kills + 1)
        process = start(args.program, killed, args.flags)
        try:
            process.wait(wait)
            sys.exit(f"the run ended before kill {kill + 1}")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        print(f"kill {kill + 1} after {wait:.1f} s, in or after {where(killed)}", flush=True)
    if start(args.program, killed, args.flags).wait() != 0:
        sys.exit("the killed run did not end well")
    a, b = contents(whole), contents(killed)
    different = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    print(f"{len(a)} files compared; different: {', '.join(different) or 'none'}")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
