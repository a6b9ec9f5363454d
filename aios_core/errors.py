"""Everything the kernel raises on purpose, arranged by what the caller can do about it.

    KernelError
    ├── InvalidRequest           fix the request; repeating it cannot work
    │   ├── ContextOverflow      the prompt does not fit the model's context window
    │   ├── NoSuchObject         unknown model, agent, tool, file ...; names the known ones
    │   ├── InvalidArguments     a tool's arguments do not fit its schema; names each field
    │   ├── InvalidPath          a path leaves its root, or is not a valid path
    │   ├── Conflict             another agent changed it, or it exists already; read it again
    │   └── ConfigError          a key of the configuration has a bad name or value
    ├── RetryLater               nothing is wrong; wait `retry_after_s` seconds and repeat
    │   ├── Overloaded           a bounded queue is full
    │   ├── RateLimited          a core's provider refuses more for now
    │   ├── CoreUnavailable      no core that serves the model answers at present
    │   └── ToolUnavailable      a tool is at its limit, or failed too often of late
    ├── LimitReached             the agent used up what it was given; ask its owner for more
    │   ├── BudgetExceeded       tokens, money, calls or wall time
    │   ├── QuotaExceeded        bytes, blocks, files or versions that it may keep
    │   ├── RunawayStopped       it repeats itself, spawns too deep or calls too often
    │   └── AccessDenied         it lacks the privilege
    │       └── ApprovalRefused  a person refused, or no one answered in time
    ├── Interrupted              the call was ended from outside, its work is lost
    │   ├── DeadlineExceeded     its deadline passed
    │   ├── SyscallCancelled     its caller, its agent's death or a person withdrew it
    │   └── KernelClosed         the kernel shuts down, or did already
    ├── BackendError             something outside the kernel failed; see ``__cause__``
    │   ├── CoreError            a core failed while serving the call
    │   │   ├── AnswerLost             ... after the caller had received a part of the answer
    │   │   ├── AuthenticationFailed   its provider does not accept the key
    │   │   ├── PermissionRefused      ... or not for this model or account
    │   │   ├── ModelNotFound          ... does not know the model; also a NoSuchObject
    │   │   ├── RequestRefused         ... finds the request wrong; also an InvalidRequest
    │   │   └── ContentFiltered        ... does not answer such a prompt; also an InvalidRequest
    │   ├── OutOfMemory          the device has no room for this call
    │   ├── ModelLoadError       a model's files are missing or damaged
    │   ├── SnapshotError        a snapshot is damaged, cannot be made or belongs to another model
    │   ├── SchedulingPolicyError  a scheduling policy raised, or ranked a call by no rank
    │   ├── StateError           the state directory cannot be used: damaged, full, locked, too new
    │   ├── ToolError            a tool raised, died or hung
    │   │   └── ToolInDoubt      the kernel died while it ran; whether it took effect is unknown
    │   └── SandboxUnavailable   nothing here can confine code, so it is not run
    ├── WouldBlock               a blocking call was made on the kernel's own loop
    └── KernelBug                an invariant broke; never caught, always a defect

Foreign exceptions are converted at the seam with ``raise ... from exc``. An
error never travels as a string, and its facts are attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

from aios_core.provider_reply import UNKNOWN_PAUSE_S, ProviderReply, pause_of
from aios_core.redaction import redact, shown_repr, shown_setting, shown_texts
from aios_core.suggestions import suggest_name

__all__ = [
    "AccessDenied",
    "AnswerLost",
    "ApprovalRefused",
    "AuthenticationFailed",
    "BackendError",
    "BudgetExceeded",
    "ConfigError",
    "Conflict",
    "ContentFiltered",
    "ContextOverflow",
    "CoreError",
    "CoreUnavailable",
    "DeadlineExceeded",
    "Interrupted",
    "InvalidArguments",
    "InvalidPath",
    "InvalidRequest",
    "KernelBug",
    "KernelClosed",
    "KernelError",
    "LimitReached",
    "ModelLoadError",
    "ModelNotFound",
    "NoSuchObject",
    "OutOfMemory",
    "Overloaded",
    "PermissionRefused",
    "ProviderReply",
    "QuotaExceeded",
    "RateLimited",
    "RequestRefused",
    "RetryLater",
    "RunawayStopped",
    "SandboxUnavailable",
    "SchedulingPolicyError",
    "SnapshotError",
    "StateError",
    "SyscallCancelled",
    "ToolError",
    "ToolInDoubt",
    "ToolUnavailable",
    "WouldBlock",
]


_MAX_LISTED = 50  # names in a message


class KernelError(Exception):
    """Base class of all exceptions that the kernel raises on purpose. Messages hold no secrets.

    `reply` is what a provider answered, if that is the reason.
    """

    reply: ProviderReply | None = None

    #: Labels of the names, figures and texts of other agents that the message quotes. The agent
    #: that gets the error has read them, and carries these labels from then on.
    labels: frozenset[str] = frozenset()

    def __init__(self, *args: object) -> None:
        super().__init__(*shown_texts(args))

    def add_note(self, note: str) -> None:
        """Add a line to the shown error, with secrets redacted."""
        super().add_note(redact(note))

    def with_labels(self, labels: Iterable[str]) -> Self:
        """Add labels of texts that the message quotes. Returns the error itself."""
        self.labels |= frozenset(labels)
        return self

    @property
    def status_code(self) -> int | None:
        """The HTTP status of the provider's reply; None without one."""
        return self.reply.status_code if self.reply else None

    @property
    def request_id(self) -> str | None:
        """The provider's id of the refused request; None if it gave none."""
        return (self.reply.request_id or None) if self.reply else None

    @property
    def provider_message(self) -> str | None:
        """The message in the provider's reply; None without one."""
        return self.reply.message if self.reply else None

    is_startup = False  # raised while a kernel started, which left nothing behind


