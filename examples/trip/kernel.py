"""The kernel of the trip: three groups, one policy file, one state directory."""

from collections.abc import Callable
from pathlib import Path

import model

from aios_core import Kernel, KernelConfig
from aios_core.access import ApprovalRequest

HERE = Path(__file__).parent


def make_kernel(
    state: Path | str,
    *,
    policy: str = "fair",
    approver: Callable[[ApprovalRequest], bool] | None = None,
) -> Kernel:
    """Make a kernel that keeps its state in a directory, or nowhere with ":memory:"."""
    config = KernelConfig.load(
        HERE / "aios.toml",
        scheduler={"policy": policy},
        state={"directory": str(state)},
        access={"policy": str(HERE / "policy.toml")},
    )
    return Kernel(config, cores=model.cores(), approver=approver)
