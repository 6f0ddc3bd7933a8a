from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

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
_Rows = Sequence[npt.ArrayLike] | npt.ArrayLike
_Out = list[_Array]
_Pair = tuple[Sequence[int], Sequence[int]] | tuple[int, Sequence[int], Sequence[int]]
_Aggregation = Literal["token_mean", "sequence_mean", "sequence_sum", "constant", "per_batch"]

__version__: str

class _Sparse(Protocol):
    """Of scipy.sparse, in any format; or with the arrays indptr, indices and data of CSR."""

    @property
    def shape(self) -> Any: ...

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
    def ellipsoid_active(self) -> bool | None: ...
    @property
    def ball_active(self) -> bool | None: ...

class Bound:
    @property
    def suboptimality(self) -> float: ...
    @property
    def bound(self) -> float: ...
    @property
    def premise(self) -> bool: ...
    @property
    def gain_over_reference(self) -> float: ...
    @property
    def policy(self) -> Policy: ...

class Coverage:
    @property
    def pair(self) -> float: ...
    @property
    def pair_at(self) -> tuple[int, int]: ...
    @property
    def trajectory(self) -> float: ...
    @property
    def chi_square(self) -> float: ...
    @property
    def linear(self) -> float | None: ...
    @property
    def linear_baselined(self) -> float | None: ...
    @property
    def linear_along(self) -> float | None: ...

class BestOfN:
    @property
    def policy(self) -> _Array: ...
    @property
    def win_rate(self) -> float: ...
    @property
    def kl(self) -> float: ...
    @property
    def kl_bound(self) -> float: ...

class Loss:
    @property
    def value(self) -> float: ...
    @property
    def grad(self) -> dict[str, _Out]: ...

class Found:
    @property
    def response(self) -> list[int]: ...
    @property
    def log_prob(self) -> float: ...
    @property
    def token_log_probs(self) -> _Array: ...
    @property
    def certified(self) -> bool: ...
    @property
    def queries(self) -> int: ...
    @property
    def greedy(self) -> list[int]: ...

