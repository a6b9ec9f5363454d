"""Settings for every test of the project, in all folders."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# The duration of an example shows how busy the machine is, not whether the code is right.
settings.register_profile(
    "aios", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("aios")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse test names that hold an address: parallel workers have to agree on the names."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"give the parameters of this test ids: {item.nodeid}")
