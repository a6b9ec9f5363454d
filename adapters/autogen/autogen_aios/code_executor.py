"""AutoGen's code executor in the kernel's sandbox, on the files of the agent that runs code.

Where nothing confines code it is not run: `SandboxUnavailable`, which says what would.
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
_TIMED_OUT: Final = 124  # what `timeout` exits with, and AutoGen's own executors


async def run_code(language: Language, code: str, context: ToolContext) -> dict[str, Any]:
    """Run code in the sandbox: the exit code, and what it printed."""
    runner, who = context.code_runner, context.caller
    result = await runner.run_for(who, language, code, labels=context.labels)
    said = [result.stdout, result.stderr, result.notice]
    return {"exit_code": result.exit_code, "output": "\n".join(filter(None, said))}


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
    """What an executor is made of."""

    agent: str | None = None
    group: str | None = None
    timeout: float = 60.0


class AIOSCodeExecutor(CodeExecutor, Component[AIOSCodeExecutorConfig]):
    """Runs blocks of Python and shell code as tool syscalls.

    Args:
        agent: on whose files, by name or as an agent of the kernel; None: found.
        group: the agent's privilege group; None for the kernel's default.
        timeout: seconds for each block, the wait for its turn and an approval included.
        kernel: None for the embedded kernel of this process.
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
            ValueError: a language that the sandbox does not run.
            SandboxUnavailable, AccessDenied: it may not run here.
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
        """Nothing has to be started; each block gets a sandbox of its own."""

    async def stop(self) -> None:
        """Nothing is held."""

    async def restart(self) -> None:
        """There is no state but the agent's files, and those stay."""

    def _to_config(self) -> AIOSCodeExecutorConfig:
        return AIOSCodeExecutorConfig(
            agent=self._agent.name, group=self._agent.settings.group, timeout=self._timeout
        )

    @classmethod
    def _from_config(cls, config: AIOSCodeExecutorConfig) -> Self:
        return cls(**config.model_dump())


class UnknownLanguage(InvalidRequest, ValueError):
    """The sandbox does not run that language."""


def _language(block: CodeBlock) -> str:
    if (language := _LANGUAGES.get(block.language.lower())) is None:
        raise UnknownLanguage(f"language: got {block.language!r}; allowed: {sorted(_LANGUAGES)}")
    return language
