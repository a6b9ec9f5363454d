"""Memory of keys and values, and its images in the tiers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aios_core.cores.transformers.kv import DeviceKV, KVAccount, KVLayout, KVSequenceImage
from aios_core.errors import SnapshotError
from aios_core.snapshot import Tier

CPU = torch.device("cpu")
# Two layers of equal shape, and one with values narrower than its keys.
SHAPES = {0: ((2, 8), (2, 8)), 1: ((2, 8), (2, 8)), 2: ((2, 8), (2, 4))}
LAYOUT = KVLayout.of("model", SHAPES, torch.float32, CPU)


def memory_of(num_tokens: int, account: KVAccount | None = None) -> DeviceKV:
    memory = DeviceKV(LAYOUT, account or KVAccount())
    memory.reserve(num_tokens)
    for number, tensor in enumerate(memory.tensors):
        tensor.normal_(generator=torch.Generator().manual_seed(number))
    memory.length = num_tokens
    return memory


def values_of(memory: DeviceKV) -> list[torch.Tensor]:
    return [tensor[:, :, : memory.length].clone() for tensor in memory.tensors]


def test_planes_of_equal_shape_share_a_tensor() -> None:
    assert LAYOUT.groups == ((5, 2, 8), (1, 2, 4))
    assert LAYOUT.planes == {0: (0, 1), 1: (2, 3), 2: (4, 5)}
    assert LAYOUT.bytes_per_token == (5 * 2 * 8 + 2 * 4) * 4


def test_growing_keeps_what_is_there() -> None:
    memory = memory_of(10)
    before = values_of(memory)
    memory.reserve(1_000)

    assert memory.capacity >= 1_000
    assert all(map(torch.equal, values_of(memory), before))


def test_an_image_on_the_device_is_taken_without_a_copy() -> None:
    account = KVAccount()
    memory = memory_of(10, account)

    assert KVSequenceImage.of(memory).take(LAYOUT, account) is memory


@pytest.mark.parametrize("tier", list(Tier), ids=lambda tier: tier.name)
def test_an_image_comes_back_from_every_tier(tier: Tier, tmp_path: Path) -> None:
    account = KVAccount()
    memory = memory_of(10, account)
    before, image = values_of(memory), KVSequenceImage.of(memory)
    if tier >= Tier.HOST:
        image.to_host()
    if tier is Tier.DISK:
        image.to_disk(tmp_path / "kv")

    size, there = image.num_bytes, image.tier
    back = image.take(LAYOUT, account)

    assert (there, size) == (tier, 10 * LAYOUT.bytes_per_token)
    assert all(map(torch.equal, values_of(back), before))
    assert account.num_tokens == 10
    assert not list(tmp_path.iterdir())


def test_an_image_moves_up_from_disk(tmp_path: Path) -> None:
    image = KVSequenceImage.of(memory_of(10))
    image.to_disk(tmp_path / "kv")
    image.to_host()

    assert image.tier is Tier.HOST
    assert not (tmp_path / "kv").exists()


@pytest.mark.parametrize("tier", list(Tier), ids=lambda tier: tier.name)
def test_a_copy_leaves_the_image_where_it_is(tier: Tier, tmp_path: Path) -> None:
    memory = memory_of(10)
    before, image = values_of(memory), KVSequenceImage.of(memory)
    if tier >= Tier.HOST:
        image.to_host()
    if tier is Tier.DISK:
        image.to_disk(tmp_path / "kv")

    image.copy_to(tmp_path / "copy")
    copy = KVSequenceImage.open(tmp_path / "copy", LAYOUT).take(LAYOUT, KVAccount())

    assert image.tier is tier
    assert all(map(torch.equal, values_of(copy), before))


def test_release_frees_memory_and_file_and_may_be_repeated(tmp_path: Path) -> None:
    account = KVAccount()
    on_device = KVSequenceImage.of(memory_of(10, account))
    on_disk = KVSequenceImage.of(memory_of(10, account))
    on_disk.to_disk(tmp_path / "kv")
    for image in (on_device, on_disk, on_disk):
        image.release()

    assert account.num_tokens == 0
    assert not list(tmp_path.iterdir())
    with pytest.raises(SnapshotError, match="released"):
        on_disk.take(LAYOUT, account)


def test_a_write_that_fails_leaves_the_image_and_no_file(tmp_path: Path) -> None:
    image = KVSequenceImage.of(memory_of(10))
    with pytest.raises(Exception, match=r"."):
        image.to_disk(tmp_path / "no such folder" / "kv")

    assert image.tier is Tier.HOST
    assert image.take(LAYOUT, KVAccount()).length == 10


@pytest.mark.parametrize(
    "other",
    [
        replace(LAYOUT, model="another"),
        KVLayout.of("model", {0: ((2, 8), (2, 8))}, torch.float32, CPU),
    ],
    ids=["another model", "another shape"],
)
def test_an_image_of_another_model_is_refused(other: KVLayout, tmp_path: Path) -> None:
    image = KVSequenceImage.of(memory_of(10))
    with pytest.raises(SnapshotError):
        image.take(other, KVAccount())

    image = KVSequenceImage.of(memory_of(10))
    image.to_disk(tmp_path / "kv")
    with pytest.raises(SnapshotError):
        KVSequenceImage.open(tmp_path / "kv", other).take(other, KVAccount())


@pytest.mark.parametrize("size", [0, 9, 200], ids="{} bytes".format)
def test_a_file_that_was_cut_off_is_refused(size: int, tmp_path: Path) -> None:
    image = KVSequenceImage.of(memory_of(10))
    image.to_disk(tmp_path / "kv")
    whole = (tmp_path / "kv").read_bytes()
    (tmp_path / "kv").write_bytes(whole[:size])

    with pytest.raises(SnapshotError):
        image.take(LAYOUT, KVAccount())
    assert not image.is_alive
