"""Join characters that a server cut in two, as halves of a surrogate pair."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SurrogateJoiner:
    """The state of one text that arrives in pieces."""

    half: str = ""  # the first half of a pair that was cut in two

    def join(self, text: str) -> str:
        """Return the next piece with whole characters only; half a character becomes U+FFFD."""
        text, self.half = self.half + text, ""
        if text.isascii():
            return text
        if "\ud800" <= text[-1] <= "\udbff":
            text, self.half = text[:-1], text[-1]
        return repaired(text)


def repaired(text: str) -> str:
    """Join surrogate pairs of a text; a lone surrogate becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
