"""What the sections of speed.py share: processes that are asked for one piece of work at a time, and the file of results."""
import json
import os
import pathlib
import platform
import select
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benches" / "speed.jsonl"
THREADS = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"]


class Worker:
    """A process on `threads` threads that answers each line it gets with one line of JSON."""

    def __init__(self, command, threads=1, **env):
        count = {name: str(threads) for name in THREADS}
        self.process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **count, **env},
            bufsize=0,
        )
        self.ready = self.answer(None)

    def answer(self, limit):
        """The next line; None after `limit` seconds without one."""
        if limit is not None and not select.select([self.process.stdout], [], [], limit)[0]:
            return None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(self.process.args)}: no answer")
        return json.loads(line)

    def ask(self, line, limit=None):
        self.process.stdin.write(f"{line}\n".encode())
        return self.answer(limit)

    def close(self):
        self.process.kill()
        self.process.wait()


def bench(name, build=True):
    """The path of a bench of the bridge: built now, or as it was built last."""
    if not build:
        built = [f for f in (ROOT / "target" / "release" / "deps").glob(f"{name}-*") if not f.suffix]
        return max(built, key=lambda f: f.stat().st_mtime, default=None) or sys.exit(f"{name}: not built")
    command = ["cargo", "bench", "--package", "rto-bridge", "--bench", name, "--no-run", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if built.returncode != 0:
        sys.exit(f"{' '.join(command)}: {built.stderr.strip()}")
    found = [json.loads(text) for text in built.stdout.splitlines() if text.startswith("{")]
    return next(m["executable"] for m in found if m.get("executable") and m["target"]["name"] == name)


def machine():
    names = [l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")]
    family = [l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith(("cpu family", "model\t"))][:2]
    return f"{names[0]} (family {family[0]}, model {family[1]}), {len(names)} cores, {platform.system()}"


def rows():
    return [json.loads(text) for text in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def keep(row):
    named = lambda r: tuple(r[k] for k in ("section", "work", "peer", "machine"))
    same = lambda r: named(r) == named(row)
    kept = [r for r in rows() if not same(r)] + [row]
    kept.sort(key=lambda r: (r["section"], r["key"], r["peer"], r["machine"]))
    RESULTS.write_text("".join(json.dumps(r) + "\n" for r in kept))


def seconds(x):
    return f"{x * 1e3:.3g} ms" if x < 1 else f"{x:.3g} s"
