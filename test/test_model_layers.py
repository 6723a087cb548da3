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

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from mvdust3r_ros.model import attention, layers
from mvdust3r_ros.model.attention import attend, attend_others
from mvdust3r_ros.model.heads import PointHead, SkipConv, unpatchify
from mvdust3r_ros.model.layers import Linear, rope_table, rotate


def test_rotation_of_one_token_by_hand() -> None:
    cos, sin = rope_table((2, 3), 8, 100.0)
    x = torch.arange(1.0, 9.0).expand(6, 1, 8)
    turned = rotate(x, (cos, sin))[5, 0].numpy()  # row 1, column 2
    expected = []
    for position, part in ((1, [1.0, 2, 3, 4]), (2, [5.0, 6, 7, 8])):
        for pair in range(2):
            angle = position * 100.0 ** (-2 * pair / 4)
            a, b = part[pair], part[pair + 2]
            expected.append((pair, a * np.cos(angle) - b * np.sin(angle)))
            expected.append((pair + 2, b * np.cos(angle) + a * np.sin(angle)))
    order = np.concatenate([[e[0] for e in expected[:4]], [e[0] + 4 for e in expected[4:]]])
    np.testing.assert_allclose(turned[order.astype(int)], [e[1] for e in expected], rtol=1e-6)


def test_scores_depend_on_relative_positions_only() -> None:
    rope = rope_table((4, 4), 16, 100.0)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(16, generator=generator).expand(16, 1, 16) for _ in range(2))
    scores = torch.einsum("shd,thd->st", rotate(q, rope), rotate(k, rope)).view(4, 4, 4, 4)
    torch.testing.assert_close(scores[0, 0, 1, 2], scores[2, 1, 3, 3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("own", [-1, 0, 1])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_leaves_out_the_own_view(own: int, grad: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    views, queries = 4, 4 - max(own, 0)
    k, v = (torch.randn(2, views, 5, 3, 8, generator=generator).to(dtype) for _ in range(2))
    q = torch.randn(2, queries, 5, 3, 8, generator=generator).to(dtype)
    with torch.set_grad_enabled(grad):
        result = attend_others(q, k, v, own)
    for i in range(queries):
        others = [j for j in range(views) if own < 0 or j != i + own]
        keys, values = (t[:, others].flatten(1, 2).float().transpose(1, 2) for t in (k, v))
        scores = q[:, i].float().transpose(1, 2) @ keys.transpose(-1, -2) / 8**0.5
        expected = (scores.softmax(-1) @ values).transpose(1, 2)
        tolerance = 1e-5 if dtype is torch.float32 else 3e-2
        torch.testing.assert_close(result[:, i].float(), expected, rtol=tolerance, atol=tolerance)


def test_bf16_attention_in_pieces_equals_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 6, 5, 8, generator=generator).bfloat16() for _ in range(3))
    with torch.inference_mode():
        whole = attend(q, k, v)
        monkeypatch.setattr(attention, "BF16_SCORES_AT_ONCE", 1)
        assert torch.equal(attend(q, k, v), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_through_onednn_equal_plain_torch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = Linear(24, 40).to(dtype)
    x = torch.randn(3, 7, 24)
    plain = functional.linear(x.to(dtype), layer.weight, layer.bias).float()
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    with torch.inference_mode():
        assert layer(x).dtype is dtype
        torch.testing.assert_close(layer(x).float(), plain, rtol=tolerance, atol=tolerance)
        expected = functional.gelu(plain)
        torch.testing.assert_close(layer.gelu(x).float(), expected, rtol=tolerance, atol=tolerance)


def test_folding_the_batch_normalisation_changes_nothing() -> None:
    torch.manual_seed(0)
    layer = SkipConv(6, 5, 3)
    assert layer.norm.running_mean is not None and layer.norm.running_var is not None
    layer.norm.running_mean.normal_()
    layer.norm.running_var.uniform_(0.5, 2)
    torch.nn.init.normal_(layer.norm.weight)
    layer.eval()
    x = torch.randn(2, 6, 9, 7)
    torch.testing.assert_close(layer(x), layer.norm(layer.conv(x)), rtol=1e-4, atol=1e-5)


def test_pixels_of_a_token_are_ordered_channel_row_column() -> None:
    tokens = torch.zeros(1, 6, 2 * 4)
    tokens[0, 4, 1 * 4 + 0 * 2 + 1] = 1.0  # token of row 1, column 1; channel 1, dy 0, dx 1
    pixels = unpatchify(tokens, (2, 3), 2)
    assert pixels.shape == (1, 2, 4, 6)
    assert pixels.nonzero().tolist() == [[0, 1, 2, 3]]


def test_points_lie_at_the_exponential_distance_and_confidence_is_above_one() -> None:
    torch.manual_seed(0)
    head = PointHead(8, 2, 0, 0.0).eval()
    tokens = torch.randn(1, 6, 8) * 3
    raw = unpatchify(head.proj(tokens), (2, 3), 2)
    points, conf = head(tokens, None, (2, 3))
    distance = raw[:, :3].norm(dim=1)
    torch.testing.assert_close(points.norm(dim=-1), distance.expm1(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(conf, 1 + raw[:, 3].exp())


def test_extreme_values_stay_finite() -> None:
    head = PointHead(8, 2, 0, 4.0).eval()
    with torch.no_grad():
        head.proj.weight.zero_()
        head.proj.bias.fill_(60.0)
    points, conf = head(torch.zeros(1, 6, 8), None, (2, 3))
    assert torch.isfinite(points).all()
    assert conf.max() == 1e9
    with torch.no_grad():
        head.proj.bias.zero_()
    assert torch.equal(head(torch.zeros(1, 6, 8), None, (2, 3)).points, torch.zeros(1, 4, 6, 3))


def test_a_block_gives_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = layers.DecoderBlock(16, 2, 4.0)
    x, others = torch.randn(3, 2, 6, 16), torch.randn(3, 3, 6, 16)
    rope = rope_table((2, 3), 8, 100.0)
    with torch.inference_mode():
        whole = block(x, others, rope, 1)
        monkeypatch.setattr(layers, "VALUES_AT_ONCE", 1)
        torch.testing.assert_close(block(x, others, rope, 1), whole, rtol=1e-5, atol=1e-6)