class InvalidRequest(KernelError):
    """The request is malformed; repeating it unchanged cannot work."""


class ContextOverflow(InvalidRequest):
    """The prompt leaves no room for an answer in the model's context window."""

    def __init__(self, num_tokens: int, context_window: int, model: str) -> None:
        super().__init__(
            f"the prompt has {num_tokens} tokens; {model!r} has a context window of "
            f"{context_window} tokens, of which the answer needs at least one"
        )
        self.num_tokens = num_tokens
        self.context_window = context_window
        self.model = model


class NoSuchObject(InvalidRequest):
    """The request names something that does not exist."""

    def __init__(
        self, kind: str, name: object, known: Iterable[object] = (), *, of: str = ""
    ) -> None:
        have = sorted(map(str, known), key=lambda one: (int(one) if one.isdecimal() else 0, one))
        more = f" and {len(have) - _MAX_LISTED:,} more" if len(have) > _MAX_LISTED else ""
        listed = f"; have {have[:_MAX_LISTED]}{more}" if have else ""
        hint = suggest_name(name, have)
        owner = f" of {of}" if of else ""
        closest = f"; {hint}" if hint else ""
        super().__init__(f"no {kind} {shown_repr(name)}{owner}{listed}{closest}")
        self.kind = kind
        self.name = name
        self.known = tuple(have)
        self.of = of


class InvalidArguments(InvalidRequest):
    """Arguments of a tool do not fit its schema.

    `faults` maps each field (a JSON path such as "items[2].price") to what came and
    what is expected, so that a model can act on it.
    """

    def __init__(self, tool: str, faults: Mapping[str, str]) -> None:
        listed = "; ".join(f"{field}: {fault}" for field, fault in faults.items())
        super().__init__(f"arguments of {tool!r} do not fit: {listed}")
        self.tool = tool
        self.faults = dict(faults)


