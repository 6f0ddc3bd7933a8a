"""Random instances in the format that `solve` reads. Numbers are short decimals, so that what is rank-deficient is so exactly."""
import math
from decimal import Decimal

import numpy as np

KINDS = ["printed", "theory", "theory_kappa", "wald", "wald_ridge", "likelihood_ratio", "likelihood_ratio_asymptotic", "self_concordant"]


def short(x, digits=3):
    return float(f"{x:.{digits}g}")


def probabilities(rng, n, zeros):
    """A distribution in hundredths, with zeros at times."""
    while True:
        w = rng.integers(1, 10, size=n)
        if zeros:
            w = np.where(rng.random(n) < 0.35, 0, w)
        if w.sum() > 0:
            break
    return w


def policy(rng, states, A, zeros, logits, support=None):
    """[state][action] and its support."""
    rows, sup = [], []
    for s in range(states):
        allowed = np.ones(A, bool) if support is None else np.array(support[s])
        while True:
            keep = allowed & (rng.random(A) > (0.3 if zeros else -1))
            if keep.any():
                break
        sup.append(keep.tolist())
        if logits:
            rows.append([short(rng.normal() * 1.5) if k else None for k in keep])
        else:
            w = np.where(keep, rng.integers(1, 10, size=A), 0)
            p = w / w.sum()
            p = [float(x) for x in p]
            rows.append(p)
    return rows, sup


def split(rows, P):
    n = len(rows) // P
    return [rows[i * n : (i + 1) * n] for i in range(P)]


