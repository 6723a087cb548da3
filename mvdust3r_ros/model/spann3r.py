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

"""Spann3R (Wang and Agapito, 3DV 2025): pointmaps of a sequence in the frame of its first view.

DUSt3R's network sees each view with the next. In place of the earlier one's image features it is
given what that view finds in a memory of all views before, whose values hold their geometry in
the frame of the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvdust3r_ros.model.config import NetworkConfigError
from mvdust3r_ros.model.dust3r import (
    PairConfig,
    PairNetwork,
    pair_config_from_dict,
    pair_config_to_dict,
)
from mvdust3r_ros.model.heads import PointMaps
from mvdust3r_ros.model.layers import EncoderBlock, LayerNorm, Linear
from mvdust3r_ros.model.network import PatchEmbed

MEMORY_DROPOUT = 0.15
"""Share of the attention to the memory that is dropped in training, as in the published code."""
SETTLED = 5
"""Tokens that were read fewer times than the working memory has views, and five, are never
evicted, as in the published code: their mean attention says nothing yet."""
UNSETTLED = 1e8
"""Their weight in place of it: more than any attention."""

NO_ATTENTION = 1e-12
"""Below any sum of what counts: where nothing does, the query stays as it is."""


@dataclass(frozen=True)
class SpannConfig:
    """Sizes of the network; the defaults are the published ones.

    Attributes:
        pair: the network that sees two views.
        value_depth: blocks of the encoder of pointmaps.
        value_heads: attention heads of a block.
        working_views: views whose tokens are all kept.
        long_tokens: tokens of views before these, and of all where tokens are evicted.
        least_attention: attention below it does not count.
        similarity: a view whose keys are more similar (mean cosine) to those of one in the working
            memory is not remembered; 1 to remember all.

    Raises:
        NetworkConfigError: on construction, sizes that do not fit together.
    """

    pair: PairConfig = dataclasses.field(default_factory=lambda: PairConfig(head="dpt"))
    value_depth: int = 6
    value_heads: int = 16
    working_views: int = 5
    long_tokens: int = 4000
    least_attention: float = 5e-4
    similarity: float = 0.95

    def __post_init__(self) -> None:
        if self.value_depth < 0 or self.value_heads < 1 or self.pair.enc_dim % self.value_heads:
            raise NetworkConfigError(
                f"{self.value_depth} blocks with {self.value_heads} heads do not divide the "
                f"encoder's width of {self.pair.enc_dim}"
            )
        height, width = self.pair.image_hw
        tokens = height * width // self.pair.patch_size**2
        if self.working_views < 1 or self.long_tokens < self.working_views * tokens:
            raise NetworkConfigError(
                f"a memory of {self.working_views} views of {tokens} tokens, and "
                f"{self.long_tokens} tokens in all; at least 1 view, and the tokens of all"
            )


def spann_config_to_dict(config: SpannConfig) -> dict[str, Any]:
    """Plain values for JSON or YAML; `spann_config_from_dict` reads them back."""
    return dataclasses.asdict(config) | {"pair": pair_config_to_dict(config.pair)}


def spann_config_from_dict(values: Mapping[str, Any]) -> SpannConfig:
    """A configuration out of plain values; missing ones take their defaults.

    Raises:
        NetworkConfigError: an unknown name or a value of the wrong type.
    """
    default = SpannConfig()
    known = {spec.name: type(getattr(default, spec.name)) for spec in dataclasses.fields(default)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise NetworkConfigError(f"unknown network setting {unknown[0]!r}; known: {sorted(known)}")
    try:
        typed = {k: known[k](v) for k, v in values.items() if k != "pair"}
        pair = pair_config_from_dict(values["pair"]) if "pair" in values else default.pair
        return SpannConfig(**typed, pair=pair)
    except (TypeError, ValueError) as error:
        raise NetworkConfigError(f"network settings {dict(values)}: {error}") from None


class Step(NamedTuple):
    """Pointmaps of a view and of the next, (B, H, W, 3) and (B, H, W), in the first view's frame.

    Attributes:
        current: of the view that was looked up in the memory.
        following: of the one after it.
    """

    current: PointMaps
    following: PointMaps


class SpannNetwork(nn.Module):
    """The whole network; parameter names are those of the published files."""

    def __init__(self, config: SpannConfig) -> None:
        """Build with torch's own initial weights."""
        super().__init__()
        self.config = config
        c = config.pair
        dim, both = c.enc_dim, c.enc_dim + c.dec_dim
        self.dust3r = PairNetwork(c)
        self.value_encoder = nn.ModuleList(
            EncoderBlock(dim, config.value_heads, c.mlp_ratio) for _ in range(config.value_depth)
        )
        self.value_norm = LayerNorm(dim)
        self.value_out = Linear(dim, dim)
        self.pos_patch_embed = PatchEmbed(c.patch_size, dim)
        self.norm_q, self.norm_k, self.norm_v = (nn.LayerNorm(dim) for _ in range(3))
        self.attn_head_1, self.attn_head_2 = (
            nn.Sequential(Linear(both, both), nn.GELU(), Linear(both, dim)) for _ in range(2)
        )

    def forward(self, images: Tensor, intrinsics: Tensor | None = None) -> PointMaps:
        """Pointmaps of one sequence.

        Args:
            images: (V, 3, H, W) in [-1, 1], at least two, in the order of the sequence.
            intrinsics: (V, 4) as `PairNetwork.encode` takes them.

        Returns:
            (V, H, W, 3) and (V, H, W), all in the camera frame of the first view.
        """
        features = self.dust3r.encode(images, intrinsics)
        maps = self.sequence(features[None], self.dust3r.grid_hw(images))
        return PointMaps(maps.points[0], maps.conf[0])

    def sequence(self, features: Tensor, grid_hw: tuple[int, int]) -> PointMaps:
        """Pointmaps of B sequences.

        Args:
            features: (B, V, S, enc_dim) from the encoder.
            grid_hw: rows and columns of tokens.

        Returns:
            (B, V, H, W, 3) and (B, V, H, W). A view's are those of the step that looked it up; the
            last view is only ever the following one.
        """
        steps = list(self.steps(features, grid_hw))
        maps = [*(step.current for step in steps), steps[-1].following]
        return PointMaps(torch.stack([m.points for m in maps], 1),
                         torch.stack([m.conf for m in maps], 1))  # fmt: skip

    def steps(self, features: Tensor, grid_hw: tuple[int, int]) -> Iterator[Step]:
        """Go through sequences, views 0 and 1, 1 and 2, and so on; arguments as of `sequence`.

        In training, all views are remembered and all attention counts.
        """
        memory = SpatialMemory(self, features.shape[2])
        query: Tensor | None = None
        for first, second in zip(features.unbind(1)[:-1], features.unbind(1)[1:], strict=True):
            fused = first if query is None else memory.read(query)
            decoded = self.dust3r.decode(fused, second, grid_hw)
            current, following = self.dust3r.point_maps(decoded, grid_hw)
            key = self.attn_head_1(torch.cat((first, decoded[0][-1]), -1)).float()
            query = self.attn_head_2(torch.cat((second, decoded[1][-1]), -1)).float()
            memory.add(key, self.values(current.points) + key)
            yield Step(current, following)

    def values(self, points: Tensor) -> Tensor:
        """(B, S, enc_dim) of pointmaps (B, H, W, 3)."""
        x = self.pos_patch_embed(points.permute(0, 3, 1, 2))
        unturned = x.new_ones(1, 1, 1, 1), x.new_zeros(1, 1, 1, 1)
        for block in self.value_encoder:
            x = block(x, unturned)
        return self.value_out(self.value_norm(x)).float()  # type: ignore[no-any-return]

    def lower_precision(self, dtype: torch.dtype) -> None:
        """Hold the matrices of blocks and key heads in `dtype`; all else stays in float32."""
        for name, module in self.named_modules():
            if isinstance(module, Linear) and "downstream_head" not in name:
                module.to(dtype)


