"""Bring what cores report, on whatever thread, to the kernel's loop, in order.

Promises: a report is handled on the loop, after every report that was handed in
before it, and never inside the call that handed it in: a core may report from
within `run`. A report that cannot be handled takes no other with it.

Thread-safe without a lock: the queue's ends are atomic, and the wake flag is
cleared before the queue is read, so a late report wakes again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from aios_core.core import Core, Report, ReportSink
from aios_core.untrusted.third_party import RAISED, log_raised, pass_on, type_name

log = logging.getLogger(__name__)


class ReportInbox:
    """The reports that wait to be handled.

    Args:
        loop: where they are handled.
        handle: called for each report.
        handled: called once after each batch.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handle: Callable[[Core, Report], None],
        handled: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._handle = handle
        self._handled = handled
        self._reports: deque[tuple[Core, Report]] = deque()
        self._is_woken = False
        self._loop_thread = threading.get_ident()

    def sink(self, core: Core) -> ReportSink:
        """The function by which a core reports."""
        return partial(self._receive, core)

    def drain(self) -> None:
        """Handle everything that is here. On the loop's thread."""
        self._is_woken = False
        try:
            while self._reports:
                self._handle_one(*self._reports.popleft())
        finally:
            if self._reports:  # something ends the program; what is left is handled all the same
                self._wake()
            self._handled()

    def _handle_one(self, core: Core, report: Report) -> None:
        try:
            self._handle(core, report)
        except RAISED as exc:  # none may keep others of its batch from being handled
            pass_on(exc)
            told = type_name(report)  # it may be of a class of the core's own
            log_raised(log, exc, "a report of core %r could not be handled: %s", core.name, told)

    def _receive(self, core: Core, reports: Sequence[Report]) -> None:
        self._reports.extend([(core, report) for report in reports])
        if not self._is_woken:
            self._wake()

    def _wake(self) -> None:
        self._is_woken = True
        if threading.get_ident() == self._loop_thread:
            self._loop.call_soon(self.drain)
            return
        try:
            self._loop.call_soon_threadsafe(self.drain)
        except RuntimeError:  # the loop is closed, and with it everybody who could listen
            self._reports.clear()
