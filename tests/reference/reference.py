"""What `solve FILE --json` must print, computed from the definitions in the paper and the notes, and held against what it did print.

`check(inst, out)` returns a list of (quantity, ok, what was found, what is right). Closed forms are computed and compared. Optima of (B.1) are certified: the
reported point must be feasible, have the reported value, and no point of the set may be lower by more than the tolerance, which the saddle point shows.
"""
import math
from decimal import Decimal

import mpmath as mp
import numpy as np
from gmpy2 import mpq as Fraction  # as fractions.Fraction, and quick where weights of very different size make long numbers

import precise as pr
from model import Model
from precise import ONE, ZERO, dot, exact

REL = 1e-9  # closed forms, relative
LOSS = 1e-12  # what cancels in a difference, relative to what is subtracted
ARGMIN = 1e-7  # a maximiser, relative: an optimum is flat to first order
INF = float("inf")
TRACE = None


class Checker:
    def __init__(self, inst, out):
        self.inst, self.out, self.rows = inst, out, []

    def get(self, path):
        v = self.out
        for k in path.split("."):
            if v is None:
                return None
            v = v[k]
        return v

    def note(self, path):
        parts = path.split(".")
        for i in range(len(parts), 0, -1):
            n = self.out["notes"].get(".".join(parts[:i]))
            if n is not None:
                return n
        return None

    def say(self, path, ok, got, want):
        self.rows.append((path, bool(ok), got, want))

    def num(self, path, want, scale=0.0, rel=REL, got=None):
        """A number, or a list of numbers: within rel of itself (of its largest entry) plus LOSS of `scale`. Infinite: null, and said so."""
        got = self.get(path) if got is None else got
        if want is None:
            return self.null(path)
        if isinstance(want, float) and math.isinf(want):
            n = self.note(path)
            return self.say(path, got is None and n is not None and n.startswith("infinite"), (got, n), "infinite")
        if got is None:
            return self.say(path, False, (None, self.note(path)), want)
        try:
            g, w = np.array(got, dtype=float), np.array(want, dtype=float)
        except (TypeError, ValueError):
            return self.say(path, False, got, want)
        if g.shape != w.shape:
            return self.say(path, False, got, want)
        tol = rel * np.max(np.abs(w), initial=0.0) + LOSS * scale
        self.say(path, np.all(np.abs(g - w) <= tol), got, want if np.ndim(want) == 0 else w.tolist())

    def same(self, path, want):
        got = self.get(path)
        self.say(path, got == want, got, want)

    def null(self, path, starts=None):
        got, n = self.get(path), self.note(path)
        self.say(path, got is None and n is not None and (starts is None or n.startswith(starts)), (got, n), f"null, {starts or 'with a reason'}")

    def undetermined(self, path):
        """Whether a path is null as rounding decides it. Where that may be so is for the caller to say."""
        return self.get(path) is None and (self.note(path) or "").startswith("not determined in floating point")


def nulls(v, path=""):
    """The paths of all nulls."""
    if v is None:
        yield path
    elif isinstance(v, dict):
        for k, x in v.items():
            if path == "" and k == "notes":
                continue
            yield from nulls(x, f"{path}.{k}" if path else k)
    elif isinstance(v, list):
        for i, x in enumerate(v):
            yield from nulls(x, f"{path}[{i}]")


def ancestors(path):
    out = [path]
    while path:
        cut = max(path.rfind("."), path.rfind("["))
        if cut < 0:
            break
        path = path[:cut]
        out.append(path)
    return out


def check_notes(c):
    notes = c.out["notes"]
    bad = [p for p in nulls(c.out) if not any(a in notes for a in ancestors(p))]
    c.say("notes: every null has a reason", not bad, bad, [])
    empty = [k for k, v in notes.items() if not v.strip()]
    stray = []
    for k in notes:
        v = c.out
        try:
            for part in k.replace("]", "").replace("[", ".").split("."):
                v = v[int(part)] if isinstance(v, list) else v[part]
                if v is None:
                    break
        except (KeyError, IndexError, ValueError, TypeError):
            stray.append(k)
            continue
        if v is not None:
            stray.append(k)
    c.say("notes: every reason is that of a null", not stray and not empty, stray + empty, [])


# -- the reference itself


class Truth:
    """The pieces that many checks share."""

    def __init__(self, inst):
        self.inst = inst
        m = self.m = Model(inst)
        self.beta = m.beta
        self.phi = None
        if "features" in inst:
            f = inst["features"]
            self.phi = np.array([r for p in f for r in p] if m.tree else f, dtype=float)
        elif "reward" in inst and "preferences" in inst:  # one feature for each (state, action)
            self.phi = np.zeros((m.S, m.A, m.S * m.A))
            for s in range(m.S):
                for a in range(m.A):
                    self.phi[s, a, s * m.A + a] = 1.0
        self.d = None if self.phi is None else self.phi.shape[2]
        self.r = None
        self.theta_star = None
        if "reward" in inst:
            self.r = m._flat("reward")
            self.one_hot = "features" not in inst
            if self.one_hot and self.phi is not None:
                self.theta_star = np.where(np.repeat(m.met, m.A) & (m.ref > 0).reshape(-1), self.r.reshape(-1), 0.0)
        elif "theta" in inst:
            self.theta_star = np.array(inst["theta"], float)
            self.r = self.phi @ self.theta_star
        self.sa = [(s, a) for s in range(m.S) if m.met[s] for a in m.actions(s)]
        if self.r is not None:
            big = max(abs(self.r[s, a]) for s, a in self.sa)
            self.scale = m.H * big + self.beta * max(abs(m.log_ref[s, a]) for s, a in self.sa) * m.H
            self.V, self.L, self.Q = m.soft_optimum(self.r, self.beta)
            self.opt = float(m.initial @ self.V[0])

    def mean(self, V):
        return float(self.m.initial @ V[0])

    def subopt(self, logpi):
        """V* - V^pi, as beta E KL(pi || pi*) where beta > 0: nothing cancels."""
        m = self.m
        if self.beta == 0:
            return self.opt - self.mean(m.evaluate(self.r, logpi, 0.0))
        d = m.visitation(logpi)
        t = 0.0
        for h in range(m.H):
            for s in range(m.S):
                if d[h, s] > 0:
                    for a in m.actions(s):
                        p = math.exp(logpi[h, s, a])
                        # p log(p/q) - p + q: each term is at least 0, and their sum is that of p log(p/q).
                        t += d[h, s] * ((p * (logpi[h, s, a] - self.L[h, s, a]) if p > 0 else 0.0) - p + math.exp(self.L[h, s, a]))
        return self.beta * t

    def kl_from_optimum(self, logpi):
        m = self.m
        d = m.visitation(self.L)
        t = 0.0
        for h in range(m.H):
            for s in range(m.S):
                if d[h, s] > 0:
                    for a in m.actions(s):
                        p = math.exp(self.L[h, s, a])
                        if p > 0 and logpi[h, s, a] == -np.inf:
                            return INF
                        t += d[h, s] * ((p * (self.L[h, s, a] - logpi[h, s, a]) if p > 0 else 0.0) - p + math.exp(logpi[h, s, a]))
        return t

    def roots(self, logpi):
        """The policy at the first step: [prompt or state][action], null where no episode can start."""
        m = self.m
        return [None if s in m.terminal else [math.exp(logpi[0, s, a]) for a in range(m.A)] for s in m.roots]


def compare_roots(c, path, want, rel=REL, steep=0.0):
    """Probabilities, within rel of 1: they move by what the reward does over beta, `steep` times its rounding."""
    got = c.get(path)
    ok = isinstance(got, list) and len(got) == len(want)
    if ok:
        for i, (g, w) in enumerate(zip(got, want)):
            if g is None:
                ok = ok and c.note(f"{path}[{i}]") is not None
            elif w is None:
                ok = False
            else:
                ok = ok and all(abs(x - y) <= rel * max(1.0, steep) for x, y in zip(g, w))
    c.say(path, ok, got, want)


