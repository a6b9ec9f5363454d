"""The tool behind Open Interpreter's `execute`: a block of code in the kernel's sandbox.

Each block is a program of its own. A block of Python shows the value of its last
expression, as Open Interpreter's own does.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from aios_core import Tool, ToolContext

Language = Literal["python", "shell"]

TOOL: Final = "interpreter_run_code"

# Runs inside. It reads the code there, since even to parse a stranger's code is a risk.
_AS_A_CELL: Final = """\
import ast, linecache, sys, traceback
source, name = {source!r}, "block"
linecache.cache[name] = (len(source), None, source.splitlines(True), name)
names = {{"__name__": "__main__", "__builtins__": __builtins__}}
try:
    tree = ast.parse(source, name)
    shown = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), names)
    if shown is not None:
        sys.displayhook(eval(compile(ast.Expression(shown.value), name, "eval"), names))
except SystemExit:
    raise
except BaseException as exc:
    traceback.print_exception(exc.with_traceback(exc.__traceback__.tb_next))
    sys.exit(1)
"""


def as_cell(code: str) -> str:
    """A program that runs Python code and shows the value of its last expression."""
    return _AS_A_CELL.format(source=code)


async def run_code(language: Language, code: str, context: ToolContext) -> dict[str, Any]:
    """The exit code, and what was printed. Raises `SandboxUnavailable` where nothing confines."""
    program = as_cell(code) if language == "python" else code
    result = await context.code_runner.run_for(
        context.caller, language, program, labels=context.labels
    )
    said = [result.stdout, result.stderr, result.notice]
    return {"exit_code": result.exit_code, "output": "\n".join(filter(None, said))}


RUN_CODE: Final = Tool(
    TOOL,
    "Run code that a model wrote in the sandbox, on the agent's files.",
    {
        "type": "object",
        "properties": {"language": {"type": "string"}, "code": {"type": "string"}},
        "required": ["language", "code"],
    },
    run_code,
    irreversible="runs code that nobody has read",
    repairs=False,
    context_name="context",
)
