"""Keep secrets out of everything that people and programs are shown.

The kernel learns a secret where it reads it (`learn`): a core's key, the state's key, the
variables `AIOS_*` that hold one. Texts of others enter through `redact`: every `KernelError`,
every event's facts, every foreign exception (`scrub`). Settings are shown through
`shown_setting`, which goes by their names.

Learned secrets are kept for the life of the process, as the environment is that they come
from. Pure, but for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Final
from urllib.parse import quote

REDACTED: Final = "[redacted]"
MIN_CHARS: Final = 6  # a shorter text is part of too much to be taken out of it
MAX_SHOWN: Final = 500  # characters of a value in a message
_MAX_CAUSES: Final = 20
_MAX_DEPTH: Final = 8  # of what is shown of nested data
_SECRET_NAME: Final = re.compile(
    r"(^|[_\-.\[])(api_?key|auth|authorization|credentials?|encryption_?key|key|pass(wd|word|phrase)|"
    r"secret(_?key)?|token)\]?$",
    re.IGNORECASE,
)
# Forms of secrets: a part of every such text, the pattern, and the part that stays visible.
_SECRET_FORMS: Final = (
    ("://", re.compile(r"(?<=://)[^/@\s:]+:[^/@\s]+(?=@)"), REDACTED),
    ("Bearer ", re.compile(r"\b(Bearer)\s+(?=\S*\d)[\w.~+/\-]{8,}=*"), rf"\1 {REDACTED}"),
    ("", re.compile(r"\b(sk-|pk-|gsk_|xai-|hf_|nvapi-)(?=[\w*\-]*[\d*])[\w*\-]{14,}"), REDACTED),
    ("AIza", re.compile(r"\bAIza[\w\-]{20,}"), REDACTED),
)
_KEY_FORM: Final = re.compile(r"[A-Za-z0-9+/_\-]{24,}=*")  # hexadecimal or base64
_NAMES_A_FILE: Final = "encryption_key"  # a setting that is a file's name, unless it is a mistake

# Read through `BaseException` itself: a property of a foreign class is foreign code.
_of: Final[dict[str, Any]] = {
    name: BaseException.__dict__[name] for name in ("args", "__cause__", "__context__", "__dict__")
}

_known: set[str] = set()
_longest_first: tuple[str, ...] = ()


def learn(*secrets: str | None) -> None:
    """Remove these texts from everything shown from now on. Ignores None and short texts."""
    global _longest_first  # noqa: PLW0603 - see the head of the file
    new = {secret.strip() for secret in secrets if secret}
    new = {secret for secret in new if len(secret) >= MIN_CHARS}
    new |= {quote(secret, safe="") for secret in new}
    if not new <= _known:
        _known.update(new)
        _longest_first = tuple(sorted(_known, key=len, reverse=True))


def learn_settings(settings: Mapping[str, Any]) -> None:
    """Learn values as secrets by their names: headers, options, attributes."""
    learn(
        *(
            value
            for name, value in settings.items()
            if type(value) is str and is_secret(name) and not is_reference(name, value)
        )
    )


def is_secret(name: object) -> bool:
    """Return whether a setting of that name holds a secret."""
    return isinstance(name, str) and _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """Return a text without its secrets: those that were learned and those known by form."""
    for secret in _longest_first:
        if secret in text:
            text = text.replace(secret, REDACTED)
    for part, form, instead in _SECRET_FORMS:
        if part in text:
            text = form.sub(instead, text)
    return text


def shown_setting(name: str, value: Any, depth: int = _MAX_DEPTH) -> Any:
    """A setting as it may be shown. A reference (`env:NAME`), a path or a name stays."""
    if not depth and type(value) in (dict, list, tuple):
        return "..."
    if type(value) is dict:
        return {
            key: shown_setting(key if type(key) is str else "", inner, depth - 1)
            for key, inner in value.items()
        }
    if type(value) in (list, tuple):
        return type(value)(shown_setting(name, inner, depth - 1) for inner in value)
    if type(value) is not str:
        return value
    if is_secret(name) and not is_reference(name, value):
        return REDACTED
    return redact(value)


def shown_repr(value: Any) -> str:
    """A bounded `repr` that does not raise, for messages."""
    text = printable(_repr(value))
    return redact(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - it is foreign code, or nested too deeply
        return f"<{type(value).__name__}>"


def printable(text: str) -> str:
    """The text with halves of surrogate pairs written out, so that it can be written anywhere."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def visible(text: str) -> str:
    """Return the text with control characters written out, so that no terminal obeys them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class RedactedRepr:
    """For dataclasses: a `repr` that shows no secret. Put it before other bases."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = (
            f"{item.name}={_repr(shown_setting(item.name, getattr(self, item.name)))}"
            for item in fields(self)  # type: ignore[arg-type]
            if item.repr
        )
        return f"{type(self).__qualname__}({', '.join(shown)})"


def scrub(exc: BaseException) -> BaseException:
    """Take secrets out of a foreign exception and its causes, in place, before it is kept."""
    one: BaseException | None = exc
    for _ in range(_MAX_CAUSES):
        if one is None:
            break
        _scrub_itself(one)
        one = _of["__cause__"].__get__(one) or _of["__context__"].__get__(one)
    return exc


def _scrub_itself(exc: BaseException) -> None:
    args = _of["args"].__get__(exc)
    if any(type(value) is str and redact(value) != value for value in args):
        _of["args"].__set__(exc, shown_texts(args))
    attributes = _of["__dict__"].__get__(exc)
    if type(attributes) is dict:
        for name, value in tuple(attributes.items()):
            attributes[name] = redact_values(value)


def redact_values(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """Plain data without the secrets in its texts."""
    if type(value) is str:
        return redact(value)
    if depth and type(value) is dict:
        return {key: redact_values(inner, depth - 1) for key, inner in value.items()}
    if depth and type(value) in (list, tuple):
        return type(value)(redact_values(inner, depth - 1) for inner in value)
    return value


def is_reference(name: str, value: str) -> bool:
    """Return whether a setting names a secret, or where it is, rather than being it."""
    if not value or value.startswith("env:"):
        return True
    if name.lower().endswith(_NAMES_A_FILE) and _KEY_FORM.fullmatch(value) is None:
        return True
    return value.startswith(("/", "./", "../", "~/"))


def learn_environment(environ: Mapping[str, str]) -> None:
    """Learn the secrets of the kernel's own variables: `AIOS_API_KEY` and the like."""
    learn_settings({name: environ[name] for name in environ if name.startswith("AIOS_")})


def shown_texts(values: Iterable[Any]) -> tuple[Any, ...]:
    """Redact the texts among an exception's arguments; other values stay."""
    return tuple(printable(redact(value)) if type(value) is str else value for value in values)
