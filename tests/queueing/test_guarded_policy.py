"""Policies of other packages: how their failures are logged."""

from __future__ import annotations

import pytest

from aios_core.errors import SchedulingPolicyError
from aios_core.queueing.policy import FIFO
from aios_core.queueing.ranked_queue import GuardedPolicy


def test_the_log_of_a_failing_policy_names_its_failure_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = GuardedPolicy(FIFO())._failed("rank", ZeroDivisionError("division by zero"))
    assert isinstance(error, SchedulingPolicyError)
    assert caplog.text.count("division by zero") == 1
