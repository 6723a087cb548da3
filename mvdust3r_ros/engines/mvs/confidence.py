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

"""How sure a depth is: from the network's own word and from the votes of the other views.

A confidence c says: of points like this one, a share of 1 - 1/c lies within 10 % of its depth.
The weights of the rule are fitted on rooms that the network was not trained on and stand in the
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
"""Views of a window are alike: more of them that agree say no more."""
MOST_CERTAIN = 0.99
"""A confidence of 100: no share is known better from the points that rules are fitted on."""
LEAST_SHARE = 0.5
"""A point that is more likely wrong than right says nothing, neither in the map nor of where a
window joins it."""
FEATURES = 5
"""What `rule_inputs` gives."""
NEWTON_STEPS, RIDGE = 25, 1.0
"""Newton's method doubles its digits with each step; the ridge keeps weights finite where points
are few or all right, and is nothing beside thousands of them."""


@dataclass(frozen=True)
class ConfidenceRule:
    """A logistic rule.

    Attributes:
        weights: of a constant, the log of the expected error, its square, the views that agree
            (up to four), and the views that look through (up to four).
    """

    weights: tuple[float, ...]

    @staticmethod
    def from_manifest(network: Mapping[str, Any]) -> ConfidenceRule:
        """The rule of an engine folder.

        Raises:
            EngineError: it is missing or malformed.
        """
        weights = network.get("confidence")
        if not isinstance(weights, list) or len(weights) != FEATURES:
            raise EngineError(f"network.confidence must be {FEATURES} numbers, not {weights!r}")
        return ConfidenceRule(tuple(float(w) for w in weights))

    def share_right(self, log_error: FloatArray, votes: Agreement) -> FloatArray:
        """(V, H, W) share of such points that lie within 10 %."""
        return self.share_from_inputs(rule_inputs(log_error, votes))

    def share_from_inputs(self, columns: Iterable[FloatArray]) -> FloatArray:
        """The same from what `rule_inputs` gives."""
        parts = [c * np.float32(w) for c, w in zip(columns, self.weights, strict=True)]
        return np.asarray(1 / (1 + np.exp(-np.sum(parts, 0))), np.float32)

    def confidence(self, log_error: FloatArray, votes: Agreement, unsure: BoolArray) -> FloatArray:
        """(V, H, W) float32 confidence; 1 where `unsure`, unlikely or where no view agrees."""
        share = np.minimum(self.share_right(log_error, votes), MOST_CERTAIN)
        denied = votes.through > votes.same
        out = 1 / (1 - share)
        out[unsure | denied | (votes.same == 0) | (share < LEAST_SHARE)] = 1.0
        return np.asarray(out, np.float32)


def rule_inputs(log_error: FloatArray, votes: Agreement) -> tuple[FloatArray, ...]:
    """What the rule weighs, each (V, H, W) float32."""
    bounded = np.clip(log_error, *LOG_ERRORS).astype(np.float32)
    return (
        np.ones_like(bounded),
        bounded,
        bounded * bounded,
        np.minimum(votes.same, MOST_VOTES).astype(np.float32),
        np.minimum(votes.through, MOST_VOTES).astype(np.float32),
    )


def fit_rule(inputs: FloatArray, right: BoolArray) -> ConfidenceRule:
    """Logistic regression by Newton's method.

    Args:
        inputs: (N, F) what `rule_inputs` gives.
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