class InvalidPath(InvalidRequest):
    """A path leaves its root, or is not a valid path."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"path {path!r}: {reason}")
        self.path = path
        self.reason = reason


class Conflict(InvalidRequest):
    """The request conflicts with the present state: a newer version, or an existing object."""


class ConfigError(InvalidRequest):
    """A configuration key is unknown, or its value is not one of those allowed."""

    def __init__(self, key: str, got: object, allowed: str, source: str = "") -> None:
        where = f" (from {source})" if source else ""
        got = shown_setting(key, got)
        super().__init__(f"{key}{where}: got {shown_repr(got)}; allowed: {allowed}")
        self.key = key
        self.got = got
        self.allowed = allowed
        self.source = source


class RetryLater(KernelError):
    """Repeat the request after `retry_after_s` seconds; it may succeed then.

    The time often comes from outside the kernel. A value that is not a number counts as one
    second, a negative one as none, and a longer one than a day as a day.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"{message}; retry in {self.retry_after_s:.3g} s")

    @property
    def retry_after_s(self) -> float:
        """Seconds to wait, from 0 to one day."""
        return getattr(self, "_retry_after_s", UNKNOWN_PAUSE_S)

    @retry_after_s.setter
    def retry_after_s(self, claimed: float) -> None:
        self._retry_after_s = pause_of(claimed)


class Overloaded(RetryLater):
    """A bounded queue is full."""

    def __init__(self, queue: str, limit: int, retry_after_s: float) -> None:
        super().__init__(f"{queue} is full at {limit} calls", retry_after_s)
        self.queue = queue
        self.limit = limit


class RateLimited(RetryLater):
    """The provider behind a core refuses further calls for now (HTTP 429)."""


class CoreUnavailable(RetryLater):
    """No core that serves the model answers at present."""


class ToolUnavailable(RetryLater):
    """A tool is at its limit, or failed so often lately that its circuit breaker is open."""

    def __init__(self, tool: str, reason: str, retry_after_s: float) -> None:
        super().__init__(f"tool {tool!r} {reason}", retry_after_s)
        self.tool = tool


class LimitReached(KernelError):
    """The agent reached one of its limits."""


class BudgetExceeded(LimitReached):
    """A call needs more than a budget has left.

    `spent` was used by answered calls; `reserved` is set aside for calls in flight, which return
    the part that they do not use.
    """

    def __init__(
        self,
        owner: str,
        resource: str,
        limit: float,
        spent: float,
        requested: float,
        *,
        reserved: float = 0,
    ) -> None:
        held = f", {_quantity(reserved)} reserved for calls in flight" if reserved else ""
        super().__init__(
            f"{owner} has spent {_quantity(spent)} of {_quantity(limit)} {resource}{held}; "
            f"this call needs {_quantity(requested)}"
        )
        self.owner = owner
        self.resource = resource
        self.limit = limit
        self.spent = spent
        self.reserved = reserved
        self.requested = requested

    @property
    def committed(self) -> float:
        """The sum of `spent` and `reserved`."""
        return self.spent + self.reserved


class QuotaExceeded(LimitReached):
    """An agent or group would keep more than it may; nothing was stored.

    Amounts are in the resource's unit: bytes, or a count.
    """

    def __init__(
        self, owner: str, resource: str, *, limit: int, used: int, requested: int, hint: str
    ) -> None:
        super().__init__(
            f"{owner} uses {used:,} of {limit:,} {resource} and asks for {requested:,} more; {hint}"
        )
        self.owner = owner
        self.resource = resource
        self.limit = limit
        self.used = used
        self.requested = requested
        self.hint = hint


class RunawayStopped(LimitReached):
    """An agent repeats itself, spawns too deep or makes too many calls."""


class AccessDenied(LimitReached):
    """The calling agent lacks the privilege for this request. `agent` is its identity."""

    def __init__(
        self, pid: int, action: str, target: str, reason: str = "", *, agent: str = ""
    ) -> None:
        because = f": {reason}" if reason else ""
        who = f"agent {agent!r} (pid {pid})" if agent else f"agent {pid}"
        super().__init__(f"{who} may not {action} {target!r}{because}")
        self.pid = pid
        self.agent = agent
        self.action = action
        self.target = target
        self.reason = reason


class ApprovalRefused(AccessDenied):
    """The request needed an approval, which was refused or not given in time."""


class Interrupted(KernelError):
    """The call was ended from outside before it had an answer."""


class DeadlineExceeded(Interrupted):
    """The deadline of the call passed before it was answered."""

    def __init__(self, timeout_s: float, doing: str) -> None:
        super().__init__(f"no answer within {timeout_s:g} s; the call was {doing}")
        self.timeout_s = timeout_s
        self.doing = doing


