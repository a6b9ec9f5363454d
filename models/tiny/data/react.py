"""Family 5: the ReAct text format (Yao et al., 2022), as LlamaIndex writes and reads it.

Tools stand in the system prompt, calls and results in the text. A short prompt
most of the time; now and then a long one, as frameworks send it.
"""

from __future__ import annotations

import json
from typing import Final

from models.tiny.data.dialogue import Dialogue, Tool, Turn, says, user
from models.tiny.data.offers import offer, skills_of, tools_of
from models.tiny.data.pools import Pool
from models.tiny.data.single import asked, error, failed
from models.tiny.data.skills import SKILLS, Request

_NEED: Final = (
    "Thought: The current language of the user is: English. "
    "I need to use a tool to help me answer the question."
)
_ENOUGH: Final = (
    "Thought: I can answer without using any more tools. I'll use the user's language to answer"
)
_SHORT: Final = """You have access to the following tools:
{tools}
Use this format:
Thought: I need to use a tool.
Action: tool name (one of {names})
Action Input: the input in JSON
Observation: tool response
Thought: I can answer.
Answer: your answer"""
_LONG: Final = """You are designed to help with a variety of tasks, from answering questions to \
providing summaries to other types of analyses.

## Tools

You have access to a wide variety of tools. You are responsible for using the tools in any \
sequence you deem appropriate to complete the task at hand.
This may require breaking the task into subtasks and using different tools to complete each subtask.

You have access to the following tools:
{tools}

## Output Format

Please answer in the same language as the question and use the following format:

```
Thought: The current language of the user is: (user's language). I need to use a tool to help me \
answer the question.
Action: tool name (one of {names}) if using a tool.
Action Input: the input to the tool, in a JSON format representing the kwargs \
(e.g. {{"input": "hello world", "num_beams": 5}})
```

Please ALWAYS start with a Thought.

Please use a valid JSON format for the Action Input. Do NOT do this \
{{'input': 'hello world', 'num_beams': 5}}.

If this format is used, the tool will respond in the following format:

```
Observation: tool response
```

You should keep repeating the above format till you have enough information to answer the question \
without using any more tools. At that point, you MUST respond in one of the following two formats:

```
Thought: I can answer without using any more tools. I'll use the user's language to answer
Answer: [your answer here (In the same language as the user's question)]
```

## Current Conversation

Below is the current conversation consisting of interleaving human and assistant messages."""


def react(pool: Pool, *, long_share: float = 0.12, most: int = 1) -> Dialogue:
    """One to `most` requests."""
    skill = pool.pick(SKILLS)
    is_long = pool.chance(long_share)
    found = offer(pool, [skill], 2 if is_long else 4)
    tools = tools_of(found)
    described = "\n".join(_described(pool, tool) for tool in tools)
    names = ", ".join(tool.name for tool in tools)
    system = (_LONG if is_long else _SHORT).format(tools=described, names=names)
    turns: list[Turn] = []
    for at in range(1 if is_long else pool.rng.randint(1, most)):
        wanted = pool.pick(skills_of(found)) if at else skill
        turns += _exchange(pool, asked(pool, found, wanted))
    return Dialogue("react", tuple(turns), (), system)


def _exchange(pool: Pool, request: Request) -> list[Turn]:
    arguments = json.dumps(request.call.arguments, ensure_ascii=False)
    got, answer = request.result, request.answer
    if pool.chance(0.06):
        got = f"Error: {(what := error(pool))}"
        answer = failed(what)
    return [
        user(request.text),
        says(f"{_NEED}\nAction: {request.call.name}\nAction Input: {arguments}"),
        user(f"Observation: {got}"),
        says(f"{_ENOUGH}\nAnswer: {answer}"),
    ]


def _described(pool: Pool, tool: Tool) -> str:
    schema = tool.to_dict()["function"]["parameters"]
    if pool.chance(0.5):  # as pydantic writes it
        for name, about in schema["properties"].items():
            schema["properties"][name] = {"title": name.replace("_", " ").title(), **about}
        schema = {key: schema[key] for key in ("properties", "required", "type")}
    return (
        f"> Tool Name: {tool.name}\nTool Description: {tool.description}\n"
        f"Tool Args: {json.dumps(schema)}\n"
    )