class TrainRun:
    @property
    def method(self) -> str: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def dpo_policy(self) -> Policy | None: ...
    @property
    def history(self) -> dict[str, _Array]: ...
    @property
    def settings(self) -> dict[str, Any]: ...

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
    pairs: Iterable[_Pair],
) -> _Array: ...
def fit_bradley_terry(
    x: npt.ArrayLike | _Sparse, param_bound: float = ..., tolerance: float = 1e-12, penalty: float = 0.0
) -> BtFit: ...
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
def theorem_4_2(
    mdp: _Mdp,
    features: npt.ArrayLike,
    reference: _Policy,
    beta: float,
    theta_star: npt.ArrayLike,
    x: npt.ArrayLike,
    theta: npt.ArrayLike,
    radius: float,
    *,
    metric: _Metric = "sigma_d",
    ridge: float = 1.0,
    param_bound: float = ...,
) -> Bound: ...
def theorem_b1(
    mdp: _Mdp,
    features: npt.ArrayLike,
    reference: _Policy,
    beta: float,
    theta_star: npt.ArrayLike,
    x: npt.ArrayLike,
    theta: npt.ArrayLike,
    radius: float,
    *,
    metric: _Metric = "sigma_d",
    ridge: float = 1.0,
    param_bound: float = ...,
    baseline: bool = False,
) -> Bound: ...
def coverage(
    mdp: _Mdp,
    policy: _Policy,
    *,
    behaviour: _Policy | None = None,
    pairs: Iterable[_Pair] | None = None,
    features: npt.ArrayLike | None = None,
    reference: _Policy | None = None,
) -> Coverage: ...
def linear_coverage(x: npt.ArrayLike, v: npt.ArrayLike) -> tuple[float, _Array]: ...
def covering_behaviour(
    mdp: _Mdp, reward: npt.ArrayLike, reference: _Policy, beta: float, coverage: float
) -> Policy: ...
def additive_coverage(psi: npt.ArrayLike, target: npt.ArrayLike, data: npt.ArrayLike) -> float: ...
def best_of_n(reference: npt.ArrayLike, scores: npt.ArrayLike, n: float) -> BestOfN: ...
def soft_best_of_n(
    reference: npt.ArrayLike, scores: npt.ArrayLike, lam: float, n: float
) -> tuple[_Array, float]: ...
def best_first(
    evaluator: Callable[[list[int]], npt.ArrayLike],
    n_actions: int,
    horizon: int,
    *,
    budget: int | None = None,
    tolerance: float = 1e-9,
) -> Found: ...
def policy_loss(
    log_prob: _Rows,
    advantages: _Rows,
    old_log_prob: _Rows | None = None,
    *,
    ratio: Literal["token", "sequence", "geometric_mean", "capped", "log_prob"] = "token",
    clip_low: float = 0.2,
    clip_high: float | None = None,
    dual_clip: float | None = None,
    cap_low: float = 0.0,
    cap_high: float | None = None,
    aggregation: _Aggregation = "token_mean",
    length: int | None = None,
    mask: _Rows | None = None,
    kl: Literal["k1", "k2", "k3", "k3_plus", "k3_corrected"] | None = None,
    beta: float = 0.0,
    ref_log_prob: _Rows | None = None,
    entropy: _Rows | None = None,
    entropy_bonus: float = 0.0,
) -> Loss: ...
def value_loss(
    values: _Rows,
    returns: _Rows,
    old_values: _Rows | None = None,
    *,
    coefficient: float = 1.0,
    clip: float | None = None,
    aggregation: _Aggregation = "token_mean",
    length: int | None = None,
    mask: _Rows | None = None,
) -> Loss: ...
def sft_loss(
    log_prob: _Rows, *, aggregation: _Aggregation = "token_mean", length: int | None = None, mask: _Rows | None = None
) -> Loss: ...
def pair_loss_grad(
    log_prob: _Rows, ref_log_prob: _Rows | None, beta: float, loss: str, kl_from_reference: _Rows | None
) -> Loss: ...
def kto_loss(
    log_prob: _Rows,
    ref_log_prob: _Rows,
    desirable: Sequence[bool] | npt.ArrayLike,
    *,
    beta: float,
    z0: float = 0.0,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Loss: ...
def reward_loss(rewards: _Rows, readout: Literal["sum", "mean", "last"] = "sum") -> Loss: ...
def gae(
    rewards: _Rows,
    values: _Rows,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    last_values: npt.ArrayLike | None = None,
    mask: _Rows | None = None,
    mask_rule: Literal["pass_over", "step", "step_of_value_zero"] = "pass_over",
) -> tuple[_Out, _Out]: ...
def reward_to_go(
    rewards: _Rows,
    *,
    gamma: float = 1.0,
    mask: _Rows | None = None,
    mask_rule: Literal["pass_over", "reset"] = "pass_over",
) -> _Out: ...
def leave_one_out(returns: npt.ArrayLike, group: int) -> _Array: ...
def group_relative(
    returns: npt.ArrayLike, group: int, *, spread: Literal["group", "batch", "one"] = "group", eps: float = 1e-4
) -> _Array: ...
def leave_one_out_of_score(
    rewards: _Rows, scores: npt.ArrayLike, group: int, *, mask: _Rows | None = None
) -> _Out: ...
def remax(rewards: _Rows, greedy_scores: npt.ArrayLike, *, mask: _Rows | None = None) -> _Out: ...
def whiten(
    x: _Rows,
    *,
    mask: _Rows | None = None,
    shift: bool = True,
    std: Literal["biased", "unbiased", "biased_clamped", "one"] = "biased",
) -> _Out: ...
def token_rewards(
    method: Literal["rto", "dppo", "ppo", "rto_released"],
    ref_log_prob: _Rows,
    *,
    dpo_log_prob: _Rows | None = None,
    beta1: float | None = None,
    scores: npt.ArrayLike | None = None,
    clip: float | None = None,
    log_prob: _Rows | None = None,
    beta2: float = 0.0,
    kl: Literal["k1", "k2", "k3"] = "k1",
    mask: _Rows | None = None,
) -> _Out: ...
def sample_preferences(
    tree: TokenTree,
    reward: npt.ArrayLike,
    behaviour: _Policy,
    n: int,
    *,
    other: _Policy | None = None,
    seed: int = 0,
) -> list[tuple[int, list[int], list[int]]]: ...
def train_run(
    tree: TokenTree,
    method: str,
    reward: npt.ArrayLike,
    reference: _Policy,
    beta: float,
    pairs: Iterable[_Pair] | None,
    demonstrations: Iterable[Any] | None,
    token_reward: Callable[[list[int], list[list[int]]], Any] | None,
    preference_loss: str | Callable[..., Any],
    texts: tuple[str, str, str, str],
    seed: int,
    eval_every: int,
    progress: Callable[[int, int, float], object] | None,
) -> TrainRun: ...
def audit_text(
    tree: tuple[bool, str] | None,
    recipe: tuple[bool, str] | None,
    beta: float,
    group: int,
    batch: int,
    explain: bool,
    draws: int | None,
    seed: int,
) -> str: ...
def recipes_text() -> list[tuple[str, str, str]]: ...
def bench_text(instance: tuple[bool, str]) -> str: ...
