"""The place of a model's cores while it has none, so that its calls can wait for one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aios_core.core import Capabilities, CoreLoad, Prepared, ReportSink, Run
from aios_core.cores.openai.wire import max_prompt_tokens
from aios_core.errors import KernelBug, SnapshotError
from aios_core.snapshot import KVImage, Snapshot
from aios_core.syscalls import LLMGenerate

_NEVER_UP: Final = CoreLoad(slots=1, num_running=0, is_up=False)


class AbsentCore:
    """A core that is never up. It stands for the cores of one model that were taken away.

    Args:
        model: the model.
        last: the name of its last core.
        capabilities: those of its last core.
        reason: why it has no core, for errors.
    """

    def __init__(self, model: str, last: str, capabilities: Capabilities, reason: str) -> None:
        self.models = (model,)
        self.last = last
        self.capabilities = capabilities
        self.reason = reason
        self.name = f"{model} (no core)"

    def __repr__(self) -> str:
        return f"<AbsentCore of {self.models[0]!r}: {self.reason}>"

    async def start(self, sink: ReportSink) -> None:
        """Do nothing: there is no core to start."""

    def prepare(self, request: LLMGenerate) -> Prepared:
        """Return an upper bound of the prompt's tokens; the core that serves the call counts."""
        window = self.capabilities.context_window
        limit = min(request.sampling.max_tokens or window, window)
        return Prepared(max_prompt_tokens(request), limit, is_exact=False)

    def can_continue(self, snapshot: Snapshot) -> bool:  # noqa: ARG002 - no snapshot can
        """Return False: nothing runs here."""
        return False

    def run(self, run: Run) -> None:
        """Raise `KernelBug`: it is never up, so it gets no call."""
        raise KernelBug(f"run {run.id} was given to {self!r}")

    def preempt(self, run_id: int) -> None:
        """Do nothing: nothing runs here."""

    def cancel(self, run_id: int) -> None:
        """Do nothing: nothing runs here."""

    def load(self) -> CoreLoad:
        """Return the load of a core that is down."""
        return _NEVER_UP

    def open_image(self, path: Path) -> KVImage:
        """Raise `SnapshotError`: there is no core to take a KV image."""
        raise SnapshotError(f"{self.name} takes no KV images, such as {path.name}")

    async def close(self) -> None:
        """Do nothing: there is nothing to free."""