def instance(seed, k):
    rng = np.random.default_rng([seed, k])
    tree = rng.random() < 0.6
    inst = {"beta": 0 if rng.random() < 0.05 else short(10 ** rng.uniform(-2, 1))}
    stochastic = False
    if tree:
        A = int(rng.choice([1, 2, 2, 2, 3, 3]))
        H = int(rng.choice([1, 1, 2, 2, 3])) if A > 1 else int(rng.choice([1, 2]))
        P = int(rng.choice([1, 1, 2, 3]))
        S = sum(A**h for h in range(H))
        states = P * S
        w = rng.integers(1, 5, size=P).astype(float)
        if P > 1 and rng.random() < 0.15:
            w[rng.integers(P)] = 0
        inst["initial"] = [float(x) for x in w / w.sum()]
        inst["n_actions"], inst["horizon"] = A, H
        eos = None
        if A > 1 and rng.random() < 0.35:
            eos = inst["eos"] = int(rng.integers(A))
    else:
        A, H = int(rng.choice([2, 2, 3])), int(rng.choice([1, 2, 2, 3]))
        states = int(rng.choice([2, 3, 3, 4]))
        P, S, eos = 1, states, None
        w = rng.integers(0, 5, size=states).astype(float) * (rng.random(states) < 0.6)
        if w.sum() == 0:
            w[0] = 1
        terminal = []
        if rng.random() < 0.3 and states > 2:
            terminal = [states - 1]
            w[states - 1] = 0
            if w.sum() == 0:
                w[0] = 1
        stochastic = rng.random() < 0.5
        inst["states"], inst["initial"], inst["horizon"] = states, [float(x) for x in w / w.sum()], H
        rows = []
        for s in range(states):
            row = []
            for a in range(A):
                if s in terminal:
                    row.append(s)
                elif rng.random() < 0.15:
                    row.append(None)
                elif stochastic and rng.random() < 0.7:
                    to = rng.choice(states, size=2, replace=False)
                    p = int(rng.integers(1, 10)) / 10
                    row.append([[int(to[0]), p], [int(to[1]), short(1 - p, 2)]])
                else:
                    row.append(int(rng.integers(states)))
            rows.append(row)
        inst["transition"] = rows
        if terminal:
            inst["terminal"] = terminal
    zeros = rng.random() < 0.3
    logits = rng.random() < 0.5
    ref, support = policy(rng, states, A, zeros, logits)
    inst["reference_logits" if logits else "reference"] = split(ref, P) if tree else ref
    # What the reference allows decides which rows an episode can meet.
    reach = reachable(inst, support, tree, A, H, P, S, states)

    # Rewards and features.
    mode = rng.choice(["reward", "theta", "both", "unknown"], p=[0.3, 0.4, 0.15, 0.15])
    wild = rng.random() < 0.5
    d = int(rng.choice([1, 2, 3, 4]))
    units = [Decimal(1)] * d
    if rng.random() < 0.3:
        units = [Decimal(10) ** int(rng.integers(-6, 7)) for _ in range(d)]
    if mode != "reward":
        f = rng.integers(-8, 9, size=(states, A, d))
        if rng.random() < 0.3:
            f = np.sign(f) * (rng.random(f.shape) < 0.6)
        if d > 1 and rng.random() < 0.3:  # rank-deficient: one column a combination of the others
            f[:, :, d - 1] = f[:, :, 0] * int(rng.integers(-2, 3)) + (f[:, :, 1] if d > 2 else 0)
        if rng.random() < 0.15:  # a feature that telescopes or is constant
            f[:, :, 0] = int(rng.integers(-2, 3))
        scale = Decimal("0.125") if rng.random() < 0.5 else Decimal(1)
        feats = [[[float(Decimal(int(f[s, a, i])) * units[i] * scale) * (1 if reach[s] or not wild else 1000.0) for i in range(d)] for a in range(A)] for s in range(states)]
        inst["features"] = split(feats, P) if tree else feats
    if mode in ("reward", "both"):
        mag = 10 ** rng.uniform(-1, 1)
        r = [[short(rng.normal() * mag * (1 if reach[s] or not wild else 1e5)) for _ in range(A)] for s in range(states)]
        inst["reward"] = split(r, P) if tree else r
    theta = [short(rng.normal() / float(u)) for u in units]
    if mode == "theta":
        inst["theta"] = theta

    # Preferences.
    u = rng.random()
    n = 0
    if u > 0.25:
        n = 0 if u < 0.3 else int(rng.integers(1, 4)) if u < 0.5 else int(rng.integers(4, 31))
        truth = rng.choice(["truth", "separable", "random"], p=[0.6, 0.2, 0.2])
        pairs = []
        for _ in range(n):
            if tree:
                xs = [x for x in range(P) if inst["initial"][x] > 0]
                x = int(rng.choice(xs))
                y1, y2 = walk_tree(rng, inst, support, x, A, H, S, eos), walk_tree(rng, inst, support, x, A, H, S, eos)
                score = [sum_tree(inst, theta, units, y, x, S, A, mode) for y in (y1, y2)]
            else:
                start = int(rng.choice([s for s in range(states) if inst["initial"][s] > 0]))
                y1, y2 = walk_table(rng, inst, support, start, A, H), walk_table(rng, inst, support, start, A, H)
                score = [sum_table(inst, theta, y, mode) for y in (y1, y2)]
            if y1 == y2 and rng.random() < 0.7:
                continue
            gap = score[0] - score[1]
            p = 0.5 if truth == "random" else 1 / (1 + math.exp(-max(-50, min(50, gap)))) if truth == "truth" else float(gap > 0)
            if rng.random() > p:
                y1, y2 = y2, y1
            pair = {"winner": y1, "loser": y2}
            if tree:
                pair = {"prompt": x, **pair}
            pairs.append(pair)
            if rng.random() < 0.15:
                pairs.append(dict(pair))
        inst["preferences"] = pairs
        est = {}
        if rng.random() < 0.85:
            size = math.sqrt(sum(t * t for t in theta)) or 1.0
            est["param_bound"] = short(size * 10 ** rng.uniform(-1, 1.3)) if rng.random() < 0.8 else short(10 ** rng.uniform(-1, 2))
        if rng.random() < 0.8:
            est["ridge"] = short(10 ** rng.uniform(-3, 1), 2)
        if rng.random() < 0.4:
            est["fail_prob"] = float(rng.choice([0.01, 0.1, 0.5, 0.9]))
        if rng.random() < 0.35:
            est["bonus_scale"] = float(rng.choice([0, 0.3, 2, 25]))
            if rng.random() < 0.5:
                est["metric"] = str(rng.choice(["sigma_d", "fisher"]))
        elif rng.random() < 0.9:
            kind = str(rng.choice(KINDS))
            if "param_bound" in est or kind == "wald":
                est["bonus_scale"] = kind
        if rng.random() < 0.2:
            est["printed_constant"] = short(10 ** rng.uniform(-2, 1), 2)
        inst["estimation"] = est

    if rng.random() < 0.3:
        lg = rng.random() < 0.5
        b, _ = policy(rng, states, A, rng.random() < 0.3, lg, support)
        inst["behaviour_logits" if lg else "behaviour"] = split(b, P) if tree else b
    if rng.random() < 0.3:
        q, _ = policy(rng, states, A, rng.random() < 0.3, True, support)
        inst["policy_logits"] = split(q, P) if tree else q
    if rng.random() < 0.4:
        inst["dpo"] = {"beta": short(10 ** rng.uniform(-1.5, 1))}
        if rng.random() < 0.5:
            inst["dpo"]["pairs"] = str(rng.choice(["reference", "uniform"]))
    if rng.random() < 0.5:
        inst["rto"] = {"beta1": short(10 ** rng.uniform(-1.5, 0.5)), "beta2": short(10 ** rng.uniform(-1.5, 0.5))}
        if rng.random() < 0.5:
            inst["rto"]["source"] = str(rng.choice(["dpo", "optimal"]))
    if not tree:
        # From a generator of its own, so that the instances are otherwise those that they were without counts.
        counts(np.random.default_rng([seed, k, 1]), inst)
    return inst


