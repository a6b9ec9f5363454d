"""Family 5: one tool, `execute(language, code)`, with short Python, as Open Interpreter has it."""

from __future__ import annotations

from typing import Final

from models.tiny.data.dialogue import Call, Dialogue, Param, Tool, calls, result, says, user
from models.tiny.data.offers import offer, system_prompt, tools_of
from models.tiny.data.pools import Pool
from models.tiny.data.single import failed
from models.tiny.data.skills import BY_NAME, dress

_DESCRIPTIONS: Final = (
    "Executes code on the user's machine **in the users local environment** and returns the output",
    "Executes code and returns the output.",
    "Runs code in a language.",
)
_PARAMS: Final = (Param("language"), Param("code"))


def execute_tool(pool: Pool) -> Tool:
    return Tool("execute", pool.pick(_DESCRIPTIONS), _PARAMS)


def execution(pool: Pool) -> Dialogue:
    tool = execute_tool(pool)
    text, language, code, output = _job(pool)
    if pool.chance(0.06):
        what = f"{pool.word().capitalize()}Error: {pool.text(4)}"
        got, answer = f"error: {what}", failed(what)
    else:
        got, answer = output, f"The output is: {output}"
    turns = (
        user(dress(pool, text)),
        calls(Call("execute", {"language": language, "code": code})),
        result(got),
        says(answer),
    )
    others = (
        tools_of(offer(pool, [], 2, without=[BY_NAME["calculator"]])) if pool.chance(0.15) else ()
    )
    return Dialogue("execution", turns, (tool, *others), system_prompt(pool))


def _job(pool: Pool) -> tuple[str, str, str, str]:
    """Draw a task: the request, the language, the code, its output."""
    kind = pool.rng.random()
    if kind < 0.3:
        (said, meant), *_ = BY_NAME["calculator"].values(pool)
        ask = pool.pick(("compute {}", "what is {}?", "calculate {}", "run {} in python"))
        return ask.format(said), "python", f"print({meant})", pool.number(6)
    if kind < 0.5:
        text = pool.text(5)
        ask = pool.pick(("print {}", "write a program that prints {}", "print {} in python"))
        return ask.format(text), "python", f'print("{text}")', text
    if kind < 0.62:
        most = pool.number(3)
        ask = pool.pick(("count from 1 to {}", "print the numbers from 1 to {}"))
        code = f"for i in range(1, {most} + 1):\n    print(i)"
        return ask.format(most), "python", code, pool.number(3)
    if kind < 0.74:
        path = pool.path()
        ask = pool.pick(("read {}", "show me {}", "print the content of {}"))
        return ask.format(path), "python", f'print(open("{path}").read())', pool.text(5)
    if kind < 0.86:
        path, text = pool.path(), pool.text(4)
        code = f'open("{path}", "w").write("{text}")'
        ask = pool.pick(("write {1} to {0}", "create {0} with the content {1}"))
        return ask.format(path, text), "python", code, str(len(text))
    folder = pool.folder()
    ask = pool.pick(("list the files in {}", "which files are in {}?"))
    code = f'import os\nprint(os.listdir("{folder}"))'
    return ask.format(folder), "python", code, f"['{pool.word()}.txt', '{pool.word()}.py']"