def check_planning(c, t):
    m, inst = t.m, t.inst
    if t.r is None:
        for k in ["soft_value", "soft_value_mean", "reference_value", "suboptimality.reference", "root_policy", "predetermined_value"]:
            c.null(k)
        return
    roots = m.roots
    c.num("soft_value", [t.V[0][s] for s in roots], t.scale)
    c.num("soft_value_mean", t.opt, t.scale)
    ref = m.broadcast(m.log_ref)
    c.num("reference_value", [m.evaluate(t.r, ref, t.beta)[0][s] for s in roots], t.scale)
    c.num("suboptimality.reference", t.subopt(ref), t.scale)
    if t.beta > 0:
        compare_roots(c, "root_policy", t.roots(t.L), steep=1e-7 * t.scale / t.beta)
    if "policy_logits" in inst:
        lp = m.broadcast(m._log_policy("policy"))
        V = m.evaluate(t.r, lp, t.beta)
        c.num("policy_value", [V[0][s] for s in roots], t.scale + t.beta * m.H * float(np.max(np.abs(lp[np.isfinite(lp)]))))
        c.num("suboptimality.policy", t.subopt(lp), t.scale)
    else:
        c.null("policy_value", "the instance has no")
        c.null("suboptimality.policy", "the instance has no")
    if t.phi is None:
        c.null("feature_expectation")
    elif t.beta > 0:
        want = m.expect(t.L, t.phi)
        if "features" in inst:
            big = np.abs(t.phi[m.met]).max(axis=(0, 1)) if m.met.any() else np.zeros(t.d)
            got = c.get("feature_expectation")
            c.say("feature_expectation", got is not None and np.all(np.abs(np.array(got) - want) <= REL * m.H * big + 1e-300), got, want.tolist())
    # The best fixed sequence of actions of each prompt, at beta = 0.
    best = []
    for s in roots:
        if s in m.terminal:
            best.append(0.0)
            continue
        best.append(open_loop(m, t.r, s))
    total = float(sum(m.initial[s] * b for s, b in zip(roots, best) if m.initial[s] > 0))
    if total == -INF:
        return c.null("predetermined_value", "minus infinite")
    c.num("predetermined_value", total, t.scale)


def open_loop(m, r, root):
    """max over action sequences of the expected reward, each action allowed wherever the sequence may lead."""

    def go(h, dist):
        if h == m.H or not dist:
            return 0.0
        best = -INF
        for a in range(m.A):
            if any(m.ref[s, a] == 0 for s in dist):
                continue
            here = sum(p * r[s, a] for s, p in dist.items())
            nxt = {}
            for s, p in dist.items():
                for n, q in m.next[s][a]:
                    if n not in m.terminal:
                        nxt[n] = nxt.get(n, 0.0) + p * q
            best = max(best, here + (go(h + 1, nxt) if h < m.H - 1 else 0.0))
        return best

    return go(0, {root: 1.0})


class Data:
    """Pairs, estimate, metrics and radii, in 40 digits."""

    def __init__(self, t, prefs, hint=None):
        m, inst = t.m, t.inst
        est = inst.get("estimation", {})
        self.B = est.get("param_bound")
        self.ridge = exact(est.get("ridge", 1))
        self.delta = exact(est.get("fail_prob", 0.05))
        self.d = t.d
        phi = {}

        def feat(s, a):
            if (s, a) not in phi:
                phi[s, a] = [exact(x) for x in t.phi[s, a]]
            return phi[s, a]

        self.feat = feat

        def psi(prompt, y):
            out = [ZERO] * t.d
            for s, a in m.pair_states(prompt, y):
                f = feat(s, a)
                out = [u + v for u, v in zip(out, f)]
            return out

        self.psi = psi
        # A difference that is 0 in decimals is 0.
        top = [max([abs(feat(s, a)[k]) for s in range(m.S) for a in range(m.A)]) for k in range(t.d)]
        cut = lambda x: [ZERO if abs(v) <= mp.mpf("1e-40") * u else v for v, u in zip(x, top)]
        self.X = [cut([a - b for a, b in zip(psi(p.get("prompt"), p["winner"]), psi(p.get("prompt"), p["loser"]))]) for p in prefs]
        self.n = len(self.X)
        self.phi, self.steps = t.phi, [[m.pair_states(p.get("prompt"), p[k]) for k in ("winner", "loser")] for p in prefs]
        self.fit = pr.Estimate(self.X, t.d, self.B, hint)
        self.w = [pr.sigmoid(z) * pr.sigmoid(-z) for z in self.fit.margins]
        self.sigma = self.fit.gram([ONE] * self.n, self.ridge)
        self.fisher = self.fit.gram(self.w, self.ridge)
        self.chol = {}
        tt = -mp.log(self.delta)
        self.t = tt
        # d_eff = tr(X'X Sigma^-1) = d - ridge tr(Sigma^-1), from the eigenvalues in the row space: sum x' Sigma^-1 x.
        l = self.factor("sigma_d")
        deff = mp.fsum(dot(y, y) for y in (pr.forward(l, x) for x in self.X))
        self.G = mp.sqrt(deff + 2 * mp.sqrt(deff * tt) + 2 * tt) / 2
        norms = [mp.sqrt(dot(x, x)) for x in self.X]
        self.radii = {"G_noise": self.G, "rho_wald_Hmetric": mp.sqrt(pr.chi2_quantile(self.fit.rank, 1 - self.delta))}
        L = est.get("feature_bound")
        if L is None:
            L = max(mp.sqrt(dot(feat(s, a), feat(s, a))) for s, a in t.sa)
        else:
            L = exact(L)
        if self.B is not None:
            B, lam = exact(self.B), self.ridge
            z = 2 * m.H * L * B
            ups = 1 / (2 + mp.exp(z) + mp.exp(-z))
            C = exact(est.get("printed_constant", 1))
            kappa = min([pr.sigmoid(B * x) * pr.sigmoid(-B * x) for x in norms], default=mp.mpf("0.25"))
            th = lambda k: (self.G / k + mp.sqrt((self.G / k) ** 2 + 16 * lam * B * B)) / 2
            lip = mp.fsum(norms)
            cc = tt + t.d * mp.log(max(mp.e, 2 * mp.e * B * lip / t.d))
            lf = self.factor("fisher")
            xmax = max([mp.sqrt(dot(y, y)) for y in (pr.forward(lf, x) for x in self.X)], default=ZERO)
            self.radii |= {
                "Upsilon_2HLB": ups,
                "rho_printed_Upsilon": C * mp.sqrt(t.d * tt / ups) + lam * B * B,
                "rho_theory_Upsilon": th(ups),
                "kappa_data": kappa,
                "rho_theory_kappa": th(kappa),
                "c_LR_rigorous": cc,
                "rho_LR_via_kappa": mp.sqrt(2 * cc / kappa + 4 * lam * B * B),
                "rho_selfconcordant_Hmetric": (xmax * cc + mp.sqrt((xmax * cc) ** 2 + 8 * cc + 16 * lam * B * B)) / 2,
            }
        kind = est.get("bonus_scale", "wald")
        self.metric = "fisher" if kind in ("wald", "wald_ridge", "self_concordant") else "sigma_d"
        if isinstance(kind, (int, float)):
            self.metric = est.get("metric", "sigma_d")
            self.rho = exact(kind)
        else:
            rad = self.radii
            wald = rad["rho_wald_Hmetric"]
            self.rho = {
                "printed": lambda: rad["rho_printed_Upsilon"],
                "theory": lambda: rad["rho_theory_Upsilon"],
                "theory_kappa": lambda: rad["rho_theory_kappa"],
                "wald": lambda: wald,
                "wald_ridge": lambda: wald + mp.sqrt(self.ridge) * exact(self.B),
                "likelihood_ratio": lambda: rad["rho_LR_via_kappa"],
                "likelihood_ratio_asymptotic": lambda: mp.sqrt(wald * wald / rad["kappa_data"] + 4 * self.ridge * exact(self.B) ** 2),
                "self_concordant": lambda: rad["rho_selfconcordant_Hmetric"],
            }[kind]()
        self.M = self.sigma if self.metric == "sigma_d" else self.fisher

    def exact_rows(self):
        """X as rational numbers."""
        phi = lambda s, a: [Fraction(*Decimal(repr(float(x))).as_integer_ratio()) for x in self.phi[s, a]]

        def psi(steps):
            return [sum(column) for column in zip(*(phi(s, a) for s, a in steps))]

        return [[a - b for a, b in zip(psi(w), psi(l))] for w, l in self.steps]

    def factor(self, which):
        if which not in self.chol:
            self.chol[which] = pr.cholesky(self.sigma if which == "sigma_d" else self.fisher)
        return self.chol[which]

    def norm(self, v):
        """|v| in the dual of the metric of the radius."""
        y = pr.forward(self.factor(self.metric), v)
        return mp.sqrt(dot(y, y))


