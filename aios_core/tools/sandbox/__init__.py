"""Run untrusted code confined, or not at all.

`Sandbox` runs programs and opens sessions, `detection` selects the isolation backend,
`AgentSessions` keeps the sessions of agents, and `CodeService` offers all that to tools.
"""

from aios_core.tools.sandbox.agent_sessions import AgentSessions
from aios_core.tools.sandbox.backend import Availability, Confined, Program, SandboxBackend
from aios_core.tools.sandbox.detection import BACKENDS, probe_backends, select_backend
from aios_core.tools.sandbox.limits import SandboxLimits
from aios_core.tools.sandbox.result import (
    ExecutionResult,
    FileChanges,
    KilledBy,
    OnOutput,
    Stream,
)
from aios_core.tools.sandbox.runner import LANGUAGES, Language
from aios_core.tools.sandbox.sandbox import Sandbox
from aios_core.tools.sandbox.service import CodeService
from aios_core.tools.sandbox.session import Session
from aios_core.tools.sandbox.workspace import LabelingWorkspace, Workspace

__all__ = [
    "BACKENDS",
    "LANGUAGES",
    "AgentSessions",
    "Availability",
    "CodeService",
    "Confined",
    "ExecutionResult",
    "FileChanges",
    "KilledBy",
    "LabelingWorkspace",
    "Language",
    "OnOutput",
    "Program",
    "Sandbox",
    "SandboxBackend",
    "SandboxLimits",
    "Session",
    "Stream",
    "Workspace",
    "probe_backends",
    "select_backend",
]
