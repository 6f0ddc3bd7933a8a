"""Losses of the per-token seam and their gradients, on ragged arrays.

A ragged array is a list with a row for each response, of one number for each token; `rto.rows` makes one of a padded array. Where an argument is an
array of shape (responses, tokens), all responses have the same length. Every function returns the loss and its gradient in the scores, so that the
trainer of another framework can be held to both.

>>> from rto import losses
>>> loss = losses.preference_loss([[-1.0, -0.5], [-1.0, -1.0, -0.5]], [[-1.0, -0.5], [-1.0, -1.0, -0.5]], beta=0.1)
>>> round(loss.value, 12), loss.grad["log_prob"][0].tolist()
(0.69314718056, [-0.05, -0.05])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from . import _json
from ._rto import Loss, kto_loss, pair_loss_grad, policy_loss, reward_loss, sft_loss, value_loss

__all__ = ["Loss", "kto_loss", "policy_loss", "preference_loss", "reward_loss", "sft_loss", "value_loss"]

_Rows = Sequence[npt.ArrayLike] | npt.ArrayLike


def preference_loss(
    log_prob: _Rows,
    ref_log_prob: _Rows | None = None,
    *,
    beta: float,
    loss: str | Mapping[str, Any] = "dpo",
    kl_from_reference: _Rows | None = None,
) -> Loss:
    """The loss of preference pairs, (4.4) and its relatives, with its gradient in log π.

    Parameters
    ----------
    log_prob : rows
        log π of every token: winner, loser, winner, loser, …
    ref_log_prob : rows, optional
        log π_ref; not read by "simpo".
    beta : float
    loss : str or dict
        "dpo", "cdpo", "robust", "ipo", "hinge", "simpo", "rdpo", "chi_po", "cal_dpo", "dpop", "rpo", "tdpo1", "tdpo2"; with parameters
        ``{"simpo": {"gamma": 0.5}}``.
    kl_from_reference : rows, optional
        KL(π_ref(·|s_h) ‖ π(·|s_h)), which "tdpo1" and "tdpo2" read and have a gradient in.

    Returns
    -------
    Loss
        The mean over pairs.
    """
    return pair_loss_grad(log_prob, ref_log_prob, beta, _json.text("loss", loss), kl_from_reference)
