"""The context switcher: what was saved comes back, in bounded room, and nothing is left behind."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios_core import EventLog, KernelBug
from aios_core.context import ContextSwitcher
from aios_core.core import Capabilities
from aios_core.events import EventStream
from aios_core.snapshot import Snapshot, Tier
from tests.puppet import PATIENCE, PuppetCore, settled


class Image:
    """A KV image of `num_bytes` that takes one byte a token; may be slow, or fail to move."""

    def __init__(
        self, num_bytes: int = 10, tier: Tier = Tier.DEVICE, device: PuppetCore | None = None
    ) -> None:
        self.tier = tier
        self.device = device
        self.num_bytes = self.num_tokens = num_bytes
        self.num_releases = 0
        self.path: Path | None = None
        self.gate: threading.Event | None = None
        self.failure: Exception | None = None

    def to_host(self) -> None:
        self._pass()
        self.tier = Tier.HOST
        if self.device:
            self.device.kv_tokens -= self.num_tokens

    def to_disk(self, path: Path) -> None:
        path.write_bytes(b"half of it")
        self._pass()
        self.tier, self.path = Tier.DISK, path

    def copy_to(self, path: Path) -> None:
        path.write_bytes(b"a copy")

    def release(self) -> None:
        self.num_releases += 1
        if self.path:
            self.path.unlink(missing_ok=True)

    def _pass(self) -> None:
        if self.gate:
            assert self.gate.wait(PATIENCE)
        if self.failure:
            raise self.failure


@asynccontextmanager
async def switching(
    directory: Path | None = None, **bounds: int
) -> AsyncIterator[tuple[ContextSwitcher, list[tuple[int, bool]]]]:
    """Yield a switcher and its reports of moving calls; check it, close it, find nothing left."""
    moving: list[tuple[int, bool]] = []
    switcher = ContextSwitcher(
        host_bytes=bounds.get("host", 1_000),
        disk_bytes=bounds.get("disk", 1_000),
        watermark=0.5,
        directory=str(directory) if directory else None,
        events=EventStream([EventLog()]),
        now=asyncio.get_running_loop().time,
    )
    switcher.on_moving = lambda call, is_moving: moving.append((call, is_moving))
    try:
        yield switcher, moving
        await switcher.wait_idle()
        switcher.check()
    finally:
        await switcher.close()
        await switcher.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("aios-context")]
    assert directory is None or not files_in(directory)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def files_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def kv(image: Image) -> Snapshot:
    return Snapshot("m", prompt_ids=(1, 2), output_ids=(3,), kv=image)


def full(used: int = 100, capacity: int = 100, **more: Any) -> PuppetCore:
    core = PuppetCore(kv_capacity=capacity, **more)
    core.kv_tokens = used
    return core


# --- keeping and handing back ---------------------------------------------------------------------


async def test_a_snapshot_comes_back_once() -> None:
    async with switching() as (switcher, _):
        snapshot = kv(Image())
        switcher.save(1, PuppetCore(), snapshot)

        assert switcher.peek(1) is snapshot
        assert switcher.restore(1) is snapshot
        assert switcher.restore(1) is None


async def test_two_snapshots_of_one_call_are_a_bug() -> None:
    async with switching() as (switcher, _):
        switcher.save(1, PuppetCore(), kv(Image()))

        with pytest.raises(KernelBug, match="filed twice"):
            switcher.save(1, PuppetCore(), kv(Image()))


async def test_discarding_frees_the_image() -> None:
    async with switching() as (switcher, _):
        image = Image()
        switcher.save(1, PuppetCore(), kv(image))
        switcher.discard(1)
        switcher.discard(1)

        assert image.num_releases == 1


async def test_an_agent_has_one_context_the_latest() -> None:
    async with switching() as (switcher, _):
        core, old, new = PuppetCore(), Image(), Image()
        switcher.keep_warm(7, core, kv(old))
        switcher.keep_warm(7, core, kv(new))

        assert old.num_releases == 1
        recalled = switcher.take_warm(7, core)
        assert recalled is not None
        assert recalled.kv is new


async def test_a_context_is_taken_on_its_own_core_only() -> None:
    async with switching() as (switcher, _):
        home, away = PuppetCore("home"), PuppetCore("away")
        switcher.keep_warm(7, home, kv(Image()))

        assert switcher.take_warm(7, away) is None
        assert switcher.take_warm(7, home) is not None


async def test_closing_frees_what_is_left() -> None:
    image, warm = Image(), Image()
    async with switching() as (switcher, _):
        switcher.save(1, PuppetCore(), kv(image))
        switcher.keep_warm(7, PuppetCore(), kv(warm))

    assert (image.num_releases, warm.num_releases) == (1, 1)


# --- moving ---------------------------------------------------------------------------------------


async def test_a_full_device_sends_the_coldest_to_the_host() -> None:
    async with switching() as (switcher, moving):
        core = full(60)
        first, second = Image(10, device=core), Image(10, device=core)
        switcher.save(1, core, kv(first))
        switcher.save(2, core, kv(second))
        switcher.make_room(core)
        await switcher.wait_idle()

        assert (first.tier, second.tier) == (Tier.DEVICE, Tier.HOST)
        assert moving[:2] == [(2, True), (2, False)]
        assert switcher.num_bytes(Tier.HOST) == 10


async def test_what_the_host_cannot_hold_goes_to_disk_and_what_that_cannot_is_dropped(
    tmp_path: Path,
) -> None:
    async with switching(tmp_path, host=10, disk=20) as (switcher, _):
        core = full(1_000)
        images = [Image(10) for _ in range(6)]
        for call, image in enumerate(images):
            switcher.save(call, core, kv(image))
        switcher.make_room(core)
        core.kv_tokens = 0
        await switcher.wait_idle()

        assert switcher.num_bytes(Tier.HOST) <= 10
        assert switcher.num_bytes(Tier.DISK) <= 20
        assert len(files_in(tmp_path)) <= 2
        text_only = [s for c in range(6) if (s := switcher.peek(c)) and s.kv is None]
        assert len(text_only) >= 3
        assert all(s.output_ids == (3,) for s in text_only), "the tokens stay"


async def test_a_call_whose_image_is_on_the_move_must_not_resume() -> None:
    async with switching() as (switcher, _):
        core, image = full(), Image()
        image.gate = threading.Event()
        switcher.save(1, core, kv(image))
        switcher.make_room(core)
        await settled()

        with pytest.raises(KernelBug, match="moves"):
            switcher.restore(1)
        image.gate.set()
        await switcher.wait_idle()
        assert switcher.restore(1) is not None


async def test_a_context_on_the_move_is_not_there_for_the_next_call() -> None:
    async with switching() as (switcher, _):
        core, image = full(), Image()
        image.gate = threading.Event()
        switcher.keep_warm(7, core, kv(image))
        await settled()

        assert switcher.take_warm(7, core) is None
        image.gate.set()
        await switcher.wait_idle()
        assert switcher.take_warm(7, core) is not None


async def test_a_snapshot_discarded_while_it_moves_is_freed_when_it_arrives(
    tmp_path: Path,
) -> None:
    async with switching(tmp_path, host=0) as (switcher, _):
        core, image = PuppetCore(), Image(tier=Tier.HOST)
        image.gate = threading.Event()
        switcher.save(1, core, kv(image))
        switcher.make_room(core)
        await settled()
        switcher.discard(1)
        assert image.num_releases == 0, "not under the hands of the worker"
        image.gate.set()
        await switcher.wait_idle()

        assert image.num_releases == 1
        assert switcher.restore(1) is None


async def test_a_context_replaced_while_it_moves_is_freed_and_the_new_one_stays() -> None:
    async with switching() as (switcher, _):
        core, old, new = full(), Image(), Image()
        old.gate = threading.Event()
        switcher.keep_warm(7, core, kv(old))
        await settled()
        core.kv_tokens = 0
        switcher.keep_warm(7, core, kv(new))
        old.gate.set()
        await switcher.wait_idle()

        assert (old.num_releases, new.num_releases) == (1, 0)


async def test_closing_waits_for_a_move_and_frees_it(tmp_path: Path) -> None:
    image = Image(tier=Tier.HOST)
    image.gate = threading.Event()
    async with switching(tmp_path, host=0) as (switcher, _):
        switcher.save(1, PuppetCore(), kv(image))
        switcher.make_room(PuppetCore())
        await settled()
        asyncio.get_running_loop().call_later(0.01, image.gate.set)

    assert image.num_releases == 1


# --- bad days -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.ENOSPC, "no space left on device"), RuntimeError("CUDA error"), MemoryError()],
    ids=repr,
)
async def test_an_image_that_cannot_be_moved_is_dropped_and_its_call_continues_from_its_tokens(
    tmp_path: Path, failure: Exception
) -> None:
    async with switching(tmp_path, host=0) as (switcher, moving):
        image = Image(tier=Tier.HOST)
        image.failure = failure
        switcher.save(1, PuppetCore(), kv(image))
        switcher.make_room(PuppetCore())
        async with asyncio.timeout(PATIENCE):
            await switcher.wait_idle()

        assert moving == [(1, True), (1, False)], "one attempt, and the call may go on"
        restored = switcher.restore(1)
        assert restored is not None
        assert (restored.kv, restored.output_ids) == (None, (3,))
        assert image.num_releases == 1
        assert not files_in(tmp_path), "half a file is no file"


async def test_an_image_that_must_not_be_dropped_stays_when_it_cannot_be_moved(
    tmp_path: Path,
) -> None:
    async with switching(tmp_path, host=0) as (switcher, moving):
        core = PuppetCore()
        core.capabilities = Capabilities(context_window=9, exact_recompute=False)
        image = Image(tier=Tier.HOST)
        image.failure = OSError(errno.ENOSPC, "no space left on device")
        switcher.save(1, core, kv(image))
        switcher.make_room(core)
        async with asyncio.timeout(PATIENCE):
            await switcher.wait_idle()

        assert moving == [(1, True), (1, False)]
        restored = switcher.restore(1)
        assert restored is not None
        assert restored.kv is image


async def test_a_lost_core_takes_its_images_and_leaves_the_tokens() -> None:
    async with switching() as (switcher, _):
        lost, well = PuppetCore("lost"), PuppetCore("well")
        images = [Image() for _ in range(3)]
        switcher.save(1, lost, kv(images[0]))
        switcher.keep_warm(7, lost, kv(images[1]))
        switcher.save(2, well, kv(images[2]))
        switcher.drop_core(lost)

        assert [image.num_releases for image in images] == [1, 1, 0]
        snapshot = switcher.restore(1)
        assert snapshot is not None
        assert (snapshot.kv, snapshot.output_ids) == (None, (3,))
        assert switcher.take_warm(7, lost) is None


async def test_an_image_that_moves_while_its_core_is_lost_is_lost_too() -> None:
    async with switching() as (switcher, _):
        core, image = full(), Image()
        image.gate = threading.Event()
        switcher.save(1, core, kv(image))
        switcher.make_room(core)
        await settled()
        switcher.drop_core(core)
        image.gate.set()
        await switcher.wait_idle()

        assert image.num_releases == 1
        snapshot = switcher.restore(1)
        assert snapshot is not None
        assert (snapshot.kv, snapshot.output_ids) == (None, (3,))


async def test_swapping_is_replaced_by_recomputing_once_it_is_measured_to_be_slower() -> None:
    async with switching() as (switcher, _):
        core = full()
        load = replace(core.load(), prefill_rate=1e9)
        core.load = lambda: load  # type: ignore[method-assign]
        first, second = Image(), Image()
        switcher.save(1, core, kv(first))
        switcher.make_room(core)
        await switcher.wait_idle()
        assert first.tier is Tier.HOST, "not measured yet, so worth a try"

        switcher._rates[Tier.HOST] = 1.0  # a byte a second
        switcher.save(2, core, kv(second))
        switcher.make_room(core)
        await switcher.wait_idle()
        assert second.num_releases == 1
        assert (switcher.peek(2) or kv(second)).kv is None


# --- against a plain dictionary -------------------------------------------------------------------

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["save", "restore", "discard", "keep_warm", "take_warm", "forget", "wait", "drop_core"]
        ),
        st.integers(0, 3),
    ),
    max_size=40,
)


@given(actions=ACTIONS, host=st.integers(0, 40), disk=st.integers(0, 40), used=st.integers(0, 100))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_is_a_dictionary_while_images_move(  # noqa: C901 - one branch an action
    actions: list[tuple[str, int]], host: int, disk: int, used: int
) -> None:
    async def main() -> None:  # noqa: C901
        core = full(used)
        calls: dict[int, int] = {}
        made: list[Image] = []
        taken: list[Image] = []

        def new(mark: int) -> Snapshot:
            made.append(Image(10))
            return Snapshot("m", output_ids=(mark,), kv=made[-1])

        async with switching(host=host, disk=disk) as (switcher, _):
            for step, (action, key) in enumerate(actions):
                if action == "save" and key not in calls:
                    switcher.save(key, core, new(step))
                    switcher.make_room(core)
                    calls[key] = step
                elif action == "restore":
                    await switcher.wait_idle()
                    snapshot = switcher.restore(key)
                    assert (snapshot.output_ids if snapshot else None) == (
                        (calls.pop(key),) if key in calls else None
                    )
                    if snapshot and snapshot.kv:
                        taken.append(snapshot.kv)  # type: ignore[arg-type]
                elif action == "discard":
                    switcher.discard(key)
                    calls.pop(key, None)
                elif action == "keep_warm":
                    switcher.keep_warm(key, core, new(step))
                elif action == "take_warm":
                    if (context := switcher.take_warm(key, core)) and context.kv:
                        taken.append(context.kv)  # type: ignore[arg-type]
                elif action == "forget":
                    switcher.forget(key)
                elif action == "drop_core":
                    switcher.drop_core(core)
                else:
                    await switcher.wait_idle()
                    switcher.check()
            await switcher.wait_idle()
            assert switcher.num_bytes(Tier.HOST) <= host
            assert switcher.num_bytes(Tier.DISK) <= disk
        assert all(image.num_releases == (0 if image in taken else 1) for image in made)

    asyncio.run(main())