def counts(rng, inst):
    """At times counted transitions, with successors that were never seen, or that only the counts know."""
    if rng.random() > 0.4:
        return
    states, rows = inst["states"], []
    for s, row in enumerate(inst["transition"]):
        out = []
        for t in row:
            known = [] if t is None or s in inst.get("terminal", []) else [t] if isinstance(t, int) else [n for n, _ in t]
            if not known or rng.random() < 0.3:
                out.append(int(rng.choice([0, 1, 5, 40])))
                continue
            seen = [n for n in known if rng.random() < 0.8]
            if rng.random() < 0.2:
                seen += [int(n) for n in range(states) if n not in known and rng.random() < 0.4]
            out.append([[n, int(rng.integers(0, 30))] for n in seen])
        rows.append(out)
    inst["transition_counts"], inst["zeta"] = rows, float(rng.choice([0, short(10 ** rng.uniform(-3, 1))], p=[0.1, 0.9]))


def reachable(inst, support, tree, A, H, P, S, states):
    reach = np.zeros(states, bool)
    if tree:
        for x in range(P):
            if inst["initial"][x] <= 0:
                continue
            layer, base = [(0, 0)], 0
            for h in range(H):
                nxt = []
                for code, _ in layer:
                    s = x * S + base + code
                    reach[s] = True
                    for a in range(A):
                        if support[s][a] and a != inst.get("eos"):
                            nxt.append((code * A + a, 0))
                base += A**h
                layer = nxt
        return reach
    layer = {s for s in range(states) if inst["initial"][s] > 0}
    for h in range(H):
        nxt = set()
        for s in layer:
            if s in inst.get("terminal", []):
                continue
            reach[s] = True
            for a in range(A):
                t = inst["transition"][s][a]
                if support[s][a] and t is not None:
                    nxt |= {t} if isinstance(t, int) else {n for n, p in t if p > 0}
        layer = nxt
    return reach


def walk_tree(rng, inst, support, x, A, H, S, eos):
    y, base, code = [], 0, 0
    for h in range(H):
        s = x * S + base + code
        a = int(rng.choice([a for a in range(A) if support[s][a]]))
        y.append(a)
        if a == eos:
            break
        base += A**h
        code = code * A + a
    return y


def sum_tree(inst, theta, units, y, x, S, A, mode):
    base = code = 0
    total = 0.0
    for h, a in enumerate(y):
        s = base + code
        total += inst["reward"][x][s][a] if "reward" in inst else sum(t * v for t, v in zip(theta, inst["features"][x][s][a]))
        base += A**h
        code = code * A + a
    return total


def walk_table(rng, inst, support, start, A, H):
    y, s = [], start
    for h in range(H):
        a = int(rng.choice([a for a in range(A) if support[s][a]]))
        y.append([s, a])
        t = inst["transition"][s][a]
        if t is None:
            break
        if not isinstance(t, int):
            t = int(t[0][0]) if rng.random() < t[0][1] else int(t[1][0])
        if t in inst.get("terminal", []):
            break
        s = t
    return y


def sum_table(inst, theta, y, mode):
    if "reward" in inst:
        return sum(inst["reward"][s][a] for s, a in y)
    return sum(sum(t * v for t, v in zip(theta, inst["features"][s][a])) for s, a in y)
