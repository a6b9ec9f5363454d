"""Run untrusted code confined, or not at all.

    sandbox        `Sandbox`: run a program, or open a session
    session        a running interpreter; `cell_runner` and `driver` run its cells
    agent_session  a session on one agent's files; `agent_sessions` keeps those of all agents
    service        `CodeService`: the sandbox for tools
    detection      find the isolation backend for this machine
    backend        the interface of isolation backends
    bubblewrap     the one for Linux, with `seccomp`, `bpf`, `syscall_numbers`, `bwrap_process`
    limits         time, memory, processes and files that code may use
    runner         run one program to its end
    supervised     capture output, enforce limits, end the program
    file_sync      copy files in, and changed files out; `tree` accesses them safely
    workspace      the interface to agents' files
    interpreter    find the Python to run inside; `packages` finds what code may import
    frames         the messages between a session and its driver

Helpers: `sandbox_loop`, `fd_wait`, `shielding`, `output_capture`, `process_memory`, `result`,
`aios_figures`.
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