def f(x):
    return float(x)


def check_estimate(c, t, D):
    fit = D.fit
    got = c.get("mle.theta")
    want = [f(x) for x in fit.theta]
    # A coordinate's natural unit is 1 / (its largest feature): margins, not bare numbers, are compared, and the part no pair sees in units of the norm.
    ok = got is not None
    if ok:
        diff = [exact(g) - w for g, w in zip(got, fit.theta)]
        for x, z in zip(D.X, fit.margins):
            size = mp.fsum(abs(a * b) for a, b in zip(x, fit.theta))
            ok = ok and abs(dot(x, diff)) <= ARGMIN * (1 + abs(z)) + mp.mpf("1e-13") * size
        nrm = mp.sqrt(dot(fit.theta, fit.theta))
        ok = ok and mp.sqrt(dot(diff, diff)) <= ARGMIN * 10 * nrm + mp.mpf("1e-13") / (max([mp.sqrt(dot(x, x)) for x in D.X], default=ONE) or ONE)
    c.say("mle.theta" if fit.decided else "mle.theta (undecided, taken as reported)", ok, got, want)
    longest = f(max([mp.sqrt(dot(x, x)) for x in D.X], default=ONE))
    c.num("mle.norm", f(mp.sqrt(dot(fit.theta, fit.theta))), rel=1e-8, scale=0.1 / longest if longest else 1.0)
    c.num("mle.log_likelihood", f(fit.loglik), scale=D.n * 0.7 if D.n else 0)
    c.same("mle.rank", fit.rank)
    c.same("mle.separation", fit.sep)
    c.same("mle.separable", fit.sep == "complete")
    c.same("mle.at_bound", bool(fit.at_bound))
    if fit.decided:
        c.num("mle.multiplier", f(fit.mu), rel=1e-6, scale=1e-3 * f(max([mp.sqrt(dot(x, x)) for x in D.X], default=ZERO)) * D.n / (f(D.B) if D.B else 1.0))
    sig = [[f(x) for x in r] for r in D.sigma]
    g = c.get("sigma_d")
    ok = g is not None and all(abs(g[i][j] - sig[i][j]) <= REL * math.sqrt(sig[i][i] * sig[j][j]) for i in range(D.d) for j in range(D.d))
    c.say("sigma_d", ok, g, sig)
    l = D.factor("sigma_d")
    c.num("log_det_sigma", f(2 * mp.fsum(mp.log(l[i][i]) for i in range(D.d))), scale=D.d)
    for k in ["G_noise", "Upsilon_2HLB", "rho_printed_Upsilon", "rho_theory_Upsilon", "kappa_data", "rho_theory_kappa", "c_LR_rigorous", "rho_LR_via_kappa",
              "rho_wald_Hmetric", "rho_selfconcordant_Hmetric"]:
        if k not in D.radii:
            c.null(f"radii.{k}")
            continue
        v = D.radii[k]
        if abs(v) > mp.mpf("1e308"):
            c.num(f"radii.{k}", INF)
        elif v < mp.mpf("1e-300"):
            got = c.get(f"radii.{k}")
            c.say(f"radii.{k}", got is None or got <= 1e-299, got, f(v))
        else:
            # A curvature is e^(-margin): what a margin may be off counts in it.
            c.num(f"radii.{k}", f(v), rel=1e-6 if k == "rho_selfconcordant_Hmetric" else REL)


def linear_minimum(g, theta, M, rho, B):
    """min g'x over |x - theta|_M <= rho and |x| <= B (None: no ball): a lower bound that weak duality makes one at every tau, maximised over tau."""
    d = len(g)
    if rho == 0:
        return dot(g, theta)

    def bound(tau):
        # The average (1 - tau) ball + tau ellipsoid is an ellipsoid {x'Wx - 2b'x + c <= 0} that holds the intersection.
        W = [[tau * M[i][j] / rho**2 + ((1 - tau) / B**2 if i == j else 0) for j in range(d)] for i in range(d)]
        Mt = [dot(M[i], theta) for i in range(d)]
        b = [tau * v / rho**2 for v in Mt]
        cc = tau * (dot(Mt, theta) / rho**2 - 1) - (1 - tau)
        l = pr.cholesky(W)
        yg, yb = pr.forward(l, g), pr.forward(l, b)
        room = dot(yb, yb) - cc
        if room < 0:
            room = ZERO
        return dot(yb, yg) - mp.sqrt(dot(yg, yg) * room)

    if B is None:
        l = pr.cholesky(M)
        y = pr.forward(l, g)
        return dot(g, theta) - rho * mp.sqrt(dot(y, y))
    # Concave along the dual, so unimodal in tau; search log(tau / (1 - tau)), from one constraint alone to the other alone.
    ends = [bound(ONE), bound(ZERO)]
    lo, hi = mp.mpf(-60), mp.mpf(60)
    tau = lambda u: 1 / (1 + mp.exp(-u))
    phi = (mp.sqrt(5) - 1) / 2
    x1, x2 = hi - phi * (hi - lo), lo + phi * (hi - lo)
    f1, f2 = bound(tau(x1)), bound(tau(x2))
    for _ in range(70):
        if f1 < f2:
            lo, x1, f1 = x1, x2, f2
            x2 = lo + phi * (hi - lo)
            f2 = bound(tau(x2))
        else:
            hi, x2, f2 = x2, x1, f1
            x1 = hi - phi * (hi - lo)
            f1 = bound(tau(x1))
    return max(ends + [f1, f2])


def check_algorithms(c, t, D):
    m = t.m
    theta = np.array([f(x) for x in D.fit.theta])
    rho = f(D.rho)
    if math.isinf(rho):
        for k in ("algorithm1", "theorem_b1", "baselined"):
            c.null(k)
        return
    c.same("algorithm1.metric", D.metric)
    c.num("algorithm1.bonus_scale", rho, rel=1e-6 if t.inst.get("estimation", {}).get("bonus_scale") == "self_concordant" else REL)
    norms = np.zeros((m.S, m.A))
    for s in range(m.S):
        for a in m.actions(s):
            norms[s, a] = f(D.norm(D.feat(s, a)))
    rhat = t.phi @ theta - rho * norms
    size = max(abs(rhat[s, a]) for s, a in t.sa) * m.H
    V, L, _ = m.soft_optimum(rhat, t.beta)
    c.num("algorithm1.pessimistic_value", t.mean(V), scale=size + t.beta, rel=1e-6)
    # Probabilities move by (error of r-hat) / beta.
    tilt = min(1.0, 1e-8 * max(1.0, size / max(t.beta, 1e-12)))
    # Where rounding of r-hat is as large as beta, a null with a reason is right.
    open_ = lambda path: size > 1e7 * t.beta and c.undetermined(path)
    if t.beta > 0:
        compare_roots(c, "algorithm1.root_policy", t.roots(L), rel=max(1e-9, tilt))
    if t.r is None:
        for k in ["suboptimality", "expected_bonus_norm", "kl", "bound"]:
            c.null(f"algorithm1.{k}")
            if k != "kl":
                for p in ("theorem_b1", "baselined"):
                    if c.get(p) is not None and k != "expected_bonus_norm":
                        c.null(f"{p}.{k}")
    elif t.beta > 0:
        bonus = float(m.expect(t.L, norms))
        if not expectation_open(c, t, D, "algorithm1.expected_bonus_norm", bonus, rho):
            c.num("algorithm1.expected_bonus_norm", bonus, rel=1e-7)
        kl = t.kl_from_optimum(L)
        if not open_("algorithm1.suboptimality"):
            c.num("algorithm1.suboptimality", t.subopt(L), t.scale + size, rel=max(1e-8, tilt))
        if not open_("algorithm1.kl"):
            c.num("algorithm1.kl", kl, scale=1 + size / t.beta, rel=max(1e-8, tilt))
        if not open_("algorithm1.bound"):
            c.num("algorithm1.bound", 2 * rho * bonus - t.beta * kl, scale=2 * rho * bonus + size + t.beta, rel=max(1e-7, tilt))
    if t.theta_star is None:
        c.null("algorithm1.theta_star_in_set")
    else:
        err = [exact(x) - y for x, y in zip(t.theta_star, D.fit.theta)]
        e = mp.sqrt(mp.fsum(err[i] * dot(D.M[i], err) for i in range(D.d)))
        inside = e <= D.rho
        clear = abs(e - D.rho) > 1e-6 * (e + D.rho)
        if clear:
            c.same("algorithm1.theta_star_in_set", bool(inside))
        ball = D.B is None or mp.sqrt(mp.fsum(exact(x) ** 2 for x in t.theta_star)) <= exact(D.B) * (1 + mp.mpf("1e-12"))
        for p in ("theorem_b1", "baselined"):
            if c.get(p) is not None and clear:
                c.same(f"{p}.theta_star_in_set", bool(inside and ball))
    for p in ("theorem_b1", "baselined"):
        if t.beta == 0:
            c.null(p)
            continue
        check_maxmin(c, t, D, p, rho)


