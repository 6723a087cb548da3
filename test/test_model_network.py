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

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from mvdust3r_ros.model.config import (
    NAMED_CONFIGS,
    NetworkConfig,
    NetworkConfigError,
    config_from_dict,
    config_to_dict,
)
from mvdust3r_ros.model.network import Network, exchange, slot_order

PLUS = NetworkConfig(
    image_hw=(24, 32), patch_size=8, enc_dim=32, enc_depth=2, enc_heads=2, dec_dim=24, dec_depth=3,
    dec_heads=2, skip_dim=4, gs_mlp_dim=5, n_ref=3,
)  # fmt: skip
SMALL = replace(
    PLUS, skip_dim=0, gs_mlp_dim=0, mask_token=False, ray_embed=True, pos_embed=True,
    max_log_distance=4.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_network(config: NetworkConfig, seed: int = 0) -> Network:
    """A network in which no part is silent."""
    network = Network(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator) * 0.15
                value.copy_(1 + noise.abs() if name.endswith(("norm.weight", "_var")) else noise)
    return network.eval()


def random_images(views: int, batch: int = 1, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, views, 3, *PLUS.image_hw, generator=generator) * 2 - 1


@torch.inference_mode()
@pytest.mark.slow
def test_exchanging_two_other_views_exchanges_their_maps_alone() -> None:
    network, images = random_network(PLUS), random_images(6)
    permuted = [0, 1, 2, 5, 4, 3]
    a, b = network(images), network(images[:, permuted])
    torch.testing.assert_close(a.points[:, :, permuted], b.points, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(a.conf[:, :, permuted], b.conf, rtol=1e-4, atol=1e-4)
    assert (a.points - b.points).abs().max() > 1e-2


@torch.inference_mode()
def test_exchanging_two_references_exchanges_their_paths_and_maps() -> None:
    network, images = random_network(PLUS), random_images(5)
    permuted = [2, 1, 0, 3, 4]
    a, b = network(images), network(images[:, permuted])
    expected = a.points[:, [2, 1, 0]][:, :, permuted]
    torch.testing.assert_close(expected, b.points, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("n_ref", [1, 2, 4])
def test_items_of_a_batch_do_not_touch_each_other(n_ref: int) -> None:
    network, images = random_network(PLUS), random_images(4, batch=2)
    both = network(images, n_ref=n_ref)
    for item in range(2):
        alone = network(images[item : item + 1], n_ref=n_ref)
        torch.testing.assert_close(
            both.points[item : item + 1], alone.points, rtol=1e-4, atol=1e-5
        )


@torch.inference_mode()
@pytest.mark.parametrize("n_ref", [1, 3, 5])
def test_asking_for_fewer_paths_changes_nothing(n_ref: int) -> None:
    network, images = random_network(PLUS), random_images(5)
    every, first = network(images, n_ref=n_ref), network(images, n_ref=n_ref, paths=1)
    assert every.points.shape == (1, n_ref, 5, 24, 32, 3)
    torch.testing.assert_close(every.points[:, :1], first.points, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(every.conf[:, :1], first.conf, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("views", [2, 3, 7])
def test_inference_equals_the_masked_form_used_in_training(views: int) -> None:
    network, images = random_network(PLUS), random_images(views)
    with torch.inference_mode():
        fast = network(images, n_ref=2)
    masked = network(images, n_ref=2, details=True)
    torch.testing.assert_close(fast.points, masked.points, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_view_is_encoded_the_same_alone_and_in_company() -> None:
    network, images = random_network(PLUS), random_images(4)[0]
    alone = torch.cat([network.encode(image[None]) for image in images])
    torch.testing.assert_close(network.encode(images), alone, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_cross_reference_blocks_change_nothing_as_training_begins() -> None:
    network, images = Network(SMALL).eval(), random_images(4)
    network.initialise(seed=3)
    one, three = network(images, n_ref=1), network(images, n_ref=3)
    torch.testing.assert_close(one.points[:, 0], three.points[:, 0], rtol=1e-5, atol=1e-5)
    depth = one.points[..., 2].median()
    assert 1.0 < depth < 5.0


@torch.inference_mode()
def test_more_references_than_views_are_not_run() -> None:
    network = random_network(replace(PLUS, n_ref=4))
    assert network(random_images(2)).points.shape[1] == 2


def test_details_hold_features_and_attention_that_sums_to_one() -> None:
    network, images = random_network(PLUS), random_images(4, batch=2)
    output = network(images, n_ref=2, details=True)
    assert output.features is not None and output.attention is not None
    assert output.features.shape == (2, 4, 12, 24)
    assert output.attention.shape == (2, 2, 4, 12, 4, 12)
    torch.testing.assert_close(output.attention.sum((-1, -2)), torch.ones(2, 2, 4, 12))
    for view in range(4):
        assert output.attention[:, :, view, :, view].abs().max() < 1e-12


@torch.inference_mode()
def test_intrinsics_matter_where_known_and_zeros_mean_unknown() -> None:
    network, images = random_network(SMALL), random_images(3)
    unknown = torch.zeros(1, 3, 4)
    known = unknown.clone()
    known[:, 1] = torch.tensor([30.0, 30.0, 15.5, 11.5])
    none = network(images).points
    torch.testing.assert_close(network(images, unknown).points, none)
    assert (network(images, known).points - none).abs().max() > 1e-3


@torch.inference_mode()
def test_rays_follow_the_pinhole_model() -> None:
    network = random_network(SMALL)
    rays, known = network.rays(torch.tensor([[40.0, 20.0, 15.5, 11.5]]))
    first = rays[0, 0]  # centre of the patch of rows and columns 0..7 is pixel (3.5, 3.5)
    x, y = (3.5 - 15.5) / 40, (3.5 - 11.5) / 20
    expected = torch.tensor([x, y, x * y, x * x + y * y, 16 / 40, 12 / 20])
    torch.testing.assert_close(first, expected)
    assert known.flatten().tolist() == [1.0]


@torch.inference_mode()
@pytest.mark.parametrize("config", [PLUS, SMALL])
def test_bf16_stays_close(config: NetworkConfig) -> None:
    network, images = random_network(config), random_images(4)
    exact = network(images).points
    network.lower_precision(torch.bfloat16)
    error = (network(images).points - exact).norm() / exact.norm()
    assert 0 < error < 0.05


def test_every_parameter_in_use_gets_a_gradient() -> None:
    network, images = random_network(SMALL), random_images(3)
    network.train()
    intrinsics = torch.tensor([30.0, 30.0, 15.5, 11.5]).expand(1, 3, 4)
    output = network(images, intrinsics, n_ref=2)
    (output.points.sum() + output.conf.sum()).backward()
    silent = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    biases_of_keys = [k for k in silent if k.endswith("projk.bias")]  # softmax ignores them
    assert silent == biases_of_keys


def test_slot_order_is_its_own_inverse() -> None:
    order = slot_order(3, 5)
    assert order.tolist() == [[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [2, 1, 0, 3, 4]]
    x = torch.rand(2, 3, 5, 4)
    assert torch.equal(exchange(exchange(x, order), order), x)
    assert torch.equal(exchange(x, order)[:, 2, 0], x[:, 2, 2])


def test_configurations_survive_plain_values() -> None:
    for config in (*NAMED_CONFIGS.values(), PLUS, SMALL):
        assert config_from_dict(config_to_dict(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_hw": [225, 224]}, "multiple of patch_size 16"),
        ({"dec_heads": 7}, "dec_dim 768 over dec_heads 7"),
        ({"depth": 3}, "unknown network setting 'depth'"),
        ({"n_ref": 0}, "n_ref 0"),
        ({"image_hw": 224}, "image_hw"),
        ({"image_hw": [224]}, "height and width"),
    ],
)
def test_sizes_that_do_not_fit_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(NetworkConfigError, match=message):
        config_from_dict(values)
