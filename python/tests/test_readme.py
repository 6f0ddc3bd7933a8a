"""The examples of the README run as they stand."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_examples_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    assert len(blocks) == 4
    names = {}
    for block in blocks:
        exec(block, names)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    (best, loss), (own,), (trained, gap) = (map(float, line) for line in lines[:3])
    assert 0 < loss < best + 3 and own >= 0 and trained > 0 and gap >= 0
    assert names["loss"].grad["log_prob"][0].shape == (2,)
