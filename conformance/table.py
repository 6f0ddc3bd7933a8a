"""Writes the tables of paper-notes/conformance.md from results/*.json, between its marks.

    python table.py            after run_trl.py, run_verl.py and run_openrlhf.py have written their results
"""

import json
import os
import re
import sys

from common import HERE

NOTES = os.path.join(HERE, "..", "paper-notes", "conformance.md")
PACKAGES = ("trl", "verl", "openrlhf")


def results():
    for package in PACKAGES:
        with open(os.path.join(HERE, "results", f"{package}.json")) as f:
            yield json.load(f)


def figure(v):
    return "0" if v == 0 else f"{v:.1e}"


def agreement():
    out = ["| package | comparisons | agree | largest gap among those | differ |", "|---|---|---|---|---|"]
    for r in results():
        made = [c for c in r["comparisons"] if c["quantity"]]
        good = [c for c in made if c["agrees"]]
        worst = max(c["largest_gap"] / max(1, c["largest_value"]) for c in good)
        out.append(f"| {r['package']} {r['version']} | {len(made)} | {len(good)} | {figure(worst)} | {len(made) - len(good)} |")
    return out


def recipes():
    out = ["| vector | package | compared | sets | agrees |", "|---|---|---|---|---|"]
    for r in results():
        by = {}
        for c in r["comparisons"]:
            if c["quantity"]:
                by.setdefault(c["recipe"], []).append(c)
        for name, rows in by.items():
            quantities = ", ".join(dict.fromkeys(c["quantity"] for c in rows))
            sets, good = len({c["set"] for c in rows}), sum(c["agrees"] for c in rows)
            says = "yes" if good == len(rows) else f"{good} of {len(rows)}"
            out.append(f"| {name} | {r['package']} | {quantities} | {sets} | {says} |")
    return out


def disagreement():
    out = ["| vector | package | quantity | gap, by set | line |", "|---|---|---|---|---|"]
    for r in results():
        by = {}
        for c in r["comparisons"]:
            if c["quantity"] and not c["agrees"]:
                by.setdefault((c["recipe"], c["quantity"]), []).append(c)
        for (name, quantity), rows in by.items():
            gaps = ", ".join(f"{c['largest_gap']:.3g} ({c['set']})" for c in rows)
            lines = ", ".join(dict.fromkeys(f"`{c['line']}`" for c in rows)).replace(", verl", "`, `verl")
            out.append(f"| {name} | {r['package']} {r['version']} | {quantity} | {gaps} | {lines} |")
    return out


def main():
    with open(NOTES) as f:
        text = f.read()
    for mark, rows in (("agreement", agreement()), ("recipes", recipes()), ("disagreement", disagreement())):
        block = re.compile(rf"(<!-- {mark}: .*?-->\n).*?(<!-- end -->)", re.S)
        assert block.search(text), mark
        text = block.sub(lambda m: m[1] + "\n".join(rows) + "\n" + m[2], text)
    if "--check" in sys.argv:
        with open(NOTES) as f:
            sys.exit(0 if f.read() == text else "paper-notes/conformance.md: not what results/*.json say")
    with open(NOTES, "w") as f:
        f.write(text)


if __name__ == "__main__":
    main()
