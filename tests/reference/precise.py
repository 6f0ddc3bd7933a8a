"""Linear algebra, Bradley-Terry estimates and quantiles in 50 digits, on plain lists of mpmath numbers.

Numbers of the file are read as the decimals that they are written as, so that a rank is that of the instance and not of its rounding.
"""
import mpmath as mp
import numpy as np
from scipy.optimize import linprog

mp.mp.dps = 50
ZERO, ONE = mp.mpf(0), mp.mpf(1)


def exact(x):
    return mp.mpf(repr(float(x)))


def dot(u, v):
    return mp.fdot(u, v)


def gram_schmidt(rows):
    """An orthonormal basis of the span of the rows, deciding at 1e-25 of each row's length. Columns may have units 1e-6 to 1e6 of each other."""
    basis = []
    for r in rows:
        n0 = mp.sqrt(dot(r, r))
        if n0 == 0:
            continue
        v = list(r)
        for _ in range(2):
            for q in basis:
                c = dot(q, v)
                v = [a - c * b for a, b in zip(v, q)]
        n = mp.sqrt(dot(v, v))
        if n > n0 * mp.mpf("1e-25"):
            basis.append([a / n for a in v])
    return basis


def cholesky(a):
    n = len(a)
    l = [[ZERO] * n for _ in range(n)]
    for j in range(n):
        s = a[j][j] - dot(l[j][:j], l[j][:j])
        if s <= 0:
            raise ZeroDivisionError("not positive definite")
        l[j][j] = mp.sqrt(s)
        for i in range(j + 1, n):
            l[i][j] = (a[i][j] - dot(l[i][:j], l[j][:j])) / l[j][j]
    return l


def forward(l, b):
    y = []
    for i in range(len(b)):
        y.append((b[i] - dot(l[i][:i], y)) / l[i][i])
    return y


def solve_chol(l, b):
    y = forward(l, b)
    n = len(b)
    x = [ZERO] * n
    for i in reversed(range(n)):
        x[i] = (y[i] - mp.fsum(l[j][i] * x[j] for j in range(i + 1, n))) / l[i][i]
    return x


def sigmoid(t):
    return 1 / (1 + mp.exp(-t))


def softplus(t):
    return mp.log1p(mp.exp(t)) if t < 0 else t + mp.log1p(mp.exp(-t))


def separation(X):
    """'complete', 'quasi' or 'none' by linear programs on the rows scaled to length 1 (numbers of each column to at most 1)."""
    X = np.array([[float(v) for v in r] for r in X])
    if len(X) == 0:
        return "none"
    X = X[:, np.abs(X).max(axis=0) > 0]
    if X.shape[1] == 0:
        return "none"
    X = X / np.abs(X).max(axis=0)
    m = np.abs(X).max(axis=1, keepdims=True)
    zero = m[:, 0] == 0
    X = X[~zero] / m[~zero]
    X = np.unique(np.round(X, 13), axis=0)
    n, d = X.shape
    # max t, x_i v >= t, |v| <= 1: complete if t > 0; max sum of x_i v with x_i v >= 0: quasi if positive.
    r = linprog(np.r_[np.zeros(d), -1.0], A_ub=np.c_[-X, np.ones(n)], b_ub=np.zeros(n), bounds=[(-1, 1)] * d + [(None, 1)], method="highs")
    if -r.fun > 1e-8:
        return "quasi" if zero.any() else "complete"
    r = linprog(-X.sum(axis=0), A_ub=-X, b_ub=np.zeros(n), bounds=[(-1, 1)] * d, method="highs")
    return "quasi" if -r.fun > 1e-8 else "none"


