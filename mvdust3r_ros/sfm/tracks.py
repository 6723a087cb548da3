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

"""Points followed through the frames between keyframes."""

from __future__ import annotations

from dataclasses import dataclass

from mvdust3r_ros.datatypes import FloatArray


@dataclass(frozen=True, eq=False)
class KeyframeTracks:
    """Points that were followed from keyframe to keyframe.

    Attributes:
        uv: (N, V, 2) their pixels in the views of a window, NaN where not seen.
    """

    uv: FloatArray
