"""The Markov decision processes of `solve`, read from its JSON and unrolled over steps.

A token tree becomes a table whose states are (prompt, prefix); a general table keeps its states. Everything after this module works on one form:
`next[s][a]` is a list of (state, probability), what is missing from 1 ends the episode, and policies are arrays [step][state][action]
(on a tree a state is met at one step only, so the step adds nothing there).
"""
import math

import numpy as np

TINY = np.finfo(float).tiny


class Unsupported(Exception):
    """An instance that `solve` must refuse; the message says why."""


class Model:
    def __init__(self, inst):
        self.inst = inst
        self.beta = float(inst["beta"])
        self.H = inst["horizon"]
        self.tree = "n_actions" in inst
        if self.tree:
            self._read_tree(inst)
        else:
            self._read_table(inst)
        self.log_ref = self._log_policy("reference")
        self.ref = np.exp(self.log_ref)
        if "reference" in inst:  # as written, not through the logarithm
            raw = self._flat("reference")
            self.ref = raw / raw.sum(axis=1, keepdims=True)
        self._reachable()

    # -- reading

    def _flat(self, key):
        """An array of the file as [state][action](...)."""
        a = self.inst[key]
        if self.tree:
            return np.array([row for prompt in a for row in prompt], dtype=float)
        return np.array([[self._null(v) for v in row] if not isinstance(row[0], list) else row for row in a], dtype=float)

    @staticmethod
    def _null(v):
        return -math.inf if v is None else v

    def _read_tree(self, inst):
        A, H = inst["n_actions"], inst["horizon"]
        self.A = A
        P = len(inst["initial"])
        S = sum(A**h for h in range(H))
        self.P, self.S_prompt = P, S
        self.S = P * S
        self.initial = np.zeros(self.S)
        rho = np.array(inst["initial"], dtype=float)
        for x in range(P):
            self.initial[x * S] = rho[x]
        eos = inst.get("eos")
        self.eos = eos
        self.next = []
        self.step_of = []
        self.prefix = []
        for x in range(P):
            prefixes = [()]
            for h in range(H):
                for p in prefixes:
                    self.prefix.append((x, p))
                prefixes = [p + (a,) for p in prefixes for a in range(A)]
        self.index = {p: i for i, p in enumerate(self.prefix)}
        for x, p in self.prefix:
            rows = []
            for a in range(A):
                if a == eos or len(p) == H - 1:
                    rows.append([])
                else:
                    rows.append([(self.index[(x, p + (a,))], 1.0)])
            self.next.append(rows)
        self.terminal = set()
        self.roots = [x * S for x in range(P)]
        self.deterministic = True

    def _read_table(self, inst):
        self.S = inst["states"]
        self.initial = np.array(inst["initial"], dtype=float)
        self.terminal = set(inst.get("terminal", []))
        self.next = []
        ref = inst.get("reference") or inst.get("reference_logits")
        self.A = len(ref[0])
        self.eos = None
        for s in range(self.S):
            rows = []
            for a in range(self.A):
                t = inst["transition"][s][a] if inst["transition"][s] is not None else None
                if t is None:
                    rows.append([])
                elif isinstance(t, int):
                    rows.append([(t, 1.0)])
                else:
                    total = sum(p for _, p in t)
                    rows.append([(n, p / total) for n, p in t if p > 0])
            self.next.append(rows)
        for s in self.terminal:
            self.next[s] = [[] for _ in range(self.A)]
        self.roots = list(range(self.S))
        self.deterministic = None  # known once reachability is

    def _log_policy(self, name):
        """The log-probabilities of a policy of the file, [state][action]."""
        inst = self.inst
        if name in inst:
            raw = self._flat(name)
            with np.errstate(divide="ignore"):
                return np.log(raw) - np.log(raw.sum(axis=1, keepdims=True))
        key = name + "_logits"
        if key not in inst:
            return None
        if self.tree:
            raw = np.array([[self._null(v) for v in row] for prompt in inst[key] for row in prompt], dtype=float)
        else:
            raw = np.array([[self._null(v) for v in row] for row in inst[key]], dtype=float)
        m = raw.max(axis=1, keepdims=True)
        return raw - m - np.log(np.exp(raw - m).sum(axis=1, keepdims=True))

    def _reachable(self):
        """Which (step, state) have positive probability under some policy with the support of the reference."""
        H, S = self.H, self.S
        self.reach = np.zeros((H, S), dtype=bool)
        self.reach[0] = (self.initial > 0) & np.array([s not in self.terminal for s in range(S)])
        for h in range(H - 1):
            for s in range(S):
                if self.reach[h, s]:
                    for a in range(self.A):
                        if self.ref[s, a] > 0:
                            for n, p in self.next[s][a]:
                                if p > 0 and n not in self.terminal:
                                    self.reach[h + 1, n] = True
        self.met = self.reach.any(axis=0)
        if self.deterministic is None:
            self.deterministic = all(
                len(self.next[s][a]) <= 1 and (not self.next[s][a] or abs(self.next[s][a][0][1] - 1) == 0)
                for h in range(H - 1)
                for s in range(S)
                if self.reach[h, s]
                for a in range(self.A)
                if self.ref[s, a] > 0
            )

    def actions(self, s):
        return [a for a in range(self.A) if self.ref[s, a] > 0]

    # -- dynamic programming; rewards are [state][action], policies [step][state][action]

    def ends(self, h):
        return h == self.H - 1

    def expect_next(self, h, s, a, v):
        if h == self.H - 1:
            return 0.0 * v[0, 0] if v.ndim > 1 else 0.0
        return sum(p * v[h + 1, n] for n, p in self.next[s][a])

    def soft_optimum(self, r, beta):
        """V [H+1][S], log pi [H][S][A], Q [H][S][A]: (3.3) and (3.4), the KL inside V."""
        H, S, A = self.H, self.S, self.A
        V = np.zeros((H + 1, S))
        Q = np.full((H, S, A), -np.inf)
        L = np.full((H, S, A), -np.inf)
        for h in reversed(range(H)):
            for s in range(S):
                if s in self.terminal:
                    continue
                acts = self.actions(s)
                for a in acts:
                    Q[h, s, a] = r[s, a] + (sum(p * V[h + 1, n] for n, p in self.next[s][a]) if h < H - 1 else 0.0)
                m = max(Q[h, s, a] for a in acts)
                if beta == 0:
                    V[h, s] = m
                    best = [a for a in acts if Q[h, s, a] == m]
                    L[h, s, best[0]] = 0.0
                else:
                    z = sum(self.ref[s, a] * math.exp((Q[h, s, a] - m) / beta) for a in acts)
                    V[h, s] = m + beta * math.log(z)
                    for a in acts:
                        L[h, s, a] = self.log_ref[s, a] + (Q[h, s, a] - m) / beta - math.log(z)
        return V, L, Q

    def evaluate(self, r, logpi, beta):
        """V of a policy [H][S][A] with E[r - beta KL], for every step and state."""
        H, S = self.H, self.S
        V = np.zeros((H + 1, S))
        for h in reversed(range(H)):
            for s in range(S):
                if s in self.terminal:
                    continue
                for a in range(self.A):
                    l = logpi[h, s, a]
                    if l == -np.inf:
                        continue
                    q = r[s, a] + (sum(p * V[h + 1, n] for n, p in self.next[s][a]) if h < H - 1 else 0.0)
                    q -= beta * (l - self.log_ref[s, a]) if beta else 0.0
                    V[h, s] += math.exp(l) * q
        return V

    def visitation(self, logpi, start=None):
        """d [H][S]."""
        H, S = self.H, self.S
        d = np.zeros((H, S))
        d[0] = self.initial if start is None else start
        for s in self.terminal:
            d[0, s] = 0
        for h in range(H - 1):
            for s in range(S):
                if d[h, s] > 0:
                    for a in range(self.A):
                        w = d[h, s] * math.exp(logpi[h, s, a])
                        if w > 0:
                            for n, p in self.next[s][a]:
                                if n not in self.terminal:
                                    d[h + 1, n] += w * p
        return d

    def broadcast(self, logpi):
        return np.broadcast_to(logpi, (self.H,) + logpi.shape)

    def expect(self, logpi, f):
        """E sum_h f(s_h, a_h), f [S][A](...)."""
        d = self.visitation(logpi)
        w = d[:, :, None] * np.exp(logpi)
        occ = w.sum(axis=0)
        return np.tensordot(occ, np.where(np.isfinite(f), f, 0.0), axes=([0, 1], [0, 1]))

    # -- whole responses

    def responses(self, root):
        """All responses from a root: (tuple of (state, action)), probability of the environment, list of actions."""
        out = []

        def go(h, s, seq, env):
            for a in self.actions(s):
                seq2 = seq + ((s, a),)
                nxt = [] if h == self.H - 1 else [(n, p) for n, p in self.next[s][a] if n not in self.terminal]
                left = 1.0 - sum(p for _, p in nxt)
                if h == self.H - 1 or not nxt:
                    out.append((seq2, env))
                else:
                    if left > 1e-12:
                        out.append((seq2, env * left))
                    for n, p in nxt:
                        go(h + 1, n, seq2, env * p)

        if root not in self.terminal:
            go(0, root, (), 1.0)
        return out

    def pair_states(self, prompt, tokens):
        """The (state, action) pairs of a response of the file."""
        if self.tree:
            S = self.S_prompt
            out, p = [], ()
            for t in tokens:
                out.append((self.index[(prompt, p)], t))
                p = p + (t,)
            return tuple(out)
        return tuple((s, a) for s, a in tokens)
