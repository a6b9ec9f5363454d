"""`reference/events.md`: every kind of event and the facts that it carries."""

from __future__ import annotations

from text import code, table

from aios_core import EventKind

# member -> what happened, and the facts of the event
_MEANING: dict[str, tuple[str, str]] = {
    "AGENT_SPAWNED": ("An agent started.", "`name`, `group`, `parent`"),
    "AGENT_FROZEN": ("An agent's calls are held, and its running ones suspended.", ""),
    "AGENT_THAWED": ("A frozen agent's calls continue.", ""),
    "AGENT_EXITED": ("An agent ended, and its calls were cancelled.", "`reason`"),
    "SUBMITTED": ("A syscall was accepted.", "`request`, the kind of another request than a call"),
    "REFUSED": ("A call was refused before it could wait.", "`reason`"),
    "DISPATCHED": (
        "A call got a slot of a core, or a request its manager.",
        "`core`, or `manager`",
    ),
    "PREEMPTED": ("A call was taken off its slot and keeps a snapshot.", "`tokens`"),
    "RETRIED": ("An attempt failed, and the call waits for another one.", "`core`, `reason`"),
    "SWAPPED": ("A KV image moved between device, host and disk.", "`source`, `target`, `bytes`"),
    "WAITING_FOR_BUDGET": (
        "A call waits until calls in flight have settled what they reserved.",
        "`budget`, the owner of it",
    ),
    "CUT": ("The kernel ended an answer at its limit.", "`reason`, `limit`"),
    "CLAIM_REJECTED": (
        "A backend reported an impossible usage; the kernel's own count was recorded.",
        "`core`, `reason`",
    ),
    "OVERRUN": (
        "A backend used more than a budget had left; the excess is not charged.",
        "`reason` or `core`, `tokens`, `money`, `calls`",
    ),
    "DONE": ("A syscall was answered.", "`tokens` and others of the answer"),
    "FAILED": ("A syscall ended with an error.", "`reason`"),
    "CANCELLED": ("A syscall was withdrawn.", "`reason`"),
    "CORE_STARTING": ("A core reached a stage of its start, such as loading.", "`core`, `stage`"),
    "CORE_UP": ("A core started, or answers again.", "`core`"),
    "CORE_DOWN": ("A core is not reachable.", "`core`, `reason`"),
    "CORE_DRAINING": ("A core takes no further calls.", "`core`"),
    "CORE_REMOVED": ("A core was closed and forgotten.", "`core`"),
    "POLICY_CHANGED": ("Another scheduling policy is in force.", "`policy`"),
}


def events() -> str:
    """Return a table of all kinds of events."""
    missing = {kind.name for kind in EventKind} ^ _MEANING.keys()
    if missing:
        raise AssertionError(f"docs/_generate/events_page.py does not fit: {sorted(missing)}")
    rows = [
        (code(f"EventKind.{kind.name}"), code(kind.value), *_MEANING[kind.name])
        for kind in EventKind
    ]
    return table(("Kind", "Value", "What happened", "Facts"), rows)