class Estimate:
    """(4.1): the maximiser of the Bradley-Terry likelihood in the ball of radius B (None: everywhere), of least norm, and its multiplier.

    On separable data the weights are of many orders: the digits grow with the margins, and Newton from 0 takes as many steps as they are long. There a
    hint (theta, multiplier) may say where to start. Whatever it is, what comes out fulfils the conditions of Kuhn and Tucker to 20 digits, and the problem is
    convex: it is the maximiser. `converged` says whether it does.
    """

    def __init__(self, X, d, bound, hint=None):
        try:
            self._solve(X, d, bound, hint, False)
        except ZeroDivisionError:
            # Weights of too many orders for the digits.
            if hint is None:
                raise
            self._solve(X, d, bound, hint, True)

    def _solve(self, X, d, bound, hint, given):
        self.X, self.d, self.n = X, d, len(X)
        self.sep = separation(X)
        self.basis = gram_schmidt(X)
        self.rank = len(self.basis)
        if self.sep != "none" and bound is None:
            raise ValueError("no finite maximiser")
        k = self.rank
        if hint is not None:
            longest = max([abs(dot(x, hint[0])) for x in X], default=ZERO)
            # Weights of separated pairs stand beside those of pairs that overlap; alone they need no more digits.
            mp.mp.dps = 50 + (int(min(longest, 1500) * 0.9) if self.sep == "quasi" else 0)
        A = [[dot(q, x) for q in self.basis] for x in X]
        self.mu = ZERO
        z = [ZERO] * k

        def pieces(z, mu):
            m = [dot(a, z) for a in A]
            p = [sigmoid(-t) for t in m]
            g = [mu * z[i] - mp.fsum(p[j] * A[j][i] for j in range(self.n)) for i in range(k)]
            w = [q * (1 - q) for q in p]
            h = [[mp.fsum(w[l] * A[l][i] * A[l][j] for l in range(self.n)) + (mu if i == j else 0) for j in range(k)] for i in range(k)]
            return g, h

        def value(z, mu):
            return mp.fsum(softplus(-dot(a, z)) for a in A) + mu * dot(z, z) / 2

        def newton(z, mu, tol=mp.mpf("1e-30"), steps=80):
            for _ in range(steps):
                g, h = pieces(z, mu)
                if k == 0:
                    return z
                s = solve_chol(cholesky(h), g)
                dec = dot(g, s)
                if dec <= tol * (mu * dot(z, z) if mu else ONE):
                    return [a - b for a, b in zip(z, s)]
                t = ONE
                if dec > mp.mpf("0.01"):
                    f = value(z, mu)
                    while value([a - t * b for a, b in zip(z, s)], mu) > f - t * dec / 4:
                        t /= 2
                z = [a - t * b for a, b in zip(z, s)]
            return z

        B = None if bound is None else exact(bound)
        inside = False
        # Beyond this the digits are too many: the estimate is taken as reported, and said to be undecided.
        self.decided = not (given or hint is not None and self.sep == "quasi" and longest > 1500)
        if not self.decided:
            z, self.mu, inside = [dot(q, hint[0]) for q in self.basis], hint[1], True
        if self.sep == "none" and self.decided:
            z = newton(z, ZERO)
            inside = B is None or dot(z, z) <= B * B
        if not inside and k:
            # |z(mu)| falls in mu: bisect and secant on log mu.
            lo = hi = None
            lam = mp.mpf(1)
            g0 = mp.sqrt(sum((mp.fsum(a[i] for a in A) / 2) ** 2 for i in range(k)))
            lam = g0 / B if g0 > 0 else ONE
            zc, step = [ZERO] * k, mp.mpf(2)
            if hint is not None:
                zc = [dot(q, hint[0]) for q in self.basis]
                g, _ = pieces(zc, ZERO)
                # Below the smallest double a multiplier is reported as 0.
                guess = hint[1] if hint[1] > 0 else -dot(g, zc) / dot(zc, zc)
                if guess > 0:
                    lam, step = guess, mp.mpf("0.5")
            for _ in range(60):
                zc = newton(zc, lam, mp.mpf("1e-12"))
                r = mp.sqrt(dot(zc, zc)) / B
                if abs(r - 1) < mp.mpf("1e-4"):
                    break
                # On separable data log mu falls like the margins grow: the steps of the bracket double.
                step *= 2
                if r > 1:
                    lo = lam
                    lam = lam * mp.exp(step) if hi is None else mp.sqrt(lo * hi)
                else:
                    hi = lam
                    lam = lam * mp.exp(-step) if lo is None else mp.sqrt(lo * hi)
            # Newton on 1/|z| - 1/B in mu.
            z = zc
            for _ in range(60):
                z = newton(z, lam, mp.mpf("1e-36"))
                r = mp.sqrt(dot(z, z))
                if abs(r / B - 1) < mp.mpf("1e-25"):
                    break
                g, h = pieces(z, lam)
                dz = solve_chol(cholesky(h), z)
                step = (r / B - 1) * r * r / dot(z, dz)
                lam = lam + step if lam + step > lam / 10 else lam / 10
            self.mu = lam
        g, _ = pieces(z, self.mu)
        size = self.mu * mp.sqrt(dot(z, z)) if self.mu else ONE
        self.converged = mp.sqrt(dot(g, g)) <= mp.mpf("1e-20") * size if k and self.decided else True
        mp.mp.dps = 50
        self.at_bound = k > 0 and (self.mu > 0 or not self.decided and abs(mp.sqrt(dot(z, z)) / B - 1) < mp.mpf("1e-9"))
        self.theta = [mp.fsum(self.basis[j][i] * z[j] for j in range(k)) for i in range(d)]
        self.margins = [dot(x, self.theta) for x in X]
        self.loglik = -mp.fsum(softplus(-t) for t in self.margins)

    def gram(self, weights, ridge):
        d = self.d
        g = [[ZERO] * d for _ in range(d)]
        for w, x in zip(weights, self.X):
            nz = [i for i in range(d) if x[i] != 0]
            for i in nz:
                for j in nz:
                    g[i][j] += w * x[i] * x[j]
        for i in range(d):
            g[i][i] += ridge
        return g


def chi2_quantile(k, p):
    """The p-quantile of chi-square with k degrees of freedom."""
    if k == 0:
        return ZERO
    from scipy.stats import chi2

    x = mp.mpf(float(chi2.ppf(float(p), k)))
    a = mp.mpf(k) / 2
    for _ in range(8):
        f = mp.gammainc(a, 0, x / 2, regularized=True) - p
        df = mp.exp((a - 1) * mp.log(x / 2) - x / 2) / mp.gamma(a) / 2
        x -= f / df
    return x
