"""Names close to a misspelled one."""

import difflib
from collections.abc import Iterable

_MAX_COMPARED = 100  # names that a misspelled one is compared with, and letters of it


def suggest_name(wrong: object, known: list[str]) -> str:
    """Suggest a name as `suggest` does; nothing for a number, a foreign object or a long list."""
    # The comparison takes long for many names, and errors are made on the kernel's loop.
    if type(wrong) is not str or wrong.isdecimal() or len(wrong) > _MAX_COMPARED:
        return ""
    return suggest(wrong, known) if len(known) <= _MAX_COMPARED else ""


def suggest(wrong: str, known: Iterable[str]) -> str:
    """Return a phrase that names the closest of the known names; empty if none is close."""
    close = difflib.get_close_matches(wrong, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def unknown_name(what: str, wrong: str, known: Iterable[str]) -> str:
    """Return what is allowed in place of an unknown key or option, the closest name first."""
    names = list(known)
    hint = f"{phrase} " if (phrase := suggest(wrong, names)) else ""
    listed = f"the {what}s here are: {', '.join(names)}" if names else f"there are no {what}s here"
    return f"no value, because there is no such {what}; {hint}{listed}"
