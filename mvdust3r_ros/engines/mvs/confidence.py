# Copyright 2026 mvdust3r_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Confidence of a depth, from the network's error estimate and the votes of the other views.

A confidence c means that a fraction 1 - 1/c of such points lies within 10 % of its depth. The
weights of the rule are fitted on rooms that the network was not trained on, and are stored in the
engine's manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvdust3r_ros.datatypes import BoolArray, FloatArray
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.mvs.agreement import LOG_ERRORS, Agreement

MOST_VOTES = 4
"""Views of a window are similar: more agreeing views add no information."""
MOST_CERTAIN = 0.99
"""A confidence of 100: the points that rules are fitted on support no higher value."""
LEAST_SHARE = 0.5
"""A point that is more likely wrong than right is worthless, both for the map and for placing a
window."""
FEATURES = 5
"""Number of columns from `rule_inputs`."""
NEWTON_STEPS, RIDGE = 25, 1.0
"""Newton's method doubles its digits with each step. The ridge keeps weights finite if points are
few or all right, and is negligible against thousands of them."""


@dataclass(frozen=True)
class ConfidenceRule:
    """A logistic rule.

    Attributes:
        weights: of a constant, the log of the expected error, its square, the number of agreeing
            views (up to four), and of views that look through (up to four).
    """

    weights: tuple[float, ...]

    @staticmethod
    def from_manifest(network: Mapping[str, Any]) -> ConfidenceRule:
        """Read the rule from the `network` section of an engine's manifest.

        Raises:
            EngineError: the rule is missing or malformed.
        """
        weights = network.get("confidence")
        if not isinstance(weights, list) or len(weights) != FEATURES:
            raise EngineError(f"network.confidence must be {FEATURES} numbers, not {weights!r}")
        return ConfidenceRule(tuple(float(w) for w in weights))

    def share_right(self, log_error: FloatArray, votes: Agreement) -> FloatArray:
        """Return the (V, H, W) fraction of such points that lie within 10 %."""
        return self.share_from_inputs(rule_inputs(log_error, votes))

    def share_from_inputs(self, columns: Iterable[FloatArray]) -> FloatArray:
        """Compute the same fraction from the columns of `rule_inputs`."""
        parts = [c * np.float32(w) for c, w in zip(columns, self.weights, strict=True)]
        return np.asarray(1 / (1 + np.exp(-np.sum(parts, 0))), np.float32)

    def confidence(self, log_error: FloatArray, votes: Agreement, unsure: BoolArray) -> FloatArray:
        """Return (V, H, W) float32 confidence; 1 if `unsure`, unlikely or without agreement."""
        share = np.minimum(self.share_right(log_error, votes), MOST_CERTAIN)
        denied = votes.through > votes.same
        out = 1 / (1 - share)
        out[unsure | denied | (votes.same == 0) | (share < LEAST_SHARE)] = 1.0
        return np.asarray(out, np.float32)


def rule_inputs(log_error: FloatArray, votes: Agreement) -> tuple[FloatArray, ...]:
    """Return the rule's input columns, each (V, H, W) float32."""
    bounded = np.clip(log_error, *LOG_ERRORS).astype(np.float32)
    return (
        np.ones_like(bounded),
        bounded,
        bounded * bounded,
        np.minimum(votes.same, MOST_VOTES).astype(np.float32),
        np.minimum(votes.through, MOST_VOTES).astype(np.float32),
    )


def fit_rule(inputs: FloatArray, right: BoolArray) -> ConfidenceRule:
    """Fit the rule: logistic regression by Newton's method.

    Args:
        inputs: (N, F) columns of `rule_inputs`.
        right: (N,) whether the depth was within 10 %.
    """
    x = inputs.astype(np.float64)
    weights = np.zeros(x.shape[1])
    for _ in range(NEWTON_STEPS):
        share = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        slope = x.T @ (right - share) - RIDGE * weights
        curve = (x * (share * (1 - share))[:, None]).T @ x + RIDGE * np.eye(x.shape[1])
        weights = weights + np.linalg.solve(curve, slope)
    return ConfidenceRule(tuple(weights.tolist()))