def soft_value(t, D, theta, nu):
    """V*(rho; theta) - nu'theta with its gradient and Hessian in 50 digits."""
    m, d, beta = t.m, D.d, exact(t.beta)
    ahead = {}
    for h in reversed(range(m.H)):
        for s in range(m.S):
            if s in m.terminal or not m.reach[h, s]:
                continue
            rows = []
            for a in m.actions(s):
                q, G, W = dot(D.feat(s, a), theta), list(D.feat(s, a)), [[ZERO] * d for _ in range(d)]
                for n, p in m.next[s][a] if h < m.H - 1 else []:
                    if n in m.terminal:
                        continue
                    V1, G1, W1 = ahead[h + 1, n]
                    q += exact(p) * V1
                    G = [x + exact(p) * y for x, y in zip(G, G1)]
                    W = [[x + exact(p) * y for x, y in zip(r, r1)] for r, r1 in zip(W, W1)]
                rows.append((exact(m.ref[s, a]), q, G, W))
            top = max(q for _, q, _, _ in rows)
            z = [w * mp.exp((q - top) / beta) for w, q, _, _ in rows]
            tot = mp.fsum(z)
            pi = [x / tot for x in z]
            G = [mp.fsum(p * r[2][k] for p, r in zip(pi, rows)) for k in range(d)]
            W = [[mp.fsum(p * (r[3][i][j] + (r[2][i] - G[i]) * (r[2][j] - G[j]) / beta) for p, r in zip(pi, rows)) for j in range(d)] for i in range(d)]
            ahead[h, s] = (top + beta * mp.log(tot), G, W)
    roots = [(exact(m.initial[s]), ahead[0, s]) for s in range(m.S) if m.reach[0, s]]
    value = mp.fsum(w * r[0] for w, r in roots) - dot(nu, theta)
    grad = [mp.fsum(w * r[1][k] for w, r in roots) - nu[k] for k in range(d)]
    return value, grad, [[mp.fsum(w * r[2][i][j] for w, r in roots) for j in range(d)] for i in range(d)]


def saddle_gap(t, D, theta, nu):
    """f(theta) - min f over the set, from above: Newton on the conditions of Kuhn and Tucker, and weak duality where it arrives."""
    d, center, bound = D.d, D.fit.theta, None if D.B is None else exact(D.B)
    here, _, _ = soft_value(t, D, theta, nu)
    best = None
    for active in ([1], [0], [0, 1], []) if bound is not None else ([0], []):
        x = list(theta)

        def normals(x):
            e = [a - b for a, b in zip(x, center)]
            return [[2 * dot(D.M[i], e) for i in range(d)], [2 * a for a in x]]

        def values(x):
            e = [a - b for a, b in zip(x, center)]
            return [mp.fsum(e[i] * dot(D.M[i], e) for i in range(d)) - D.rho**2, dot(x, x) - (bound or ZERO) ** 2]

        _, g, _ = soft_value(t, D, x, nu)
        N = normals(x)
        mult = {i: max(ZERO, -dot(g, N[i]) / dot(N[i], N[i])) for i in active}
        for _ in range(12):
            value, g, W = soft_value(t, D, x, nu)
            low = value - dot(g, x) + linear_minimum(g, center, D.M, D.rho, bound)
            if best is None or low > best:
                best = low
            N, C = normals(x), values(x)
            k = len(active)
            A, b = mp.zeros(d + k), mp.zeros(d + k, 1)
            for i in range(d):
                for j in range(d):
                    A[i, j] = W[i][j] + (2 * mult[0] * D.M[i][j] if 0 in active else 0) + (2 * mult[1] if 1 in active and i == j else 0)
                b[i] = -g[i] - mp.fsum(mult[a] * N[a][i] for a in active)
            for l, a in enumerate(active):
                for i in range(d):
                    A[i, d + l] = A[d + l, i] = N[a][i]
                b[d + l] = -C[a]
            try:
                step = mp.lu_solve(A, b)
            except ZeroDivisionError:
                break
            x = [x[i] + step[i] for i in range(d)]
            for l, a in enumerate(active):
                mult[a] += step[d + l]
    return here - best


def check_maxmin(c, t, D, p, rho):
    m = t.m
    if c.get(p) is None:
        return c.say(f"{p} (solved)", False, c.note(p), "a certified solution")
    nu = m.expect(m.broadcast(m.log_ref), t.phi) if p == "baselined" else np.zeros(t.d)
    theta = np.array(c.get(f"{p}.theta"), float)
    V, L, _ = m.soft_optimum(t.phi @ theta, t.beta)
    value = t.mean(V) - float(nu @ theta)
    g = m.expect(L, t.phi) - nu
    mle = np.array([f(x) for x in D.fit.theta])
    scale = max(max(abs(t.phi[s, a]) @ abs(v) for s, a in t.sa) * m.H for v in (theta, mle))
    c.num(f"{p}.value", value, scale=scale + t.beta)
    gx, tx = [exact(x) for x in g], [exact(x) for x in theta]
    low = linear_minimum(gx, D.fit.theta, D.M, D.rho, None if D.B is None else exact(D.B))
    gap = f(dot(gx, tx) - low)
    # Rounding of g counts by the size of the set.
    reach = f(mp.sqrt(dot(D.fit.theta, D.fit.theta)) + D.rho / mp.sqrt(D.ridge))
    reach = min(reach, float(D.B)) if D.B is not None else reach
    noise = 1e-15 * m.H * max(np.linalg.norm(t.phi[s, a]) for s, a in t.sa) * reach
    allowed = 1e-9 * scale + 1e-14 * t.beta + noise
    if gap > allowed:
        # Where rewards are so large beside beta that the last digit of theta decides the policy, the policy of the theta that can be printed is not that
        # of the saddle. Its value is certified all the same, by the gradient at the saddle itself.
        gap = f(saddle_gap(t, D, tx, [exact(x) for x in nu]))
    c.say(f"{p}: certified, gap over scale", abs(gap) <= allowed, gap / (scale or 1.0), "<= 1e-9")
    err = [x - y for x, y in zip(tx, D.fit.theta)]
    e = mp.sqrt(mp.fsum(err[i] * dot(D.M[i], err) for i in range(D.d)))
    nrm = mp.sqrt(dot(tx, tx))
    lim = exact(D.B) if D.B is not None else None
    size = mp.sqrt(abs(mp.fsum(D.fit.theta[i] * dot(D.M[i], D.fit.theta) for i in range(D.d))))
    # An estimate that is 0 has 50 digits of nothing.
    digits = mp.mpf("1e-40") * mp.sqrt(max(D.M[i][i] for i in range(D.d)))
    ok = e <= D.rho * (1 + mp.mpf("1e-9")) + mp.mpf("1e-7") * size * (1 if D.rho == 0 else 0) + mp.mpf("1e-9") * size + digits and (lim is None or nrm <= lim * (1 + mp.mpf("1e-9")))
    c.say(f"{p}: feasible", ok, (f(e), rho, f(nrm), D.B), "in the set")
    tilt = max(1e-9, 1e-12 * scale / t.beta)
    # Rounding of rewards that are as large beside beta as this decides the policy, and a null is right.
    large = scale * (t.d + 1) * m.H > 1e8 * t.beta
    compare_roots(c, f"{p}.root_policy", t.roots(L), rel=tilt)
    if t.r is not None:
        if not (large and c.undetermined(f"{p}.suboptimality")):
            c.num(f"{p}.suboptimality", t.subopt(L), t.scale + scale, rel=max(1e-8, tilt))
        n = f(D.norm([exact(x) for x in m.expect(t.L, t.phi) - nu]))
        top = f(max(D.norm(D.feat(s, a)) for s, a in t.sa)) * m.H
        if not expectation_open(c, t, D, f"{p}.bound", n, rho):
            c.num(f"{p}.norm_of_expectation", n, scale=1e3 * top, rel=1e-7)
            c.num(f"{p}.bound", 2 * rho * n, scale=2 * rho * top * 1e3, rel=1e-7)


