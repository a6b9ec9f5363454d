"""The methods of a kernel for its cores."""

from __future__ import annotations

from functools import partial

from aios_core.core import Core
from aios_core.kernel.arguments import checked_cores
from aios_core.kernel.core_roster import CoreRoster
from aios_core.kernel.loop_portal import LoopPortal
from aios_core.untrusted.arguments import require_number, require_text


class CoreOperations:
    """The part of a kernel that adds, drains and removes cores while it runs."""

    _loop: LoopPortal

    @property
    def _roster(self) -> CoreRoster:
        """The cores' changes. Raises `KernelClosed` before the kernel has started."""
        raise NotImplementedError

    def add_core(self, core: Core) -> None:
        """Start an additional core, which then takes calls, also those that wait already.

        Raises `ConfigError` if its name is taken, and `BackendError` if it does not start.
        """
        self._loop.run(self.aadd_core(core))

    async def aadd_core(self, core: Core) -> None:
        """Add a core without blocking the event loop (async form of `add_core`)."""
        checked_cores([core])
        await self._loop.arun(self._roster.add(core))

    def drain_core(
        self, name: str, *, preempt: bool = False, timeout_s: float | None = None
    ) -> bool:
        """Give a core no further calls, and wait until those that it has started have ended.

        Other calls turn to other cores of their model, or to a fallback. Without any, they wait
        for `scheduler.core_wait_s`, and then fail with `CoreUnavailable`. The core stays a part of
        the kernel until `remove_core`, or takes calls again after `resume_core`.

        Args:
            name: of the core.
            preempt: whether running calls leave the core at once, where another core can continue
                them from their tokens; the others end here.
            timeout_s: seconds to wait; None: as long as the calls take.

        Returns:
            Whether the core is idle. If not, it is still draining.

        Raises:
            NoSuchObject: there is no such core.
        """
        return self._loop.run(self.adrain_core(name, preempt=preempt, timeout_s=timeout_s))

    async def adrain_core(
        self, name: str, *, preempt: bool = False, timeout_s: float | None = None
    ) -> bool:
        """Drain a core without blocking the event loop (async form of `drain_core`)."""
        require_text("name", name)
        require_number("timeout_s", timeout_s, at_least=0)
        return await self._loop.arun(self._roster.drain(name, preempt=preempt, timeout_s=timeout_s))

    def resume_core(self, name: str) -> None:
        """Give calls to a core again that was draining. Changes nothing for other cores.

        Raises `NoSuchObject` if there is no such core, and `ConfigError` if it is being closed.
        """
        self._loop.call(partial(self._resume_core, name))

    async def aresume_core(self, name: str) -> None:
        """Resume a core without blocking the event loop (async form of `resume_core`)."""
        await self._loop.acall(partial(self._resume_core, name))

    def _resume_core(self, name: str) -> None:
        require_text("name", name)
        self._roster.resume(name)

    def remove_core(
        self, name: str, *, preempt: bool = False, timeout_s: float | None = None
    ) -> None:
        """Drain a core, close it, and forget it. Its name may be used again.

        Calls that the core has not ended within `timeout_s` leave it: they continue on another
        core from their tokens, or start again there. Only if their caller has received a part that
        no core can continue do they fail, with `AnswerLost`. A model that has no core any longer is
        unknown to `pool.models`; its calls wait `scheduler.core_wait_s` for a core to be added, and
        then fail with `CoreUnavailable`. The last core may be removed too.

        Args:
            name: of the core.
            preempt: whether running calls leave the core at once.
            timeout_s: seconds that running calls may take to end; None: as long as they take.

        Raises:
            NoSuchObject: there is no such core.
        """
        self._loop.run(self.aremove_core(name, preempt=preempt, timeout_s=timeout_s))

    async def aremove_core(
        self, name: str, *, preempt: bool = False, timeout_s: float | None = None
    ) -> None:
        """Remove a core without blocking the event loop (async form of `remove_core`)."""
        require_text("name", name)
        require_number("timeout_s", timeout_s, at_least=0)
        await self._loop.arun(self._roster.remove(name, preempt=preempt, timeout_s=timeout_s))
