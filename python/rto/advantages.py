"""Advantages of sampled responses from rewards per token, on ragged arrays.

>>> from rto import advantages
>>> dense, returns = advantages.gae([[0.3, -0.1, 0.5]], [[0.0, 0.0, 0.0]], lam=1.0)
>>> [round(float(a), 12) for a in dense[0]]
[0.7, 0.4, 0.5]
"""

from ._rto import gae, group_relative, leave_one_out, leave_one_out_of_score, remax, reward_to_go, whiten

__all__ = ["gae", "group_relative", "leave_one_out", "leave_one_out_of_score", "remax", "reward_to_go", "whiten"]
