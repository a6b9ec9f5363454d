"""The tools that the model knows by name, and how people ask for them.

They are those of the project's plug-ins and demo. Each has a few other names,
parameters and descriptions, as other authors would choose them. How requests are
worded is known to both sides; what is asked for is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from models.tiny.data.dialogue import Call, Param, Tool
from models.tiny.data.pools import Pool

_OPERATORS: Final = {
    "+": ("+", "plus"),
    "-": ("-", "minus"),
    "*": ("*", "times", "x"),
    "/": ("/", "divided by", "over"),
}
_EQUAL: Final = 0.1  # of the numbers of a sum: the one before again
_BRACKETS: Final = 0.2  # of the sums of training
_SIGNS: Final = ("+", "-", "*", "/", "+", "-", "*", "/", "**", "%", "//")
LANGUAGES: Final = (
    "French", "German", "Spanish", "Italian", "Dutch", "Polish", "Latin", "Greek", "Danish",
)  # fmt: skip
_SKY: Final = ("sunny", "rain", "cloudy", "snow", "windy", "fog", "storm", "clear")


@dataclass(frozen=True, slots=True)
class Request:
    """A task: the request, the call that does it, its result, the final answer."""

    text: str
    call: Call
    result: str
    answer: str


@dataclass(frozen=True, slots=True)
class Skill:
    """A thing that a tool does. The first of the alternatives is the tool of our plug-ins."""

    names: Sequence[str]
    params: Sequence[Sequence[str]]  # alternatives for each
    descriptions: Sequence[str]
    phrases: Sequence[str]  # {0}, {1}: the words for each argument
    values: Callable[[Pool], Sequence[tuple[str, Any]]]  # the words and the value of each argument
    results: Callable[[Pool], str]
    answer: str  # {0}, {1}: the arguments; {r}: the result
    loose: Sequence[str] = ()  # phrases that a rival would claim where it is offered
    rivals: Sequence[str] = ()
    types: Sequence[str] = ("string",) * 3
    wish: str = ""  # within a chain
    given: str = ""  # within a chain, where the last argument is the result before
    brief: str = ""  # the answer at the end of a chain, instead of `answer`

    @property
    def name(self) -> str:
        return self.names[0]

    def offer(self, pool: Pool, plain: float = 0.6, novel: float = 0.12) -> Tool:
        """The tool: as our plug-ins have it in `plain` of all cases; names made up in `novel`."""
        if pool.chance(plain):
            return self._tool(self.name, [names[0] for names in self.params], pool)
        if pool.chance(novel / (1 - plain)):
            params = distinct(pool.identifier, len(self.params))
            return self._tool(pool.identifier(), params, pool)
        return self._tool(pool.pick(self.names), [pool.pick(names) for names in self.params], pool)

    def _tool(self, name: str, params: Sequence[str], pool: Pool) -> Tool:
        typed = tuple(Param(*both) for both in zip(params, self.types, strict=False))
        return Tool(name, described_as(pool, pool.pick(self.descriptions), name, typed), typed)

    def ask(self, pool: Pool, tool: Tool, offered: Sequence[Skill] = ()) -> Request:
        """Ask for it with new values, with words that no rival among those offered would claim."""
        rivals = {skill.name for skill in offered} & set(self.rivals)
        phrase = pool.pick(self.phrases if rivals else (*self.phrases, *self.loose))
        values = self.values(pool)
        text = phrase.format(*(said for said, _ in values))
        return self.request(pool, tool, dress(pool, text, tool), [meant for _, meant in values])

    def request(self, pool: Pool, tool: Tool, text: str, meant: Sequence[Any]) -> Request:
        call = Call(
            tool.name, {param.name: value for param, value in zip(tool.params, meant, strict=True)}
        )
        got = self.results(pool)
        return Request(text, call, got, self.answer.format(*meant, r=got))


def described_as(pool: Pool, text: str, name: str, params: Sequence[Param]) -> str:
    """A description as other authors, or frameworks that derive it from code, would write it."""
    kind = pool.rng.random()
    if kind < 0.15:
        return text[:1].upper() + text[1:].rstrip(".") + "."
    if kind < 0.2:
        kinds = {"string": "str", "integer": "int", "number": "float"}
        signature = ", ".join(f"{param.name}: {kinds[param.type]}" for param in params)
        return f"{name}({signature}) -> str {text}"
    return text


def distinct(make: Callable[[], str], count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        if (made := make()) not in found:
            found.append(made)
    return found


def dress(pool: Pool, text: str, tool: Tool | None = None) -> str:
    """The request as different people would put it."""
    kind = pool.rng.random()
    if kind < 0.06:
        text = f"please {text}"
    elif kind < 0.09:
        text = f"{text}, please"
    elif kind < 0.14 and tool is not None:
        text = pool.pick(
            ("use the {t} tool: {q}", "{q} Use the {t} tool.", "{q} (with {t})", "use {t}: {q}")
        ).format(t=tool.name, q=text)
    return text[0].upper() + text[1:] if pool.chance(0.5) else text


# --- values and results ---------------------------------------------------------------------------


def _arithmetic(pool: Pool) -> list[tuple[str, str]]:
    if not pool.held_out and pool.chance(_BRACKETS):
        text = _bracketed(pool)
        return [(text, text)]
    said = meant = number = _operand(pool)
    for _ in range(pool.pick((1, 1, 1, 1, 2, 3))):
        sign, number = pool.pick("+-*/"), number if pool.chance(_EQUAL) else _operand(pool)
        said += f" {pool.pick(_OPERATORS[sign])} {number}"
        meant += f" {sign} {number}"
    if pool.chance(0.1):
        said = meant = f"({meant}) {(sign := pool.pick('+-*/'))} {_operand(pool)}"
    elif pool.chance(0.06):
        said = meant = meant.replace(" ", "")
    return [(said, meant)]


def _bracketed(pool: Pool) -> str:
    """Brackets anywhere, and rarer operators; of training alone."""

    def term(depth: int) -> str:
        if depth and pool.chance(0.5):
            return f"({term(depth - 1)} {pool.pick(_SIGNS)} {term(depth - 1)})"
        return _operand(pool)

    text = f"{term(2)} {pool.pick(_SIGNS)} {term(2)}"
    return text.replace(" ", "") if pool.chance(0.3) else text


def _operand(pool: Pool) -> str:
    return f"{pool.number(3)}.{pool.number(2)}" if pool.chance(0.06) else pool.number(5)


def _outcome(pool: Pool) -> str:
    kind = pool.rng.random()
    if kind < 0.7:
        return pool.number(7)
    return f"-{pool.number(4)}" if kind < 0.82 else f"{pool.number(3)}.{pool.number(3)}"


def _two_numbers(pool: Pool) -> list[tuple[str, Any]]:
    first = pool.number(4)
    second = first if pool.chance(_EQUAL) else pool.number(4)
    return [(number, int(number)) for number in (first, second)]


def _one(make: Callable[[Pool], str]) -> Callable[[Pool], list[tuple[str, str]]]:
    def values(pool: Pool) -> list[tuple[str, str]]:
        value = make(pool)
        return [(value, value)]

    return values


def _both(
    first: Callable[[Pool], str], second: Callable[[Pool], str]
) -> Callable[[Pool], list[tuple[str, str]]]:
    def values(pool: Pool) -> list[tuple[str, str]]:
        return [(value, value) for value in (first(pool), second(pool))]

    return values


def _stored(pool: Pool) -> str:
    return pool.pick(("ok", "saved", "done", "OK", f"id {pool.number(4)}", "Saved."))


def _sent(pool: Pool) -> str:
    return pool.pick(("ok", "sent", "delivered", f"id {pool.number(4)}", "Sent."))


def _found(pool: Pool) -> str:
    return pool.text(5) if pool.chance(0.7) else pool.number()


def _time(pool: Pool) -> str:
    time = f"{pool.rng.randint(0, 23):02d}:{pool.rng.randint(0, 59):02d}"
    if pool.chance(0.3):
        time = f"{pool.date(pool.rng.randint(10, 28))} {time}"
    return time


def _sky(pool: Pool) -> str:
    sky = pool.pick(_SKY)
    return pool.pick(("{n} degrees, {s}", "{n} degrees and {s}", "{s}, {n} C", "{s}")).format(
        n=pool.number(2), s=sky
    )


def _names(pool: Pool) -> str:
    return ", ".join(pool.path().rpartition("/")[2] for _ in range(pool.rng.randint(1, 3)))


def _topic(pool: Pool) -> str:
    return pool.text(4)


def _address(pool: Pool) -> str:
    host = f"{pool.pick(('https', 'http'))}://{pool.word()}.{pool.pick(('com', 'org', 'io'))}"
    return host if pool.chance(0.4) else f"{host}/{pool.word()}"


def _code(pool: Pool) -> str:
    kind = pool.rng.random()
    if kind < 0.5:
        return f"print({pool.number(3)} {pool.pick('+-*/')} {pool.number(3)})"
    if kind < 0.75:
        return f"len('{pool.word()}')"
    return f"sum(range({pool.number(3)}))"


def _command(pool: Pool) -> str:
    kind = pool.rng.random()
    if kind < 0.5:
        return f"{pool.pick(('ls', 'cat', 'rm', 'wc -l', 'du -sh'))} {pool.path()}"
    return f"echo {pool.text(3)}" if kind < 0.75 else f"{pool.word()} --{pool.word()}"


# --- the skills -----------------------------------------------------------------------------------

SKILLS: Final = (
    Skill(
        ("calculator", "calc", "math_eval", "compute", "calculate"),
        (("expression", "expr", "input"),),
        (
            "Evaluates an arithmetic expression.",
            "Calculate the value of an expression.",
            "do math",
            "evaluate arithmetic",
            "A calculator.",
        ),
        (
            "what is {0}?",
            "compute {0}",
            "calculate {0}",
            "how much is {0}?",
            "{0}",
            "work out {0}",
            "{0} = ?",
            "can you do {0}?",
            "I need the result of {0}",
            "what's {0}",
        ),
        _arithmetic,
        _outcome,
        "The result is {r}.",
        wish="compute {0}",
    ),
    Skill(
        ("clock", "get_time", "now", "current_time"),
        (),
        ("Tells the current time.", "current time", "Get the date and time.", "A clock."),
        (
            "what time is it?",
            "tell me the time",
            "what is the time?",
            "current time",
            "what time is it now?",
            "what is the date today?",
            "do you know the time?",
        ),
        lambda _pool: [],
        _time,
        "It is {r}.",
        wish="get the time",
    ),
    Skill(
        ("weather", "get_weather", "forecast"),
        (("city", "location", "place"),),
        (
            "Tells the weather in a city.",
            "weather for a place",
            "Get the weather of a city.",
            "Weather forecast for a given location.",
        ),
        (
            "what is the weather in {0}?",
            "weather in {0}",
            "how is the weather in {0} today?",
            "is it warm in {0}?",
            "tell me the forecast for {0}",
            "what is the weather like in {0}?",
            "do I need an umbrella in {0}?",
            "how warm is it in {0}?",
        ),
        _one(Pool.city),
        _sky,
        "In {0} it is {r}.",
        wish="get the weather in {0}",
    ),
    Skill(
        ("lookup", "db_get", "find_record", "search"),
        (("key", "query", "name"),),
        (
            "Looks up the value of a key.",
            "look up a value",
            "search the database",
            "Get a record from the database by its key.",
        ),
        (
            "look up {0}",
            "what is the value of {0}?",
            "find {0} in the database",
            "get the record for {0}",
            "look {0} up",
            "what does the database say about {0}?",
        ),
        _one(Pool.key),
        _found,
        "The value of {0} is {r}.",
        loose=("search for {0}", "what do you know about {0}?"),
        rivals=("search", "recall"),
        wish="look up {0}",
    ),
    Skill(
        ("save_note", "remember", "write_note", "add_note"),
        (("text", "content", "note"),),
        ("Saves a note.", "save a note", "Write a text down as a note.", "store a note for later"),
        (
            "save a note: {0}",
            "note down {0}",
            "write this down: {0}",
            "make a note: {0}",
            "make a note that {0}",
            "take a note: {0}",
            "save the note {0}",
        ),
        _one(Pool.text),
        _stored,
        "Noted: {0}.",
        loose=("remember that {0}", "please store {0}"),
        rivals=("remember", "write_file"),
        wish="make a note: {0}",
        given="save {r} as a note",
        brief="Noted.",
    ),
    Skill(
        ("send_message", "notify", "mail", "send_email"),
        (("to", "recipient", "user"), ("text", "message", "body")),
        ("Sends a message to a person.", "send a message", "Send someone a text message."),
        (
            "tell {0} that {1}",
            "send {0} the message {1}",
            "message {0}: {1}",
            "let {0} know that {1}",
            "send a message to {0}: {1}",
            "write to {0}: {1}",
        ),
        _both(Pool.person, Pool.text),
        _sent,
        "I sent it to {0}.",
        wish="tell {0} that {1}",
        given="send {r} to {0}",
    ),
    Skill(
        ("search", "web_search", "search_web"),
        (("query", "q", "text"),),
        ("Searches the web.", "Search the internet for pages.", "search the web for a query"),
        (
            "search the web for {0}",
            "search for {0}",
            "find pages about {0}",
            "google {0}",
            "search {0} on the web",
            "what does the web say about {0}?",
        ),
        _one(_topic),
        lambda pool: pool.text(5),
        "I found: {r}.",
        wish="search for {0}",
    ),
    Skill(
        ("read_file", "open_file", "cat"),
        (("path", "file", "filename"),),
        ("Reads a file.", "read the content of a file", "Get the text in a file."),
        (
            "read {0}",
            "read the file {0}",
            "what is in {0}?",
            "show me {0}",
            "open {0}",
            "show the content of {0}",
            "what does {0} contain?",
        ),
        _one(Pool.path),
        lambda pool: pool.text(5),
        "{0} contains: {r}.",
        wish="read {0}",
    ),
    Skill(
        ("write_file", "save_file", "create_file"),
        (("path", "file", "filename"), ("content", "text", "data")),
        ("Writes a file.", "write text to a file", "Save content in a file."),
        (
            "write {1} to {0}",
            "create {0} with the content {1}",
            "write to {0}: {1}",
            "save {1} in the file {0}",
            "put {1} into {0}",
            "create the file {0}: {1}",
        ),
        _both(Pool.path, Pool.text),
        _stored,
        "I wrote {0}.",
        wish="write {1} to {0}",
        given="write {r} to {0}",
    ),
    Skill(
        ("list_files", "ls", "list_directory"),
        (("path", "folder", "directory"),),
        ("Lists the files in a folder.", "list files", "Show which files a directory holds."),
        (
            "list the files in {0}",
            "which files are in {0}?",
            "list {0}",
            "ls {0}",
            "show the files in {0}",
            "what files are there in {0}?",
        ),
        _one(Pool.folder),
        _names,
        "The files in {0} are: {r}.",
        wish="list the files in {0}",
    ),
    Skill(
        ("remember", "store", "set_value"),
        (("key", "name", "topic"), ("value", "fact", "content")),
        ("Remembers a value under a key.", "Stores a fact for later.", "remember something"),
        (
            "remember that {0} is {1}",
            "remember {0}: {1}",
            "keep in mind that {0} is {1}",
            "store {1} under {0}",
            "remember {1} as {0}",
            "set {0} to {1}",
        ),
        _both(Pool.key, lambda pool: pool.text(4)),
        _stored,
        "I will remember {0}.",
        wish="remember {0}: {1}",
        given="remember {r} as {0}",
    ),
    Skill(
        ("recall", "get_memory", "retrieve"),
        (("key", "name", "topic"),),
        ("Recalls what was remembered under a key.", "Get a stored fact.", "recall a memory"),
        (
            "recall {0}",
            "what did I ask you to remember about {0}?",
            "what did I say about {0}?",
            "what do you remember about {0}?",
            "recall what I said about {0}",
        ),
        _one(Pool.key),
        _found,
        "You told me about {0}: {r}.",
        wish="recall {0}",
    ),
    Skill(
        ("translate", "translate_text"),
        (("text", "sentence"), ("language", "to")),
        ("Translates a text into another language.", "translate text"),
        (
            "translate {0} into {1}",
            "what is {0} in {1}?",
            "how do you say {0} in {1}?",
            "translate {0} to {1}",
        ),
        _both(lambda pool: pool.text(4), lambda pool: pool.pick(LANGUAGES)),
        lambda pool: pool.text(4),
        "In {1} it is: {r}.",
        wish="translate {0} into {1}",
    ),
    Skill(
        ("fetch", "http_get", "fetch_url", "get_page"),
        (("url", "address", "link"),),
        ("Fetches a web page.", "get the page at a URL", "Fetch a URL and return its text."),
        (
            "fetch {0}",
            "get the page {0}",
            "download {0}",
            "what does the page {0} say?",
            "fetch the page at {0}",
        ),
        _one(_address),
        lambda pool: pool.text(5),
        "The page says: {r}.",
        wish="fetch {0}",
    ),
    Skill(
        ("python", "run_python", "python_repl"),
        (("code", "source", "script"),),
        ("Runs Python code.", "run python", "Execute a piece of Python and return what it prints."),
        (
            "run the python code {0}",
            "run {0} in python",
            "execute this python: {0}",
            "what does {0} give in python?",
        ),
        _one(_code),
        _found,
        "The output is: {r}.",
        wish="run the python code {0}",
    ),
    Skill(
        ("shell", "bash", "run_command"),
        (("command", "cmd", "line"),),
        ("Runs a shell command.", "run a command", "Execute a command in the shell."),
        (
            "run the command {0}",
            "run {0} in the shell",
            "execute the command {0}",
            "what does the command {0} print?",
        ),
        _one(_command),
        _found,
        "The command printed: {r}.",
        wish="run the command {0}",
    ),
)


def _typed(name: str, others: Sequence[str], described: str, phrases: Sequence[str]) -> Skill:
    return Skill(
        (name, *others),
        (("a", "x", "first"), ("b", "y", "second")),
        (described, f"{described[:-1]} and returns the result."),
        phrases,
        _two_numbers,
        _outcome,
        "The result is {r}.",
        types=("integer", "integer"),
    )


# Small tools with numbers, as tutorials have them. Never offered together with the calculator.
NUMERIC: Final = (
    _typed("add", ("add_numbers", "sum"), "Adds two numbers.",
           ("what is {0} plus {1}?", "add {0} and {1}", "{0} + {1}", "add {0} to {1}")),
    _typed("multiply", ("mul", "product"), "Multiplies two numbers.",
           ("what is {0} times {1}?", "multiply {0} by {1}", "{0} * {1}", "multiply {0} and {1}")),
    _typed("subtract", ("sub", "minus"), "Subtracts two numbers.",
           ("what is {0} minus {1}?", "{0} - {1}", "take {0} minus {1}")),
    _typed("divide", ("div", "quotient"), "Divides two numbers.",
           ("what is {0} divided by {1}?", "divide {0} by {1}", "{0} / {1}")),
)  # fmt: skip

SIX: Final = ("calculator", "weather", "lookup", "save_note", "send_message", "clock")
BY_NAME: Final = {skill.name: skill for skill in (*SKILLS, *NUMERIC)}