def expectation_open(c, t, D, path, n, rho):
    """Whether the bound 2 rho n is null with a reason where it may be: every entry of an expectation of features is off by its rounding, about 1e-15
    of its terms for each step and each unit of reward over beta, and a norm in the inverse of M makes it larger."""
    unit = [[exact(int(i == k)) for i in range(t.d)] for k in range(t.d)]
    largest = [max(abs(t.phi[s, a, k]) for s, a in t.sa) * t.m.H for k in range(t.d)]
    reach = sum(x * f(D.norm(e)) for x, e in zip(largest, unit))
    noise = 2 * rho * reach * 1e-14 * (t.d + 1) * t.m.H * (1 + t.scale / t.beta)
    return noise > 1e-7 * (2 * rho * n + t.beta) and c.undetermined(path)


def check_coverage(c, t, prefs, D):
    m, inst = t.m, t.inst
    law = "behaviour" if "behaviour" in inst or "behaviour_logits" in inst else ("preferences" if prefs else None)
    if t.r is None or law is None:
        return c.null("coverage")
    if t.beta == 0:
        return
    c.same("coverage.law", law)
    star = m.visitation(t.L)
    dsa = star[:, :, None] * np.exp(t.L)
    trajectories = []
    for s in m.roots:
        if m.initial[s] > 0:
            for y, env in m.responses(s):
                trajectories.append((s, y, m.initial[s] * env, sum(t.L[h, u, a] for h, (u, a) in enumerate(y))))
    if law == "behaviour":
        lb = m.broadcast(m._log_policy("behaviour"))
        dm = m.visitation(lb)[:, :, None] * np.exp(lb)
        mu = [w * math.exp(sum(lb[h, u, a] for h, (u, a) in enumerate(y))) for _, y, w, _ in trajectories]
    else:
        dm = np.zeros_like(dsa)
        counts = {}
        for p in prefs:
            for k in ("winner", "loser"):
                y = m.pair_states(p.get("prompt"), p[k])
                counts[y] = counts.get(y, 0) + 1
                for h, (s, a) in enumerate(y):
                    dm[h, s, a] += 1 / (2 * len(prefs))
        mu = [counts.get(y, 0) / (2 * len(prefs)) for _, y, _, _ in trajectories]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(dsa > 0, dsa / dm, 0.0)
    c.num("coverage.C_sa", float(ratio.max()))
    at = c.get("coverage.C_sa_at")
    if at is not None:
        if m.tree:
            s, h = m.index[(at["prompt"], tuple(at["prefix"]))], len(at["prefix"])
        else:
            s, h = at["state"], at["step"]
        r = ratio[h, s, at["action"]]
        c.say("coverage.C_sa_at", r == ratio.max() or r >= ratio.max() * (1 - REL), (at, r), float(ratio.max()))
    else:
        c.say("coverage.C_sa_at", False, None, "a place")
    ps = [w * math.exp(l) for _, _, w, l in trajectories]
    # Possible is what each of whose actions has positive probability in floating point.
    possible = [all(math.exp(t.L[h, u, a]) > 0 for h, (u, a) in enumerate(y)) for _, y, _, _ in trajectories]
    rt = [INF if q == 0 and k else (0.0 if p == 0 else p / q) for p, q, k in zip(ps, mu, possible)]
    c.num("coverage.C_tau", max(rt))
    at = c.get("coverage.C_tau_at")
    if at is not None:
        y = m.pair_states(at.get("prompt"), at["response"])
        hit = [r for (s, z, _, _), r in zip(trajectories, rt) if z == y]
        c.say("coverage.C_tau_at", hit and (max(hit) == max(rt) or max(hit) >= max(rt) * (1 - REL)), (at, hit), max(rt))
    else:
        c.say("coverage.C_tau_at", False, None, "a response")
    chi = INF if any(math.isinf(r) for r in rt) else sum(p * r for p, r in zip(ps, rt)) - 1
    c.num("coverage.chi2", chi, scale=1e2)
    if t.phi is None:
        for k in ("C_lin", "C_lin_baselined", "C_lin_steps", "theorem_4_2", "theorem_b1", "baselined"):
            c.null(f"coverage.{k}")
        return
    # Linear coverage, in columns scaled to 1.
    unit = np.array([max(abs(t.phi[s, a, k]) for s, a in t.sa) for k in range(t.d)])
    unit[unit == 0] = 1.0
    ux = [exact(u) for u in unit]
    if law == "preferences":
        X = [[v / u for v, u in zip(x, ux)] for x in D.X]
        weights = [ONE / len(X)] * len(X)
    else:
        X, weights = [], []
        for s in m.roots:
            if m.initial[s] > 0:
                group = [(y, w) for (r0, y, _, _), w in zip(trajectories, mu) if r0 == s and w > 0]
                tot = sum(w for _, w in group)
                psis = [[mp.fsum(exact(t.phi[u, a, k]) for u, a in y) / ux[k] for k in range(t.d)] for y, _ in group]
                pw = [exact(w / tot) for _, w in group]
                whole = mp.fsum(pw)
                pw = [w / whole for w in pw]
                mean = [mp.fsum(w * q[k] for w, q in zip(pw, psis)) for k in range(t.d)]
                for w, q in zip(pw, psis):
                    X.append([a - b for a, b in zip(q, mean)])
                    weights.append(2 * exact(m.initial[s]) * w)
    lin = Linear(X, weights, t.d)
    e = m.expect(t.L, t.phi) / unit
    nu = m.expect(m.broadcast(m.log_ref), t.phi) / unit
    # What an expectation may be off by is a share of the terms that add up to it.
    terms = m.expect(t.L, np.abs(t.phi)) / unit
    both = terms + m.expect(m.broadcast(m.log_ref), np.abs(t.phi)) / unit
    for name, v, share in (("C_lin", e, terms), ("C_lin_baselined", e - nu, both)):
        scale = float(share.max())
        w, inside = lin.of([exact(x) for x in v], scale, share)
        if w is None:
            continue
        if not (lin.loss(v, scale) * LOSS > 1e-9 * (1 + w) and c.undetermined(f"coverage.{name}")):
            c.num(f"coverage.{name}", w, scale=lin.loss(v, scale))
        direction = c.get(f"coverage.{name}_direction")
        if np.abs(v).max() <= 1e-13 * (np.abs(e).max() + np.abs(nu).max()):
            continue
        if direction is None:
            c.say(f"coverage.{name}_direction", False, (None, c.note(f"coverage.{name}_direction")), "a direction")
            continue
        z = [exact(x) * u for x, u in zip(direction, ux)]
        top = mp.fsum(a * exact(b) for a, b in zip(z, v)) ** 2
        low = mp.fsum(q * dot(z, x) ** 2 for q, x in zip(weights, X))
        zz = dot(z, z)
        big = max([dot(x, x) for x in X], default=ONE)
        if math.isinf(w):
            ok = low <= mp.mpf("1e-18") * zz * max(big, 1) and top > 0
        else:
            ok = low > 0 and abs(top / low / w - 1) <= 1e-6
        c.say(f"coverage.{name}_direction", ok, (direction, f(top / low) if low > 0 else INF), w)
    occ = dsa.sum(axis=0)
    per = {}
    for s, a in t.sa:
        if occ[s, a] > 0:
            per[s, a] = lin.of([exact(x) for x in t.phi[s, a] / unit], float(np.abs(t.phi[s, a] / unit).max()))[0]
    total = sum(occ[k] * math.sqrt(v) if v != INF else INF for k, v in per.items())
    if not (root(lin.most) * 1e-14 * m.H > 1e-7 * (1 + total) and c.undetermined("coverage.C_lin_steps")):
        c.num("coverage.C_lin_steps", total)
    at = c.get("coverage.C_lin_steps_at")
    if at is not None:
        s = m.index[(at["prompt"], tuple(at["prefix"]))] if m.tree else at["state"]
        v = per.get((s, at["action"]), 0.0)
        best = max(per.values())
        c.say("coverage.C_lin_steps_at", v == best or v >= best * (1 - REL), (at, v), best)
    if D is None or law == "behaviour":
        for k in ("theorem_4_2", "theorem_b1", "baselined"):
            c.null(f"coverage.{k}")
        return
    lin2 = lin if D.metric == "sigma_d" else Weighted(D, ux)
    rho, n = f(D.rho), D.n
    if rho == 0 or math.isinf(rho):
        return
    if any(c.get(f"coverage.{k}") is not None and math.isinf(v) for k, v in (("theorem_4_2", total),)):
        c.say("coverage.theorem_4_2", False, c.get("coverage.theorem_4_2"), "infinite")
        return
    tot = sum(occ[k] * root(lin2.of([exact(x) for x in t.phi[k[0], k[1]] / unit], 1.0)[0]) if per[k] != INF else INF for k in per)
    wide = max(1e-7, 1e-6 if t.inst.get("estimation", {}).get("bonus_scale") == "self_concordant" else 0)
    noisy = lambda scale, bound: 2 * rho * root(lin2.most) * 1e-14 / math.sqrt(n) * scale * m.H * t.d * (1 + t.scale / t.beta) > 1e-7 * (bound + t.beta)
    bound = 2 * rho * tot / math.sqrt(n) if tot != INF else INF
    if not (noisy(1.0, bound) and c.undetermined("coverage.theorem_4_2")):
        c.num("coverage.theorem_4_2", bound, rel=wide)
    for name, v, scale in (("theorem_b1", e, float(terms.max())), ("baselined", e - nu, float(both.max()))):
        w = lin2.of([exact(x) for x in v], scale)[0]
        if w is None:
            continue
        if w != INF and noisy(scale, 2 * rho * root(w) / math.sqrt(n)) and c.undetermined(f"coverage.{name}"):
            continue
        noise = 0.0 if w == INF else 2 * rho * root(lin2.most) * 1e-14 / math.sqrt(n) / LOSS * scale
        c.num(f"coverage.{name}", INF if w == INF else 2 * rho * root(w) / math.sqrt(n), rel=wide, scale=noise)


