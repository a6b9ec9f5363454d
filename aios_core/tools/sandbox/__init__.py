"""Run untrusted code confined, or not at all.

`Sandbox` runs programs and opens sessions, `detection` selects the isolation backend,
`AgentSessions` keeps the sessions of agents, and `CodeService` offers all that to tools.
"""

from aios_core.tools.sandbox.agent_sessions import AgentSessions
from aios_core.tools.sandbox.backend import Availability, Confined, Program, Tier
from aios_core.tools.sandbox.detection import TIERS, choose, survey
from aios_core.tools.sandbox.limits import Limits
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
from aios_core.tools.sandbox.workspace import MarkingWorkspace, Workspace

__all__ = [
    "LANGUAGES",
    "TIERS",
    "AgentSessions",
    "Availability",
    "CodeService",
    "Confined",
    "ExecutionResult",
    "FileChanges",
    "KilledBy",
    "Language",
    "Limits",
    "MarkingWorkspace",
    "OnOutput",
    "Program",
    "Sandbox",
    "Session",
    "Stream",
    "Tier",
    "Workspace",
    "choose",
    "survey",
]
