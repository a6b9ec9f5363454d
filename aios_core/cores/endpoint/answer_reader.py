"""The contract of what turns the chunks of one answer into progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from aios_core.core import Progress
from aios_core.messages import Completion


class AnswerReader(Protocol):
    """A reader of one answer's chunks. Pure, and it does not wait."""

    is_done: bool  # the stream was marked as ended
    is_foreign: bool  # the body has parts that do not belong to an answer
    is_document: bool  # the answer is one JSON document

    @property
    def has_begun(self) -> bool:
        """Whether any part of the answer has come."""

    @property
    def is_whole(self) -> bool:
        """Whether the server marked the answer as complete."""

    def read(self, chunk: Any) -> Sequence[Progress]:
        """Read a chunk; return the progress, if it has any. Raises if it is malformed."""

    def completion(self) -> Completion:
        """Return the whole answer."""