def root(x):
    """The square root of a number that may be far out of floating point."""
    return float(mp.sqrt(x))


LEAST_WEIGHT = mp.mpf(2) ** -8000


class Weighted:
    """v'E[w xx']^+ v of given pairs in rational numbers, whatever the weights are: with B the rows of X that are a basis and X = T B it is
    c'(T'WT)^-1 c for v = B'c."""

    def __init__(self, D, units):
        units = [fraction(u) for u in units]
        rows = [[x / u for x, u in zip(row, units)] for row in D.exact_rows()]
        self.B, T = [], []
        for row in rows:
            c = self.coordinates(row)
            if any(row) and (c is None or any(a != sum(ci * b[k] for ci, b in zip(c, self.B)) for k, a in enumerate(row))):
                self.B.append(row)
        k = len(self.B)
        T = [self.coordinates(row) or [] for row in rows]
        # What is seen through weights below 2^-8000 alone is infinite in floating point, and so it is through this one.
        W = [fraction(max(w, LEAST_WEIGHT) if w else w) / D.n for w in D.w]
        G = [[sum(w * t[i] * t[j] for w, t in zip(W, T)) for j in range(k)] for i in range(k)]
        self.inverse = rational_inverse(G)
        unit = [[Fraction(int(i == j)) for j in range(D.d)] for i in range(D.d)]
        self.most = max([self.value(self.coordinates(e) or []) for e in unit], default=ZERO)

    def coordinates(self, v):
        """Least squares of v by the rows of B."""
        k = len(self.B)
        if k == 0:
            return None
        gram = [[sum(a * b for a, b in zip(x, y)) for y in self.B] for x in self.B]
        right = [sum(a * b for a, b in zip(x, v)) for x in self.B]
        inv = rational_inverse(gram)
        return [sum(inv[i][j] * right[j] for j in range(k)) for i in range(k)]

    def value(self, c):
        x = sum(c[i] * self.inverse[i][j] * c[j] for i in range(len(c)) for j in range(len(c)))
        return mp.mpf(x.numerator) / x.denominator if x else ZERO

    def of(self, v, scale):
        v = [fraction(x) for x in v]
        c = self.coordinates(v) or []
        rest = [float(a - sum(ci * b[k] for ci, b in zip(c, self.B))) for k, a in enumerate(v)]
        off = float(np.linalg.norm(rest))
        if off > 1e-11 * scale:
            return INF, False
        if off > 1e-13 * scale:
            return None, False
        return self.value(c), True


def fraction(x):
    """An mpmath number without rounding."""
    sign, man, exp, _ = mp.mpf(x)._mpf_
    man = -int(man) if sign else int(man)
    return Fraction(man * 2**exp) if exp >= 0 else Fraction(man, 2**-exp)


def rational_inverse(a):
    n = len(a)
    a = [list(row) + [Fraction(int(i == j)) for j in range(n)] for i, row in enumerate(a)]
    for i in range(n):
        p = next(r for r in range(i, n) if a[r][i] != 0)
        a[i], a[p] = a[p], a[i]
        a[i] = [x / a[i][i] for x in a[i]]
        for r in range(n):
            if r != i and a[r][i] != 0:
                a[r] = [x - a[r][i] * y for x, y in zip(a[r], a[i])]
    return [row[n:] for row in a]


class Linear:
    """v'E[xx']^+ v, infinite off the range, None where rounding of v leaves that open."""

    def __init__(self, X, weights, d):
        self.basis = pr.gram_schmidt([[ZERO if abs(v) < mp.mpf("1e-35") else v for v in x] for x in X])  # columns have size 1
        k = len(self.basis)
        A = [[dot(q, x) for q in self.basis] for x in X]
        self.C = [[mp.fsum(w * a[i] * a[j] for w, a in zip(weights, A)) for j in range(k)] for i in range(k)]
        self.chol = pr.cholesky(self.C) if k else []
        # The largest v'C^-1 v over unit coordinates.
        self.most = 0.0
        for i in range(d):
            y = pr.forward(self.chol, [q[i] for q in self.basis])
            self.most = max(self.most, float(dot(y, y)))

    def of(self, v, scale, terms=None):
        z = [dot(q, v) for q in self.basis]
        rest = [a - mp.fsum(q[i] * zz for q, zz in zip(self.basis, z)) for i, a in enumerate(v)]
        off = mp.sqrt(dot(rest, rest))
        if off > mp.mpf("1e-11") * scale:
            return INF, False
        if off > mp.mpf("1e-13") * scale:
            return None, False
        if terms is not None:
            # A share of a coordinate that is far below the others, but not below the rounding of its own terms, is left open too.
            for i, a in enumerate(rest):
                outside = [int(i == k) - mp.fsum(q[i] * q[k] for q in self.basis) for k in range(len(v))]
                if abs(a) > mp.mpf("1e-13") * mp.fsum(abs(o) * exact(x) for o, x in zip(outside, terms)):
                    return None, False
        y = pr.forward(self.chol, z) if z else []
        return float(dot(y, y)), True

    def loss(self, v, scale):
        """How much v'C^-1 v moves when v does by 1e-16 of `scale`, over LOSS: what rounding in the expectation costs."""
        if not self.basis:
            return 0.0
        w, ok = self.of([exact(x) for x in v], scale)
        if not ok:
            return 0.0
        worst = 0.0
        for i in range(len(v)):
            e = [mp.mpf(scale) if j == i else ZERO for j in range(len(v))]
            z = [dot(q, e) for q in self.basis]
            y = pr.forward(self.chol, z)
            worst = max(worst, float(dot(y, y)))
        return 100 * 1e-16 * (math.sqrt(worst * w) + 1e-16 * worst) / LOSS


