"""Family 5: plain talk of a few kinds, and repeating a text on request."""

from __future__ import annotations

from typing import Final

from models.tiny.data.dialogue import Dialogue, Turn, says, user
from models.tiny.data.execution import execute_tool
from models.tiny.data.offers import offer, system_prompt, tools_of
from models.tiny.data.pools import Pool
from models.tiny.data.skills import dress

_TALK: Final = (
    ("hi", "Hello! How can I help?"),
    ("hello", "Hello! How can I help?"),
    ("hey there", "Hello! How can I help?"),
    ("good morning", "Good morning! How can I help?"),
    ("good evening", "Good evening! How can I help?"),
    ("thanks", "You are welcome."),
    ("thank you", "You are welcome."),
    ("thank you very much", "You are welcome."),
    ("bye", "Goodbye!"),
    ("goodbye", "Goodbye!"),
    ("who are you?", "I am a small assistant that can call tools."),
    ("what are you?", "I am a small assistant that can call tools."),
    ("what can you do?", "I can call the tools I am given."),
    ("help", "I can call the tools I am given."),
    ("how are you?", "I am fine, thank you."),
    ("tell me a joke", "Why did the agent call a tool? It had no answer of its own."),
    ("tell me a story", "Once there was a small model. It called a tool, and all was well."),
    ("ok", "Good. What else can I do?"),
)
_SAY: Final = ("repeat: {}", "say {}", "repeat after me: {}", "say: {}", "echo {}")


def small_talk(pool: Pool) -> list[Turn]:
    said, answer = pool.pick(_TALK)
    said = said[0].upper() + said[1:] if pool.chance(0.5) else said
    if not said.endswith("?") and pool.chance(0.3):
        said += pool.pick("!.")
    return [user(said), says(answer)]


def talk(pool: Pool, *, execute_share: float = 0.0) -> Dialogue:
    """`execute_share`: of the dialogues that offer `execute` alone, as Open Interpreter does."""
    tools = tools_of(offer(pool, [], 5)) if pool.chance(0.6) else ()
    if execute_share and pool.chance(execute_share):
        tools = (execute_tool(pool),)
    turns = [turn for _ in range(pool.pick((1, 1, 2))) for turn in small_talk(pool)]
    return Dialogue("talk", tuple(turns), tools, system_prompt(pool))


def echo(pool: Pool) -> Dialogue:
    tools = tools_of(offer(pool, [], 3)) if pool.chance(0.2) else ()
    text = pool.text(10) if pool.chance(0.8) else pool.key()
    turns = (user(dress(pool, pool.pick(_SAY).format(text))), says(text))
    return Dialogue("echo", turns, tools)
