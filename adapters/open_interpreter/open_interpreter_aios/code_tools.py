"""Run the blocks of Open Interpreter's `execute` as tools in the kernel's sandbox.

Blocks of Python are cells of the conversation's session: they keep the variables of
earlier cells, and show the value of their last expression. Blocks of shell are
separate programs on the agent's files. Their output goes to the interpreter as
it arrives; the tool returns only the exit code.
"""

from __future__ import annotations

from typing import Any, Final, Literal
from weakref import WeakValueDictionary

from aios_core import Tool, ToolContext
from aios_core.errors import InvalidRequest
from open_interpreter_aios.code_block import CodeBlockRun

Language = Literal["python", "shell"]

TOOL: Final = "interpreter_run_code"
END_TOOL: Final = "interpreter_end_session"

_PREFIX: Final = "open_interpreter/"  # of a session's name, as of the history's

#: The block that an interpreter waits for, by the number of its terminal.
reading: Final[WeakValueDictionary[int, CodeBlockRun]] = WeakValueDictionary()


async def run_code(
    language: Language, code: str, conversation: str, interpreter: int, context: ToolContext
) -> dict[str, Any]:
    """Run a block and return its exit code.

    Raises:
        SandboxUnavailable: no isolation backend is available.
    """
    block = reading.get(interpreter)
    if block is None:
        raise InvalidRequest(f"interpreter: got {interpreter}, which waits for no block")
    runner, who, labels = context.code_runner, context.caller, context.labels
    if language == "python":
        result = await runner.run_in_session(
            who, _PREFIX + conversation, code, labels=labels, on_output=block.write
        )
    else:
        result = await runner.run_for(who, language, code, labels=labels, on_output=block.write)
    block.figures = result.figures
    for said in (result.value, result.notice):
        if said:
            block.write_line(said)
    return {"exit_code": result.exit_code}


async def end_session(conversation: str, context: ToolContext) -> bool:
    """End a conversation's session. Returns whether there was one."""
    return await context.code_runner.end_session(context.caller, _PREFIX + conversation)


RUN_CODE: Final = Tool(
    TOOL,
    "Run code that a model wrote in the sandbox, on the agent's files.",
    {
        "type": "object",
        "properties": {
            "language": {"enum": ["python", "shell"]},
            "code": {"type": "string"},
            "conversation": {
                "type": "string",
                "description": "Keeps the variables.",
            },
            "interpreter": {
                "type": "integer",
                "description": "Gets the output.",
            },
        },
        "required": ["language", "code", "conversation", "interpreter"],
    },
    run_code,
    irreversible="runs untrusted code",
    runs_code=True,
    repairs=False,
    context_name="context",
)

END_SESSION: Final = Tool(
    END_TOOL,
    "Forget the variables of a conversation.",
    {
        "type": "object",
        "properties": {"conversation": {"type": "string"}},
        "required": ["conversation"],
    },
    end_session,
    idempotent=True,
    trusted=True,
    repairs=False,
    context_name="context",
)