def check_dpo(c, t, prefs, D):
    m, inst = t.m, t.inst
    cfg = inst.get("dpo") or {}
    beta = cfg.get("beta", t.beta)
    if beta == 0:
        c.null("dpo")
        return None
    if D is None and t.r is None:
        c.null("dpo")
        return None
    if prefs is not None and D is not None:
        if not m.deterministic:
            c.null("dpo", "not computed")
            return None
        source = "preferences"
        rew = t.phi @ np.array([f(x) for x in D.fit.theta])
    elif t.r is not None:
        source = "population"
        rew = t.r
    else:
        c.null("dpo")
        return None
    if not m.deterministic:
        check_stochastic_dpo(c, t, beta, cfg.get("pairs", "reference"))
        return None
    if c.get("dpo") is None:
        c.say("dpo", False, c.note("dpo"), "a policy")
        return None
    c.same("dpo.source", source)
    c.num("dpo.beta", beta)
    V, L, _ = m.soft_optimum(rew, beta)
    size = max(abs(rew[s, a]) for s, a in t.sa) * m.H
    tilt = max(1e-9, 1e-9 * size / beta) if source == "preferences" else 1e-9
    compare_roots(c, "dpo.root_policy", t.roots(L), rel=min(tilt * 10, 1.0))
    tr = c.get("dpo.token_reward_root")
    ok = isinstance(tr, list) and len(tr) == len(m.roots)
    want = []
    if ok:
        for g, s in zip(tr, m.roots):
            if s in m.terminal or (g is None and m.initial[s] == 0):
                want.append(None)
                ok = ok and g is None
                continue
            row = [beta * (L[0, s, a] - m.log_ref[s, a]) if m.ref[s, a] > 0 else 0.0 for a in range(m.A)]
            want.append(row)
            ok = ok and g is not None and all(abs(x - w) <= 1e-7 * (size + beta) for x, w in zip(g, row))
    c.say("dpo.token_reward_root", ok, tr, want)
    if source == "preferences":
        if D.n:
            c.num("dpo.loss", -f(D.fit.loglik) / D.n, scale=1)
        else:
            c.null("dpo.loss")
    else:
        c.null("dpo.loss")
    if t.r is not None:
        c.num("dpo.population_loss", population_loss(t, rew), scale=1 + size, rel=1e-7)
        c.num("dpo.suboptimality", t.subopt(L), t.scale + t.beta * size / beta, rel=max(1e-7, min(tilt * 10, 1)))
    else:
        c.null("dpo.population_loss")
        c.null("dpo.suboptimality")
    if source == "population":
        c.same("dpo.unique", True)
    else:
        c.same("dpo.unique", spans_differences(t, D))
    return L, beta


def population_loss(t, rew):
    """The expected loss over all unordered pairs of two different responses to a prompt, all alike, prompts by rho; None where a prompt has only one."""
    m = t.m
    loss, weight = 0.0, 0.0
    for s in m.roots:
        if m.initial[s] <= 0:
            continue
        ys = [y for y, _ in m.responses(s)]
        if len(ys) < 2:
            return None
        R = np.array([sum(t.r[u, a] for u, a in y) for y in ys])
        E = np.array([sum(rew[u, a] for u, a in y) for y in ys])
        i, j = np.triu_indices(len(ys), 1)
        p = 1 / (1 + np.exp(-np.clip(R[i] - R[j], -700, 700)))
        e = E[i] - E[j]
        l = p * np.logaddexp(0, -e) + (1 - p) * np.logaddexp(0, e)
        loss += m.initial[s] * l.mean()
        weight += m.initial[s]
    return loss / weight if weight else None


def spans_differences(t, D):
    m = t.m
    unit = [max(abs(exact(t.phi[s, a, k])) for s, a in t.sa) or ONE for k in range(t.d)]
    base = pr.gram_schmidt([[v / u for v, u in zip(x, unit)] for x in D.X])
    for s in m.roots:
        if m.initial[s] <= 0:
            continue
        first = None
        for y, _ in m.responses(s):
            p = [mp.fsum(exact(t.phi[u, a, k]) for u, a in y) / unit[k] for k in range(t.d)]
            if first is None:
                first = p
                continue
            v = [a - b for a, b in zip(p, first)]
            n0 = mp.sqrt(dot(v, v))
            for q in base:
                cc = dot(q, v)
                v = [a - cc * b for a, b in zip(v, q)]
            if mp.sqrt(dot(v, v)) > mp.mpf("1e-13") * (n0 + mp.sqrt(dot(first, first))):
                return False
    return True


def check_stochastic_dpo(c, t, beta, pairs):
    """The minimiser of the expected (4.4) over policies, by its own descent from several starts: the reported loss may not be above the lowest found."""
    from scipy.optimize import minimize

    m = t.m
    if c.get("dpo") is None:
        return c.say("dpo (stochastic)", False, c.note("dpo"), "a policy")
    groups, base = [], 0.0
    cells = [(h, s) for h in range(m.H) for s in range(m.S) if m.reach[h, s]]
    pos = {}
    for h, s in cells:
        for a in m.actions(s):
            pos[h, s, a] = len(pos)
    if len(pos) > 40:
        return
    for s in m.roots:
        if m.initial[s] <= 0:
            continue
        ys = m.responses(s)
        if len(ys) < 2:
            base += m.initial[s] * math.log(2) if pairs == "reference" else 0.0
            continue
        inc = np.zeros((len(ys), len(pos)))
        for i, (y, _) in enumerate(ys):
            for h, (u, a) in enumerate(y):
                inc[i, pos[h, u, a]] = 1
        q = np.array([env * math.exp(sum(m.log_ref[u, a] for u, a in y)) for y, env in ys]) if pairs == "reference" else np.ones(len(ys))
        R = np.array([sum(t.r[u, a] for u, a in y) for y, _ in ys])
        i, j = np.triu_indices(len(ys), 1)
        # From the reference two responses are drawn independently, and may be one and the same, at loss log 2; "uniform" is over pairs of different ones.
        w = 2 * q[i] * q[j]
        w = w / (1.0 if pairs == "reference" else w.sum()) * m.initial[s]
        base += (m.initial[s] - w.sum()) * math.log(2)
        groups.append((inc, i, j, w, 1 / (1 + np.exp(-(R[i] - R[j])))))
    tot = sum(g[3].sum() for g in groups) + base / math.log(2)
    lref = np.array([m.log_ref[s, a] for (h, s, a) in pos])
    blocks = {}
    for (h, s, a), k in pos.items():
        blocks.setdefault((h, s), []).append(k)

    def loss(x):
        lr = np.zeros(len(pos))
        probs = np.zeros(len(pos))
        for ks in blocks.values():
            z = x[ks] + lref[ks]
            z = z - z.max()
            l = z - np.log(np.exp(z).sum())
            lr[ks] = l - lref[ks]
            probs[ks] = np.exp(l)
        val, grad = base / tot, np.zeros(len(pos))
        for inc, i, j, w, p in groups:
            e = beta * (inc @ lr)
            dd = e[i] - e[j]
            val += np.sum(w * (p * np.logaddexp(0, -dd) + (1 - p) * np.logaddexp(0, dd))) / tot
            gd = w * (1 / (1 + np.exp(-dd)) - p) / tot
            ge = np.zeros(len(inc))
            np.add.at(ge, i, gd)
            np.add.at(ge, j, -gd)
            grad += beta * (ge @ inc)
        out = grad.copy()
        for ks in blocks.values():
            out[ks] = grad[ks] - probs[ks] * grad[ks].sum()
        return val, out

    rng = np.random.default_rng(5)
    best = None
    for k in range(8):
        x0 = np.zeros(len(pos)) if k == 0 else rng.normal(size=len(pos)) * 2
        r = minimize(loss, x0, jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 2000})
        if best is None or r.fun < best.fun:
            best = r
        if TRACE is not None:
            TRACE.append((r.fun, np.abs(r.jac).max(), r.x, pos))
    got = c.get("dpo.minimisation.loss")
    if got is None:
        return c.say("dpo.minimisation.loss (stochastic)", False, (None, c.note("dpo.minimisation")), best.fun)
    c.say("dpo.minimisation.loss (stochastic), no higher than ours", got <= best.fun + 1e-9, got, best.fun)
    if got >= best.fun - 1e-9 and np.max(np.abs(best.x)) < 30:
        ours = {}
        for (h, s), ks in blocks.items():
            z = best.x[ks] + lref[ks]
            z = np.exp(z - z.max())
            ours[h, s] = z / z.sum()
        agree = True
        for i, s in enumerate(m.roots):
            if m.initial[s] > 0:
                g = c.get("dpo.root_policy")[i]
                agree = agree and g is not None and np.allclose([g[a] for a in m.actions(s)], ours[0, s], atol=1e-4)
        c.say("dpo.root_policy (stochastic, one of the lowest)", agree or c.get("dpo.unique") is not True, c.get("dpo.root_policy"), {str(k): v.tolist() for k, v in ours.items() if k[0] == 0})