class SyscallCancelled(Interrupted):
    """The call was cancelled: by its caller, a person, or the exit of its agent."""


class KernelClosed(Interrupted):
    """The kernel is shutting down or was never started."""


class BackendError(KernelError):
    """A core, a store or a tool outside the kernel failed; see ``__cause__``."""


class CoreError(BackendError):
    """A core failed while serving a call.

    `is_retryable`: the same call may be sent again, to this or another core, without the risk
    of doing something twice.
    """

    def __init__(self, core: str, message: str, *, is_retryable: bool = False) -> None:
        KernelError.__init__(self, f"core {core!r}: {message}")  # subclasses have a second base
        self.core = core
        self.is_retryable = is_retryable


class AnswerLost(CoreError):
    """A core failed after its caller had received a part of the answer; the rest is lost.

    No core can continue the answer exactly, and a new one could contradict the received part. The
    reason is in ``__cause__``. `num_tokens` were generated, and are charged.
    """

    def __init__(self, core: str, num_tokens: int, reason: str) -> None:
        reason = reason.removeprefix(f"core {core!r}: ")
        super().__init__(
            core,
            f"failed in the middle of an answer (tokens so far: {num_tokens:,}), and no core can "
            f"continue it: {reason}; repeat the call for a new answer",
        )
        self.num_tokens = num_tokens


class AuthenticationFailed(CoreError):
    """The provider behind a core does not accept the API key in use (HTTP 401)."""


class PermissionRefused(CoreError):
    """The provider behind a core does not permit this request for the key in use (HTTP 403)."""


class RequestRefused(CoreError, InvalidRequest):
    """The provider behind a core rejected the request as invalid (HTTP 400, 413, 422)."""


class ContentFiltered(RequestRefused):
    """The content filter of the provider behind a core refused the prompt."""


class ModelNotFound(CoreError, NoSuchObject):
    """The provider behind a core does not know the model (HTTP 404)."""

    def __init__(self, core: str, model: str, known: Iterable[object] = ()) -> None:
        missing = NoSuchObject("model", model, known)
        CoreError.__init__(self, core, str(missing))
        self.kind, self.name, self.known = missing.kind, missing.name, missing.known


class OutOfMemory(BackendError):
    """The device has too little memory for this call; other calls continue."""

    def __init__(self, core: str, message: str) -> None:
        super().__init__(f"core {core!r} is out of memory: {message}")
        self.core = core


class ModelLoadError(BackendError):
    """A model cannot be loaded: a file is missing or damaged, or its kind is not supported."""


class SnapshotError(BackendError):
    """A snapshot is damaged, cannot be made, or belongs to another model or number format."""


class SchedulingPolicyError(BackendError):
    """A scheduling policy raised or returned an invalid rank, so the call was not run."""

    def __init__(self, policy: str, message: str) -> None:
        super().__init__(f"scheduling policy {policy!r}: {message}")
        self.policy = policy


class StateError(BackendError):
    """The state directory cannot be used: damaged, full, locked by another kernel, too new."""


class ToolError(BackendError):
    """A tool raised, crashed, hung or returned too much; only its caller is affected."""

    def __init__(self, tool: str, message: str) -> None:
        super().__init__(f"tool {tool!r}: {message}")
        self.tool = tool
        self.message = message


class ToolInDoubt(ToolError):
    """The kernel died while the tool ran; whether it took effect is unknown."""


class SandboxUnavailable(BackendError):
    """No isolation backend works on this machine, so code is not run; the message names a fix."""


class WouldBlock(KernelError):
    """A blocking call was made on the kernel's own loop, where it could never return."""


class KernelBug(KernelError):
    """An invariant of the kernel does not hold: a bug to report, not an error to catch."""


def _quantity(amount: float) -> str:
    """Write an amount as people do: 2,000,000 or 0.0125."""
    if amount == int(amount):
        return f"{int(amount):,}"
    decimals = 2 if abs(amount) >= 1 else 6
    return f"{amount:,.{decimals}f}".rstrip("0").rstrip(".")
