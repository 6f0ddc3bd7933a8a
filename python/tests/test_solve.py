"""`rto.solve` is the program `solve`: the same instance, the same report, key by key and bit by bit."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rto

ROOT = Path(__file__).resolve().parents[2]
DATA = sorted((ROOT / "experiments" / "data").glob("*.json"))
INSTANCES = [p for p in DATA if "reference" in (t := p.read_text()) and '"beta"' in t and p.stem != "preference"]


@pytest.fixture(scope="module")
def binary():
    found = os.environ.get("RTO_SOLVE")
    if found is None:
        pytest.skip("RTO_SOLVE names no `solve` binary to compare with")
    return found


def printed(binary, path):
    done = subprocess.run([binary, str(path), "--json"], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("path", INSTANCES, ids=lambda p: p.stem)
def test_committed_instances_have_the_report_of_the_binary(binary, path, monkeypatch):
    code, out, err = printed(binary, path)
    assert code == 0, err
    assert rto.solve(path) == json.loads(out)
    monkeypatch.chdir(path.parent)
    assert rto.solve(json.loads(path.read_text())) == json.loads(out)


def random_instance(rng):
    n_actions, horizon, n_prompts = int(rng.integers(2, 4)), int(rng.integers(1, 4)), int(rng.integers(1, 3))
    eos = int(rng.integers(n_actions)) if rng.random() < 0.5 else None
    states = (n_actions**horizon - 1) // (n_actions - 1)
    shape = (n_prompts, states, n_actions)
    instance = {
        "beta": float(np.exp(rng.normal())),
        "initial": rng.dirichlet(np.ones(n_prompts)),
        "n_actions": n_actions,
        "horizon": horizon,
        "eos": eos,
        "reference_logits": rng.normal(size=shape),
        "features": rng.normal(size=(*shape, 2)),
    }
    if rng.random() < 0.5:
        instance["theta"] = rng.normal(size=2)
    if rng.random() < 0.8:

        def response():
            tokens = []
            while len(tokens) < horizon:
                tokens.append(int(rng.integers(n_actions)))
                if tokens[-1] == eos:
                    break
            return tokens

        pair = lambda: {"prompt": int(rng.integers(n_prompts)), "winner": response(), "loser": response()}
        instance["preferences"] = [pair() for _ in range(int(rng.integers(0, 12)))]
        instance["estimation"] = {"param_bound": 3.0, "ridge": 0.5}
    return instance


def test_two_hundred_random_instances_have_the_report_of_the_binary(binary, tmp_path):
    rng = np.random.default_rng(20)
    for k in range(200):
        instance = random_instance(rng)
        text = json.dumps(instance, default=lambda a: a.tolist())
        path = tmp_path / f"{k}.json"
        path.write_text(text)
        code, out, err = printed(binary, path)
        if code == 0:
            assert rto.solve(instance) == json.loads(out), text
        else:
            with pytest.raises(ValueError) as refused:
                rto.solve(instance)
            assert str(refused.value) in err, text


def test_a_report_shows_itself_and_bad_instances_are_named(tmp_path):
    report = rto.solve(INSTANCES[0])
    assert "<table>" in report._repr_html_() and "soft_value" in report._repr_html_()
    good = json.loads((ROOT / "experiments" / "data" / "g0.json").read_text())
    for change, line in [
        ({"feature": 1}, "feature"),
        ({"beta": -1}, "beta"),
        ({"beta": float("nan")}, "finite"),
        ({"beta": object()}, "object"),
        ({"reward": np.array(["a"])}, "reward"),
    ]:
        with pytest.raises(ValueError, match=line):
            rto.solve({**good, **change})
    with pytest.raises(ValueError, match="no_such_file"):
        rto.solve(tmp_path / "no_such_file.json")
    for wrong in (None, 3, [1]):
        with pytest.raises(ValueError, match="expected a dict or a path"):
            rto.solve(wrong)