def check_rto(c, t, dpo):
    m, inst = t.m, t.inst
    cfg = inst.get("rto")
    if cfg is None:
        return c.null("rto", "the instance has no")
    b1, b2 = cfg["beta1"], cfg["beta2"]
    source = cfg.get("source", "dpo" if inst.get("preferences") is not None else "optimal")
    if source == "optimal":
        if t.r is None or t.beta == 0:
            return c.null("rto")
        L, beta = t.L, t.beta
    else:
        if dpo is None:
            if c.get("dpo") is None:
                c.null("rto")
            return
        L, beta = dpo
    if c.get("rto") is None:
        return c.say("rto", False, c.note("rto"), "a policy")
    c.same("rto.source", source)
    with np.errstate(invalid="ignore"):
        gap = np.where(np.isfinite(L), L - m.log_ref[None], 0.0)
    # A reward that depends on the step: plan with it by hand.
    V = np.zeros((m.H + 1, m.S))
    P = np.full((m.H, m.S, m.A), -np.inf)
    for h in reversed(range(m.H)):
        for s in range(m.S):
            if s in m.terminal:
                continue
            acts = m.actions(s)
            q = [b1 * gap[h, s, a] + (sum(p * V[h + 1, n] for n, p in m.next[s][a]) if h < m.H - 1 else 0.0) for a in acts]
            top = max(q)
            V[h, s] = top + b2 * math.log(sum(m.ref[s, a] * math.exp((x - top) / b2) for a, x in zip(acts, q)))
            for a, x in zip(acts, q):
                P[h, s, a] = m.log_ref[s, a] + (x - V[h, s]) / b2
    size = b1 * m.H * max((abs(gap[h, s, a]) for h in range(m.H) for s in range(m.S) if m.reach[h, s] for a in m.actions(s)), default=0)
    rel = max(1e-9, min(1.0, 1e-9 * size / b2)) if source == "dpo" else max(1e-9, min(1.0, 1e-11 * size / b2))
    compare_roots(c, "rto.root_policy", t.roots(P), rel=rel * 10)
    c.num("rto.value", [V[0][s] for s in m.roots], scale=1e3 * size + b2, rel=1e-7)
    if m.deterministic:
        c.num("rto.beta_effective", beta * b2 / b1)
    if t.r is None:
        c.null("rto.suboptimality")
    else:
        c.num("rto.suboptimality", t.subopt(P), t.scale + 10 * t.beta * size / b2, rel=max(1e-7, rel * 10))


def worst_mean(row, values, zeta):
    """min sum P V over KL(P-hat || P) <= zeta, by its dual: max over eta <= min V of eta + exp(sum P-hat log(V - eta) - zeta), concave in eta."""
    low = min(values)
    if math.isinf(zeta):
        return low
    seen = [(p, v - low) for (_, p), v in zip(row, values) if p > 0]
    mean = sum(p * v for p, v in seen)
    wide = max(v for _, v in seen)
    if zeta == 0 or wide == 0:
        return low + mean

    def dual(u):
        x = wide * mp.exp(u)
        return x * mp.expm1(mp.fsum(p * mp.log1p(v / x) for p, v in seen) - zeta)

    # Below exp(-80) of the spread the dual is flat to 35 digits, so the search has 60: on a plateau it would go the wrong way.
    with mp.workdps(60):
        return low + float(golden_maximum(dual, mp.mpf(-80), mp.mpf(60)))


def golden_maximum(dual, lo, hi):
    """The maximum of a function that rises, then falls."""
    phi = (mp.sqrt(5) - 1) / 2
    a, b = hi - phi * (hi - lo), lo + phi * (hi - lo)
    fa, fb = dual(a), dual(b)
    for _ in range(160):
        if fa < fb:
            lo, a, fa = a, b, fb
            b = lo + phi * (hi - lo)
            fb = dual(b)
        else:
            hi, b, fb = b, a, fa
            a = hi - phi * (hi - lo)
            fa = dual(a)
    return max(fa, fb)


def check_robust(c, t, D):
    """Errata B7: soft value iteration in which the transition of every pair is the worst of a ball around the counted one."""
    m, inst = t.m, t.inst
    if "transition_counts" not in inst:
        return c.null("robust", "the instance has no")
    if D is not None:
        if math.isinf(f(D.rho)):
            return c.null("robust")
        theta = np.array([f(x) for x in D.fit.theta])
        norms = np.array([[f(D.norm(D.feat(s, a))) for a in range(m.A)] for s in range(m.S)])
        r, name = t.phi @ theta - f(D.rho) * norms, "pessimistic"
    elif t.r is not None:
        r, name = t.r, "given"
    else:
        return c.null("robust", "unknown")
    if c.get("robust") is None:
        return c.say("robust", False, c.note("robust"), "a value")
    c.same("robust.reward", name)
    # Listed successors with their estimated probability; what ends the episode has the value 0.
    END = -1
    rows = {}
    for s in range(m.S):
        for a in range(m.A):
            known = m.next[s][a] or [(END, 1.0)]
            cell = inst["transition_counts"][s][a]
            if isinstance(cell, list):
                n = sum(k for _, k in cell)
                row = [(to, k / n) for to, k in cell] + [(to, 0.0) for to, _ in known if to not in [x for x, _ in cell]] if n else known
            else:
                n, row = cell, known
            rows[s, a] = (row, inst["zeta"] / n if n else INF)
    V = np.zeros((m.H + 1, m.S))
    L = np.full((m.H, m.S, m.A), -np.inf)
    for h in reversed(range(m.H)):
        for s in range(m.S):
            if s in m.terminal:
                continue
            q = {}
            for a in m.actions(s):
                row, zeta = rows[s, a]
                value = lambda to: 0.0 if to == END or to in m.terminal else V[h + 1, to]
                q[a] = r[s, a] + (worst_mean(row, [value(to) for to, _ in row], zeta) if h < m.H - 1 else 0.0)
            top = max(q.values())
            if t.beta == 0:
                V[h, s] = top
                continue
            V[h, s] = top + t.beta * math.log(sum(m.ref[s, a] * math.exp((x - top) / t.beta) for a, x in q.items()))
            for a, x in q.items():
                L[h, s, a] = m.log_ref[s, a] + (x - V[h, s]) / t.beta
    size = max(abs(r[s, a]) for s in range(m.S) if s not in m.terminal for a in m.actions(s)) * m.H
    c.num("robust.value", t.mean(V), scale=size + t.beta, rel=1e-8 if name == "given" else 1e-6)
    if t.beta > 0:
        tilt = min(1.0, (1e-11 if name == "given" else 1e-8) * max(1.0, size / t.beta))
        compare_roots(c, "robust.root_policy", t.roots(L), rel=max(1e-8, tilt))


def check(inst, out):
    c = Checker(inst, out)
    check_notes(c)
    t = Truth(inst)
    check_planning(c, t)
    prefs = inst.get("preferences")
    D = None
    if prefs is not None and t.phi is not None:
        hint = None if c.get("mle") is None else ([exact(x) for x in c.get("mle.theta")], exact(c.get("mle.multiplier")))
        D = Data(t, prefs, hint)
        c.say("mle: the reference's own conditions hold", D.fit.converged, "", "")
        if c.get("mle") is None:
            c.say("mle (found)", False, c.note("mle"), [f(x) for x in D.fit.theta])
        else:
            check_estimate(c, t, D)
            check_algorithms(c, t, D)
    else:
        for k in ["mle", "sigma_d", "log_det_sigma", "radii", "algorithm1", "theorem_b1", "baselined"]:
            c.null(k)
    check_robust(c, t, D if c.get("mle") is not None else None)
    check_coverage(c, t, prefs, D)
    dpo = check_dpo(c, t, prefs, D)
    check_rto(c, t, dpo)
    return c.rows
