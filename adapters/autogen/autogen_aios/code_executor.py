"""Run AutoGen's code blocks in the kernel's sandbox, on the files of the agent that runs them.

Where no isolation backend is available, no code runs: `SandboxUnavailable` names the backends.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Literal, Self
from weakref import WeakSet

from autogen_core import CancellationToken, Component
from autogen_core.code_executor import CodeBlock, CodeExecutor, CodeResult
from pydantic import BaseModel

from aios_core import Agent, Kernel, Tool, ToolContext
from aios_core.errors import DeadlineExceeded, InvalidRequest
from autogen_aios.callers import agent_ref

Language = Literal["python", "shell"]

_TOOL: Final = "autogen_run_code"
_LANGUAGES: Final = {"python": "python", "py": "python"} | dict.fromkeys(
    ("bash", "sh", "shell"), "shell"
)
_TIMED_OUT: Final = 124  # the exit code of `timeout`, and of AutoGen's own executors


async def run_code(language: Language, code: str, context: ToolContext) -> dict[str, Any]:
    """Run code in the sandbox. Returns its exit code and its output."""
    runner, who = context.code_runner, context.caller
    result = await runner.run_for(who, language, code, labels=context.labels)
    outputs = [result.stdout, result.stderr, result.notice]
    return {"exit_code": result.exit_code, "output": "\n".join(filter(None, outputs))}


_RUN_CODE: Final = Tool(
    _TOOL,
    "Run code in the sandbox.",
    {
        "type": "object",
        "properties": {"language": {"type": "string"}, "code": {"type": "string"}},
        "required": ["language", "code"],
    },
    run_code,
    irreversible="runs untrusted code",
    runs_code=True,
    repairs=False,
    context_name="context",
)


class AIOSCodeExecutorConfig(BaseModel):
    """The configuration of an executor."""

    agent: str | None = None
    group: str | None = None
    timeout: float = 60.0


class AIOSCodeExecutor(CodeExecutor, Component[AIOSCodeExecutorConfig]):
    """Runs blocks of Python and shell code as tool syscalls.

    Args:
        agent: the agent that runs the code on its files, as a name or an agent of the kernel;
            None to find it from the caller.
        group: the agent's privilege group; None for the kernel's default.
        timeout: seconds for each block, including the wait in the queue and for an approval.
        kernel: None for the default kernel of this process.
    """

    component_config_schema = AIOSCodeExecutorConfig
    component_provider_override = "autogen_aios.AIOSCodeExecutor"

    def __init__(
        self,
        *,
        agent: str | Agent | None = None,
        group: str | None = None,
        timeout: float = 60.0,
        kernel: Kernel | None = None,
    ) -> None:
        self._agent = agent_ref(agent, group, kernel)
        self._timeout = timeout
        self._served: Final[WeakSet[Agent]] = WeakSet()

    async def execute_code_blocks(
        self, code_blocks: list[CodeBlock], cancellation_token: CancellationToken
    ) -> CodeResult:
        """Run one block after the other, until one fails.

        Raises:
            ValueError: the sandbox does not run the language of a block.
            SandboxUnavailable: no isolation backend is available.
            AccessDenied: the agent may not run code.
        """
        languages = [_language(block) for block in code_blocks]
        outputs: list[str] = []
        async with self._agent.ause() as agent:
            if agent not in self._served:
                await agent.tools.aoffer(_RUN_CODE)
                self._served.add(agent)
            for block, language in zip(code_blocks, languages, strict=True):
                arguments = {"language": language, "code": block.code}
                work = agent.tools.arun(_TOOL, arguments, timeout_s=self._timeout)
                try:
                    result = await cancellation_token.link_future(asyncio.ensure_future(work))
                except DeadlineExceeded as exc:
                    outputs.append(f"{type(exc).__name__}: {exc}")
                    return CodeResult(_TIMED_OUT, "\n".join(outputs))
                outputs.append(result["output"])
                if result["exit_code"]:
                    return CodeResult(result["exit_code"], "\n".join(outputs))
        return CodeResult(0, "\n".join(outputs))

    async def start(self) -> None:
        """Do nothing: each block gets a sandbox of its own."""

    async def stop(self) -> None:
        """Do nothing: an executor holds no resources."""

    async def restart(self) -> None:
        """Do nothing: the only state is the agent's files, which are kept."""

    def _to_config(self) -> AIOSCodeExecutorConfig:
        return AIOSCodeExecutorConfig(
            agent=self._agent.name, group=self._agent.settings.group, timeout=self._timeout
        )

    @classmethod
    def _from_config(cls, config: AIOSCodeExecutorConfig) -> Self:
        return cls(**config.model_dump())


class UnknownLanguage(InvalidRequest, ValueError):
    """The sandbox does not run the language of a code block."""


def _language(block: CodeBlock) -> str:
    if (language := _LANGUAGES.get(block.language.lower())) is None:
        raise UnknownLanguage(f"language: got {block.language!r}; allowed: {sorted(_LANGUAGES)}")
    return language
