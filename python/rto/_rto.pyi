from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]
_Policy = Policy | npt.ArrayLike
_Mdp = TokenTree | TabularMdp
_Kind = Literal[
    "printed",
    "theory",
    "theory_kappa",
    "wald",
    "wald_ridge",
    "likelihood_ratio",
    "likelihood_ratio_asymptotic",
    "self_concordant",
]
_Metric = Literal["sigma_d", "fisher"]

__version__: str

class TokenTree:
    def __new__(
        cls,
        n_actions: int,
        horizon: int,
        n_prompts: int = 1,
        eos: int | None = None,
        initial: npt.ArrayLike | None = None,
    ) -> TokenTree: ...
    @property
    def n_states(self) -> int: ...
    @property
    def n_actions(self) -> int: ...
    @property
    def horizon(self) -> int: ...
    @property
    def n_prompts(self) -> int: ...
    def state(self, prefix: Sequence[int], prompt: int = 0) -> int: ...
    def prefix(self, state: int) -> tuple[int, list[int]]: ...

class TabularMdp:
    def __new__(cls, next: npt.ArrayLike, initial: npt.ArrayLike) -> TabularMdp: ...
    @property
    def n_states(self) -> int: ...
    @property
    def n_actions(self) -> int: ...
    @property
    def horizon(self) -> int: ...

class Policy:
    @staticmethod
    def from_probs(probs: npt.ArrayLike) -> Policy: ...
    @staticmethod
    def from_logits(logits: npt.ArrayLike) -> Policy: ...
    @staticmethod
    def uniform(mdp: _Mdp) -> Policy: ...
    @property
    def probs(self) -> _Array: ...
    @property
    def log_probs(self) -> _Array: ...

class SoftOptimum:
    @property
    def v(self) -> _Array: ...
    @property
    def q(self) -> _Array: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def value(self) -> float: ...

class PolicyValue:
    @property
    def v(self) -> _Array: ...
    @property
    def q(self) -> _Array: ...
    @property
    def value(self) -> float: ...

class Visitation:
    @property
    def state(self) -> _Array: ...
    @property
    def pair(self) -> _Array: ...

class BtFit:
    @property
    def theta(self) -> _Array: ...
    @property
    def norm(self) -> float: ...
    @property
    def log_likelihood(self) -> float: ...
    @property
    def at_bound(self) -> bool: ...
    @property
    def multiplier(self) -> float: ...
    @property
    def separable(self) -> bool: ...
    @property
    def residual(self) -> float: ...
    @property
    def passes(self) -> int: ...

class MaxMin:
    @property
    def theta(self) -> _Array: ...
    @property
    def value(self) -> float: ...
    @property
    def optimum(self) -> SoftOptimum: ...
    @property
    def duality_gap(self) -> float: ...
    @property
    def ellipsoid_active(self) -> bool: ...
    @property
    def ball_active(self) -> bool: ...

def soft_value_iteration(mdp: _Mdp, reward: npt.ArrayLike, reference: _Policy, beta: float) -> SoftOptimum: ...
def evaluate(
    mdp: _Mdp, reward: npt.ArrayLike, policy: _Policy, reference: _Policy, beta: float
) -> PolicyValue: ...
def suboptimality(
    mdp: _Mdp, reward: npt.ArrayLike, policy: _Policy, reference: _Policy, beta: float
) -> float: ...
def visitation(mdp: _Mdp, policy: _Policy) -> Visitation: ...
def design(
    tree: TokenTree,
    features: npt.ArrayLike,
    pairs: Iterable[tuple[Sequence[int], Sequence[int]] | tuple[int, Sequence[int], Sequence[int]]],
) -> _Array: ...
def fit_bradley_terry(x: npt.ArrayLike, param_bound: float = ..., tolerance: float = 1e-12) -> BtFit: ...
def confidence_radius(
    x: npt.ArrayLike,
    theta: npt.ArrayLike,
    kind: _Kind,
    *,
    horizon: int,
    feature_bound: float,
    param_bound: float,
    ridge: float = 1.0,
    fail_prob: float = 0.05,
    printed_constant: float = 1.0,
) -> tuple[float, _Metric, bool]: ...
def algorithm1(
    mdp: _Mdp,
    features: npt.ArrayLike,
    reference: _Policy,
    beta: float,
    x: npt.ArrayLike,
    theta: npt.ArrayLike,
    radius: float,
    *,
    metric: _Metric = "sigma_d",
    ridge: float = 1.0,
    param_bound: float = ...,
) -> SoftOptimum: ...
def maxmin(
    mdp: _Mdp,
    features: npt.ArrayLike,
    reference: _Policy,
    beta: float,
    x: npt.ArrayLike,
    theta: npt.ArrayLike,
    radius: float,
    *,
    metric: _Metric = "sigma_d",
    ridge: float = 1.0,
    param_bound: float = ...,
    baseline: bool = False,
) -> MaxMin: ...
def solve_file(path: str) -> str: ...
def solve_text(text: str, folder: str) -> str: ...
