"""Files and shapes of other tools."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from rto import export, interchange


def test_token_rewards_make_the_round_trip(tmp_path):
    path = tmp_path / "rewards.jsonl"
    ids, rewards = [[5, 6, 7], [1]], [np.array([0.1, -0.2, 1 / 3]), np.array([2.0])]
    interchange.write_token_rewards(path, ids, rewards)
    back = interchange.read_token_rewards(path)
    assert [list(r.token_ids) for r in back] == ids
    assert all(np.array_equal(r.token_rewards, w) for r, w in zip(back, rewards))
    with pytest.raises(ValueError, match="expected a name that is free"):
        interchange.write_token_rewards(path, ids, rewards)


@pytest.mark.parametrize(
    "line, said",
    [
        ("{", ":2: "),
        ("[]", ":2: found a value of type list"),
        ('{"token_ids": [1]}', 'no "token_rewards"'),
        ('{"token_ids": [1], "token_rewards": null}', "token_rewards: found null"),
        ('{"token_ids": [1, 2], "token_rewards": [1.0]}', "found 1 token_rewards, expected 2"),
        ('{"token_ids": [1], "token_rewards": [NaN]}', r"token_rewards\[0\]: found NaN"),
        ('{"token_ids": [-1], "token_rewards": [1.0]}', r"token_ids\[0\]: found -1"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    path = tmp_path / "rewards.jsonl"
    path.write_text('{"token_ids": [1], "token_rewards": [1.0]}\n' + line + "\n")
    with pytest.raises(ValueError, match=said) as refused:
        interchange.read_token_rewards(path)
    assert str(path) in str(refused.value)


def test_verl_gets_padded_scores_and_a_mask():
    scores, mask = interchange.token_level_scores([[1.0, 2.0], [3.0]], width=4)
    assert scores.dtype == np.float32 and scores.tolist() == [[1, 2, 0, 0], [3, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert interchange.token_level_scores([[1.0, 2.0], [3.0]])[0].shape == (2, 2)
    with pytest.raises(ValueError, match="width"):
        interchange.token_level_scores([[1.0, 2.0]], width=1)


def test_scores_of_verl_become_lines_that_rto_llm_reads(tmp_path):
    path, ids, prompts = tmp_path / "rewards.jsonl", [[5, 6], [7]], [[3], [3, 4]]
    rewards = interchange.of_token_level_scores(*interchange.token_level_scores([[1.0, 2.0], [0.5]], width=4))
    interchange.write_token_rewards(path, ids, rewards, prompts)
    back = interchange.read_token_rewards(path)
    assert [(r.prompt_ids, r.token_ids, r.token_rewards.tolist()) for r in back] == [((3,), (5, 6), [1.0, 2.0]), ((3, 4), (7,), [0.5])]
    for call, line in [
        (lambda: interchange.of_token_level_scores([[1.0, 2.0]], [[1]]), "response_mask: found shape"),
        (lambda: interchange.of_token_level_scores([[1.0, 2.0]], [[0, 1]]), r"response_mask\[0\]: found a gap"),
        (lambda: interchange.of_token_level_scores([[float("nan")]], [[1]]), r"scores\[0\]"),
        (lambda: interchange.write_token_rewards(tmp_path / "x", ids, rewards, [[1]]), "prompt_ids: found 1 rows, expected 2"),
    ]:
        with pytest.raises(ValueError, match=line):
            call()


def test_trl_gets_a_list_of_sums():
    records = [interchange.TokenRewards((5, 6), np.array([0.5, 0.25])), interchange.TokenRewards((7,), np.array([-1.0]))]
    reward = interchange.trl_reward(records)
    assert reward(prompts=["a", "b"], completions=["x", "y"], completion_ids=[[7], [5, 6]], other=[1, 2]) == [-1.0, 0.75]
    assert interchange.trl_reward(lambda ids: np.ones(len(ids)))(completion_ids=[[1, 2, 3]]) == [3.0]
    for call, line in [
        (lambda: reward(completion_ids=[[8]]), r"completion_ids\[0\]: found the response"),
        (lambda: reward(), "completion_ids"),
        (lambda: interchange.trl_reward(lambda ids: [1.0])(completion_ids=[[1, 2]]), r"completion_ids\[0\]"),
    ]:
        with pytest.raises(ValueError, match=line):
            call()


def test_alpaca_eval_makes_the_round_trip(tmp_path):
    path = tmp_path / "model_outputs.json"
    interchange.write_alpaca_eval(path, ["Say “hé”."], ["hé"], "mine")
    assert interchange.read_alpaca_eval(path) == [{"instruction": "Say “hé”.", "output": "hé", "generator": "mine"}]
    for text, line in [("{}", "list of objects"), ("[3]", "expected an object"), ('[{"instruction": "a"}]', 'no "output"'), ("[", "bad.json: ")]:
        bad = tmp_path / "bad.json"
        bad.write_text(text)
        with pytest.raises(ValueError, match=line):
            interchange.read_alpaca_eval(bad)
    with pytest.raises(ValueError, match="outputs"):
        interchange.write_alpaca_eval(tmp_path / "new.json", ["a"], [], "m")
    with pytest.raises(ValueError, match="no_such"):
        interchange.read_alpaca_eval(tmp_path / "no_such.json")


def test_accuracy_counts_as_reward_bench_does(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [("chat", "aaa", "b"), ("chat", "a", "bb"), ("math", "aa", "b"), ("math", "a", "b")]
    path.write_text("".join(json.dumps({"prompt": "x", "chosen": c, "rejected": r, "subset": s}) + "\n" for s, c, r in rows))
    found = interchange.pair_accuracy(path, lambda prompt, response: len(response))
    assert (found.accuracy, found.pairs, found.ties) == (0.5, 4, 1)
    assert found.subsets == {"chat": 0.5, "math": 0.5}
    same = interchange.pair_accuracy([json.loads(l) for l in path.read_text().splitlines()], lambda p, y: len(y))
    assert same == found
    for reward in (lambda p, y: None, lambda p, y: float("nan"), lambda p, y: True):
        with pytest.raises(ValueError, match="reward: found"):
            interchange.pair_accuracy(path, reward)
    with pytest.raises(ValueError, match="expected at least one"):
        interchange.pair_accuracy([], len)


@pytest.fixture
def run(tmp_path):
    metrics = tmp_path / "run-0001" / "metrics"
    metrics.mkdir(parents=True)
    (metrics / "sft.jsonl").write_text('{"step":1,"loss":2.5,"nothing":null}\n{"step":2,"loss":1.5}\n')
    (metrics / "rto.jsonl").write_text('{"step":1,"objective/kl":0.25}\n')
    return tmp_path / "run-0001"


class Recorder:
    """Stands in for a package: it keeps what it is told."""

    def __init__(self):
        self.told = []

    def init(self, **settings):
        self.told.append(("init", settings["name"]))
        return SimpleNamespace(log=lambda n, step: self.told.append((n, step)), finish=lambda: self.told.append("finish"))


def test_a_run_is_exported_at_its_own_steps(run, capsys, monkeypatch):
    assert export.main([str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "stage,step,metric,value",
        "rto,1,objective/kl,0.25",
        "sft,1,loss,2.5",
        "sft,2,loss,1.5",
    ]
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "trackio", recorder)
    assert export.main([str(run), "--to", "trackio"]) == 0
    assert recorder.told == [
        ("init", "run-0001-rto"), ({"objective/kl": 0.25}, 1), "finish",
        ("init", "run-0001-sft"), ({"loss": 2.5}, 1), ({"loss": 1.5}, 2), "finish",
    ]  # fmt: skip


def test_export_says_what_is_wrong(run, capsys, monkeypatch):
    assert export.main([str(run.parent / "none")]) == 1
    assert "no metrics/*.jsonl" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert export.main([str(run), "--to", "wandb"]) == 1
    assert "pip install wandb" in capsys.readouterr().err
    (run / "metrics" / "sft.jsonl").write_text("{}\n")
    assert export.main([str(run)]) == 1
    assert "sft.jsonl:1" in capsys.readouterr().err