class SpatialMemory:
    """What the views so far left: a key and a value for each of their tokens.

    The last `working_views` are whole. Of older views `long_tokens` are kept at most, by the mean
    attention that they got. As in the published code, eviction sorts all tokens by it, and what
    counts as working memory afterwards, when a view is compared with it, is the end of that order.
    """

    def __init__(self, network: SpannNetwork, tokens: int) -> None:
        """Start empty.

        Args:
            network: whose normalisations and settings apply.
            tokens: S of a view.
        """
        self._network, self._tokens = network, tokens
        self._long, self._working = 0, 0
        self._keys: Tensor | None = None  # (B, X, C), and all others alike
        self._values = self._attention = self._reads = torch.empty(0)

    def __len__(self) -> int:
        """Tokens that are kept."""
        return 0 if self._keys is None else self._keys.shape[1]

    def read(self, query: Tensor) -> Tensor:
        """What the queries (B, S, C) find, added to them."""
        assert self._keys is not None, "nothing was remembered yet"
        net = self._network
        scores = net.norm_q(query) @ net.norm_k(self._keys).transpose(1, 2)
        attention = (scores / query.shape[-1] ** 0.5).softmax(-1)
        if net.training:
            attention = functional.dropout(attention, MEMORY_DROPOUT)
        else:
            least = net.config.least_attention
            attention = torch.where(attention < least, 0.0, attention)
            attention = attention / attention.sum(-1, keepdim=True).clamp(min=NO_ATTENTION)
        self._attention = self._attention + attention.detach().sum(1)[..., None]
        return attention @ net.norm_v(self._values) + query  # type: ignore[no-any-return]

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Remember a view, (B, S, C) each, unless it is similar to one in the working memory."""
        new = torch.zeros_like(keys[..., :1])
        if self._keys is None:
            self._keys, self._values, self._attention, self._reads = keys, values, new, new
        elif self._network.training or not self._is_known(keys):
            self._keys = torch.cat((self._keys, keys), 1)
            self._values = torch.cat((self._values, values), 1)
            self._attention = torch.cat((self._attention, new), 1)
            self._reads = torch.cat((self._reads + 1, new), 1)
        else:
            return
        if self._network.training:
            return
        config = self._network.config
        self._working += 1
        if self._working > config.working_views:
            self._working -= 1
            self._long += self._tokens
        if self._long > config.long_tokens:
            self._evict()
            self._long = config.long_tokens - self._working * self._tokens

    def _is_known(self, keys: Tensor) -> bool:
        limit = self._network.config.similarity
        if limit == 1 or self._keys is None:
            return False
        working = self._keys[:, -self._working * self._tokens :]
        working = working.reshape(len(working), -1, self._tokens, working.shape[-1])
        similarity = functional.cosine_similarity(keys[:, None], working, dim=-1).mean(-1)
        return bool(similarity.max() > limit)

    def _evict(self) -> None:
        assert self._keys is not None
        config = self._network.config
        settled = self._reads >= config.working_views + SETTLED
        weight = torch.where(settled, self._attention / self._reads.clamp(min=1), UNSETTLED)
        kept = weight.topk(config.long_tokens, 1).indices  # (B, X, 1)
        whole = kept.expand(-1, -1, self._keys.shape[2])
        self._keys, self._values = self._keys.gather(1, whole), self._values.gather(1, whole)
        self._attention, self._reads = self._attention.gather(1, kept), self._reads.gather(1, kept)
