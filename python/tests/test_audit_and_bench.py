"""`rto.audit` and `rto.bench` are the programs: the same JSON, key by key and bit by bit, and the golden files through both."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rto

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "estimators.json").read_text())["golden"]
PREFERENCE = json.loads((ROOT / "tests" / "golden" / "preference.json").read_text())


def printed(variable, *arguments):
    """The JSON of a program."""
    binary = os.environ.get(variable)
    if binary is None:
        pytest.skip(f"{variable} names no program to compare with")
    done = subprocess.run([binary, *map(str, arguments), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def tree_of(entry):
    keys = ("tree", "A", "H", "eos", "prompt_weights", "theta", "theta_old", "ref_logits", "dpo_logits", "r", "beta", "beta1", "dpo_clip")
    return {k: entry[k] for k in keys}


def test_the_audit_is_the_program(tmp_path):
    tree = tree_of(GOLDEN[0])
    file = tmp_path / "tree.json"
    file.write_text(json.dumps(tree))
    for arguments, call in [
        (["--recipe", "trl.grpo", "--group", "2"], lambda: rto.audit("trl.grpo", group=2)),
        (["--tree", file, "--group", "2", "--batch", "2"], lambda: rto.audit(tree=tree, group=2, batch=2)),
        (["--tree", file, "--recipe", "openrlhf.ppo"], lambda: rto.audit("openrlhf.ppo", file)),
        (["--tree", file, "--recipe", "trl.grpo", "--explain"], lambda: rto.audit("trl.grpo", tree, explain=True)),
        (["--tree", file, "--recipe", "trl.rloo", "--draws", "640"], lambda: rto.audit("trl.rloo", tree, draws=640)),
    ]:
        assert call() == printed("RTO_AUDIT", *arguments)


def test_a_recipe_of_ones_own_is_its_file(tmp_path):
    own = {"reward": "sentence", "advantage": {"group": {"spread": {"group": {"eps": 1e-4}}}}, "kl": {"placement": "loss", "estimator": "k3"}}
    own |= {"beta": 0.1, "responses": 2, "aggregation": "token_mean"}
    file = tmp_path / "mine.toml"
    file.write_text(
        'reward = "sentence"\nbeta = 0.1\nresponses = 2\naggregation = "token_mean"\n'
        'kl = { placement = "loss", estimator = "k3" }\nadvantage = { group = { spread = { group = { eps = 1e-4 } } } }\n'
    )
    a, b = rto.audit(own)["recipes"]["recipe"], rto.audit(file)["recipes"][str(file)]
    assert a == b and a == printed("RTO_AUDIT", "--recipe", file)["recipes"][str(file)]


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda e: e["tree"])
def test_golden_audits(entry):
    found = rto.audit(tree=tree_of(entry))
    assert set(entry["recipes"]) <= set(found["recipes"])
    for name, want in entry["recipes"].items():
        got = found["recipes"][name]
        np.testing.assert_allclose(got["target_gradient"], want["target_gradient"], atol=1e-10)
        for law in ("on_policy", "stale"):
            np.testing.assert_allclose(got[law]["E_g"], want[law]["E_g"], atol=1e-9)
            assert got[law]["norm_ratio"] == pytest.approx(want[law]["norm_ratio"], rel=1e-8, abs=1e-9)
        assert got["fixed_point"]["status"] == want["fixed_point"]["status"]


def test_recipes_are_listed():
    table = rto.recipes()
    assert len(table["short_name"]) == len(table["name"]) == len(table["about"]) >= 22 and "trl.grpo" in table["short_name"]


def test_the_bench_is_the_program():
    file = ROOT / "experiments" / "data" / "preference.json"
    want = printed("RTO_BENCH", "--instance", file)
    assert rto.bench(file) == want and rto.bench(json.loads(file.read_text())) == want


def judged(what, given, want, least):
    """The policies of every method that the golden file has a policy of."""
    found, held = rto.bench(given)["methods"], 0
    for method, answer in want.items():
        got = found.get(method)
        if isinstance(answer, dict) and "policy" in answer and got and "policy" in got:
            np.testing.assert_allclose(got["policy"], answer["policy"], atol=2e-6, err_msg=f"{what} {method}")
            assert got["subopt"] == pytest.approx(answer["subopt"], abs=2e-6), (what, method)
            held += 1
    assert held >= least, (what, held)


def problem(name):
    i = PREFERENCE["instances"][name]
    return {k: i[k] for k in ("A", "H", "eos", "beta")} | {"ref": np.array(i["ref"]), "reward": np.array(i["reward"])}


LAWS = [n for n in PREFERENCE["population"] if n.endswith(("/ref", "/uniform"))]


@pytest.mark.parametrize("name", LAWS)
def test_golden_populations(name):
    tree, law = name.split("/")
    judged(name, {**problem(tree), "pairs": law}, PREFERENCE["population"][name], 12)


@pytest.mark.parametrize("name", list(PREFERENCE["data"]))
def test_golden_data(name):
    data = PREFERENCE["data"][name]
    judged(name, {**problem(data["instance"]), "pairs": data["pairs_winner_loser"]}, PREFERENCE["finite"][name], 8)


def test_what_is_wrong_is_one_line(tmp_path):
    tree = tree_of(GOLDEN[0])
    for call, line in [
        (lambda: rto.audit("trl.grp0"), "recipe trl.grp0: no such recipe"),
        (lambda: rto.audit(3), "recipe: found a value of type int"),
        (lambda: rto.audit({"reward": "none"}), "recipe: "),
        (lambda: rto.audit({"beta": float("nan")}), "recipe: found nan"),
        (lambda: rto.audit({"beta": -1.0}), "recipe: beta"),
        (lambda: rto.audit(tree=3), "tree: found a value of type int"),
        (lambda: rto.audit(tree={**tree, "theta": None}), "tree: "),
        (lambda: rto.audit(tree={**tree, "theta": [[0.0]]}), "tree: theta"),
        (lambda: rto.audit(tree={k: v for k, v in tree.items() if k != "r"}), "tree: missing field `r`"),
        (lambda: rto.audit(tree=tmp_path / "none.json"), "none.json"),
        (lambda: rto.audit(group=1), "group"),
        (lambda: rto.audit(batch=0), "batch"),
        (lambda: rto.audit(beta=0.0), "beta"),
        (lambda: rto.audit(draws=3), "draws"),
        (lambda: rto.audit(explain=True), "explain"),
        (lambda: rto.bench(None), "instance: found a value of type NoneType"),
        (lambda: rto.bench({"A": 2}), "instance: "),
        (lambda: rto.bench({"A": object()}), "instance: found a value of type object"),
        (lambda: rto.bench(tmp_path / "none.json"), "none.json"),
    ]:
        with pytest.raises(ValueError, match=line) as refused:
            call()
        assert "\n" not in str(refused.value)


LONG = """
import json, signal, sys, time
import numpy as np
import rto
signal.signal(signal.SIGINT, signal.default_int_handler)
rng = np.random.default_rng(0)
table = lambda *shape: rng.normal(size=shape).tolist()
if sys.argv[1] == "audit":
    s = 1 + 4 + 16
    tree = {"A": 4, "H": 3, "eos": None, "prompt_weights": [1.0], "beta": 0.3, "beta1": 0.3, "dpo_clip": 1.0}
    tree |= {key: table(s, 4) for key in ("theta", "theta_old", "ref_logits", "dpo_logits", "r")}
    call = lambda: rto.audit(tree=tree, group=4, batch=4)
else:
    n = 2**9 - 1
    call = lambda: rto.bench({"A": 2, "H": 9, "eos": None, "beta": 0.5, "ref": np.full((n, 2), 0.5), "reward": table(n, 2), "pairs": "uniform"})
print("going", flush=True)
try:
    call()
except KeyboardInterrupt:
    print("stopped", flush=True)
    while True:
        before = time.process_time()
        time.sleep(0.2)
        if time.process_time() - before < 0.05:
            break
    print("idle", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for a child")
@pytest.mark.parametrize("what", ["audit", "bench"])
def test_ctrl_c_ends_the_call_and_then_the_work(what):
    child = subprocess.Popen([sys.executable, "-c", LONG, what], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "going\n", child.stderr.read()
        time.sleep(0.5)
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "stopped\n", child.stderr.read()
        assert time.monotonic() - start < 1.0
        # The method or step that it was at is finished, and no other is begun.
        assert child.stdout.readline() == "idle\n", child.stderr.read()
        assert time.monotonic() - start < 60.0
        assert child.wait(timeout=60) == 0
    finally:
        child.kill()
        child.communicate()
