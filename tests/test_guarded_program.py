"""The start of a guarded program, also if it is cancelled at any step."""

from __future__ import annotations

import asyncio
import sys
import uuid

import pytest

from aios_core.guarded_program import Lifeline, start_guarded
from tests.tools.sandbox.probes import processes_with


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc")
@pytest.mark.parametrize("delay_s", [0.0, 0.001, 0.003, 0.01, 0.03])
async def test_a_start_that_is_cancelled_leaves_no_program(delay_s: float) -> None:
    marker = f"guarded-{uuid.uuid4()}"
    lifeline = Lifeline()
    program = ["/bin/sh", "-c", f"sleep 1000; : {marker}"]
    starting = asyncio.create_task(start_guarded(lifeline, program))
    await asyncio.sleep(delay_s)  # to cancel in the middle of the start

    starting.cancel()
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    if not starting.cancelled():  # it had started already
        lifeline.cut()
        await starting.result().wait()

    assert processes_with(marker) == []
