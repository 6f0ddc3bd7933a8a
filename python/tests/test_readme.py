"""The examples of the README run as they stand."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_examples_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(block, names)
    best, loss, own = map(float, capsys.readouterr().out.split())
    assert 0 < loss < best + 3 and own >= 0
