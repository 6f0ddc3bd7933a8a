"""What one would fit (4.1) with instead, one fit for every line of standard input; for benches/speed.py.

    python3 bradley_terry.py make N D CONDITION FILE      rows of the data into FILE, little-endian doubles
    python3 bradley_terry.py make-npy N D CONDITION FILE  the same into an NPY file
    python3 bradley_terry.py fit N D FILE METHOD          METHOD: scipy-lbfgs, sk-lbfgs, sk-newton-cholesky, numpy-newton
    python3 bradley_terry.py make-sparse N D FOLDER       differences of token counts in CSR into FOLDER
    python3 bradley_terry.py fit-sparse N D FOLDER METHOD METHOD: scipy-lbfgs, sk-lbfgs, sk-newton-cholesky

The data: rows x_i ~ N(0, I/d) with column k scaled by CONDITION^(-k/(d-1)), theta* of norm 3, and the sign of each row by a draw
from (3.1). Sparse data: counts of 16 tokens of D with frequencies as 1/(k + 10), in either response; theta* of entries N(0, 0.3^2). f(theta) = sum_i log(1 + exp(-x_i . theta)) + 5e-7 |theta|^2 (0.5 |theta|^2 for sparse data); all stop at |grad f| <= 1e-8 n or what implies it.
"""
import json
import sys
import time

import numpy as np
from scipy import linalg, optimize
from scipy.special import expit

PENALTY = 1e-6
TOKENS = 16
CHUNK = 1 << 22


def make(n, d, condition, path, npy=False):
    rng = np.random.default_rng(0)
    theta = rng.standard_normal(d)
    theta *= 3.0 / np.linalg.norm(theta)
    scale = condition ** (-np.arange(d) / max(d - 1, 1)) / np.sqrt(d)
    with open(path, "wb") as file:
        if npy:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (n, d)})
        rows = max(CHUNK // d, 1)
        for start in range(0, n, rows):
            x = rng.standard_normal((min(rows, n - start), d)) * scale
            x[rng.random(len(x)) >= expit(x @ theta)] *= -1.0
            x.astype("<f8").tofile(file)


def make_sparse(n, d, folder):
    from scipy import sparse

    rng = np.random.default_rng(0)
    theta = 0.3 * rng.standard_normal(d)
    often = np.cumsum(1.0 / (np.arange(d) + 10.0))

    def counts():
        tokens = np.searchsorted(often, rng.random(n * TOKENS) * often[-1])
        rows = np.repeat(np.arange(n), TOKENS)
        return sparse.csr_matrix((np.ones(n * TOKENS), (rows, np.minimum(tokens, d - 1))), shape=(n, d))

    x = counts() - counts()
    x.eliminate_zeros()
    sign = np.where(rng.random(n) < expit(x @ theta), 1.0, -1.0)
    x = sparse.csr_matrix(sparse.diags(sign) @ x)
    x.sort_indices()
    x.indptr.astype("<u8").tofile(f"{folder}/indptr")
    x.indices.astype("<u4").tofile(f"{folder}/indices")
    x.data.astype("<f8").tofile(f"{folder}/values")


def read_sparse(n, d, folder):
    from scipy import sparse

    indptr = np.fromfile(f"{folder}/indptr", "<u8").astype(np.int32)
    indices = np.fromfile(f"{folder}/indices", "<u4").astype(np.int32)
    return sparse.csr_matrix((np.fromfile(f"{folder}/values", "<f8"), indices, indptr), shape=(n, d))


def objective(x, theta):
    """f and its gradient: two readings of x."""
    z = x @ theta
    value = np.logaddexp(0.0, -z).sum() + 0.5 * PENALTY * theta @ theta
    return value, PENALTY * theta - x.T @ expit(-z)


def newton(x, target):
    theta = np.zeros(x.shape[1])
    value, gradient = objective(x, theta)
    for _ in range(100):
        if np.linalg.norm(gradient) <= target:
            break
        slope = expit(x @ theta)
        slope *= 1.0 - slope
        hessian = PENALTY * np.eye(len(theta))
        rows = max(CHUNK // len(theta), 1)
        for start in range(0, len(x), rows):
            part = x[start : start + rows]
            hessian += (part * slope[start : start + rows, None]).T @ part
        step = linalg.cho_solve(linalg.cho_factor(hessian), gradient)
        length = 1.0
        while True:
            trial = objective(x, theta - length * step)
            if trial[0] <= value - 1e-4 * length * (gradient @ step) + 1e-9 * abs(value) or length < 1e-6:
                break
            length *= 0.5
        theta = theta - length * step
        value, gradient = trial
    return theta


def fitter(x, method):
    n, d = x.shape
    if method == "numpy-newton":
        return lambda: newton(x, 1e-8 * n)
    if method == "scipy-lbfgs":
        # Divided by n, as its tests are absolute; it compares the largest entry of the gradient.
        def scaled(theta):
            value, gradient = objective(x, theta)
            return value / n, gradient / n

        options = dict(gtol=1e-8 / np.sqrt(d), ftol=0.0, maxiter=1000, maxfun=1500, maxcor=20)
        return lambda: optimize.minimize(scaled, np.zeros(d), jac=True, method="L-BFGS-B", options=options).x
    if method.startswith("sk-"):
        from sklearn.linear_model import LogisticRegression

        # It wants two classes: every other row is given with the other sign.
        sign = np.where(np.arange(n) % 2 == 0, 1.0, -1.0)
        if isinstance(x, np.ndarray):
            x *= sign[:, None]
        else:
            x.data *= np.repeat(sign, np.diff(x.indptr))

        def run():
            model = LogisticRegression(
                C=1.0 / PENALTY, fit_intercept=False, solver=method[3:], tol=1e-8 / np.sqrt(d), max_iter=1000
            )
            return model.fit(x, sign > 0).coef_[0]

        return run
    sys.exit(f"method {method}: expected scipy-lbfgs, sk-lbfgs, sk-newton-cholesky or numpy-newton")


def fit(n, d, path, method):
    import warnings

    warnings.simplefilter("ignore")
    x = np.fromfile(path, "<f8").reshape(n, d) if sys.argv[1] == "fit" else read_sparse(n, d, path)
    run = fitter(x, method)
    sign = np.where(np.arange(n) % 2 == 0, 1.0, -1.0) if method.startswith("sk-") else np.ones(n)
    some = np.full(d, 0.01)
    times = []
    for _ in range(4):
        start = time.process_time()
        x @ some
        times.append(time.process_time() - start)
    print(json.dumps({"read_s": sorted(times)[1]}), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        theta = run()
        seconds = time.process_time() - start
        z = sign * (x @ theta)
        gradient = PENALTY * theta - x.T @ (sign * expit(-z))
        answer = {"cpu_s": seconds, "gnorm_over_n": float(np.linalg.norm(gradient)) / n, "theta": theta.tolist()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    if sys.argv[1].endswith("sparse"):
        PENALTY = 1.0
    if sys.argv[1] in ("make", "make-npy"):
        make(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5], sys.argv[1] == "make-npy")
    elif sys.argv[1] == "make-sparse":
        make_sparse(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        fit(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
