"""Approval requests and answers that cross processes, as files in the state directory.

    approvals/             0700, ours, no link
      <id>.ask             the question, by the kernel
      <id>.answer          the answer, by `aios approvals`

Both are encrypted if the state is encrypted. They survive a kernel that dies: when the same
request is made again, the next kernel continues with the old question and its answer. An
answer can be taken once.

Blocking; for threads and commands. Raises `StateError` if the folder is not safe.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from aios_core.access.approvals.approval import ApprovalAnswer, ApprovalRequest
from aios_core.errors import NoSuchObject, StateError
from aios_core.state import Cipher

ASK: Final = ".ask"
ANSWER: Final = ".answer"
MAX_BYTES: Final = 16 << 20


class ApprovalFiles:
    """The approval requests and answers in one state directory."""

    def __init__(self, state_directory: Path, cipher: Cipher) -> None:
        self.directory = state_directory / "approvals"
        self._cipher = cipher

    def post(self, request: ApprovalRequest, taken: frozenset[str], now: float) -> str:
        """Post a question and return its id; an equal question that still waits keeps its id.

        `taken` are the ids that already have a waiting caller.
        """
        for other in self.waiting(now):
            if other.digest == request.digest and other.id not in taken:
                request = replace(request, id=other.id)
                break
        self._write(request.id + ASK, asdict(request))
        return request.id

    def waiting(self, now: float) -> list[ApprovalRequest]:
        """List the open questions, the oldest first, and remove expired ones."""
        found = []
        for name in self._names(ASK):
            with suppress(StateError, TypeError):
                content = self._read(name)
                if content is None:
                    continue
                content["labels"] = tuple(content["labels"])
                content["also"] = tuple(content["also"])
                request = ApprovalRequest(**content)
                if request.expires_at <= now:
                    self.withdraw(request.id)
                else:
                    found.append(request)
        return sorted(found, key=lambda request: (request.asked_at, request.id))

    def find(self, prefix: str, now: float) -> ApprovalRequest:
        """Find the question with an id prefix. Raises `NoSuchObject` unless exactly one fits."""
        waiting = self.waiting(now)
        found = [request for request in waiting if prefix and request.id.startswith(prefix)]
        if len(found) != 1:
            raise NoSuchObject("approval", prefix, [request.id for request in waiting])
        return found[0]

    def answer(self, request: ApprovalRequest, answer: ApprovalAnswer) -> None:
        """Answer exactly this question, not a later one under its id."""
        self._write(request.id + ANSWER, {"digest": request.digest, **asdict(answer)})

    def is_answered(self, request_id: str) -> bool:
        """Return whether there is an answer that was not taken yet."""
        return request_id + ANSWER in self._names(ANSWER)

    def take(self, request_id: str, digest: str) -> ApprovalAnswer | None:
        """Take the answer, or None if there is none. An answer to another question is a no."""
        content = self._read(request_id + ANSWER)
        if content is None:
            return None
        self._remove(request_id + ANSWER)
        if content.pop("digest", None) != digest:
            return ApprovalAnswer(False, reason="the answer is to another question")
        return ApprovalAnswer(content["is_approved"] is True, content["by"], content["reason"])

    def withdraw(self, request_id: str) -> None:
        """Remove a question, and its answer if it has one."""
        self._remove(request_id + ASK)
        self._remove(request_id + ANSWER)

    # --- files -------------------------------------------------------------------------------

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the folder, created if necessary; it must belong to this user alone."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with suppress(FileExistsError):
                self.directory.mkdir(mode=0o700)
            folder = os.open(self.directory, flags)
        except OSError as exc:
            raise StateError(f"the approvals in {self.directory} cannot be used: {exc}") from exc
        try:
            found = os.fstat(folder)
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise StateError(
                    f"{self.directory} is not safe: others could answer in it. It has to belong to "
                    f"user {os.geteuid()} with mode 0700"
                )
            yield folder
        finally:
            os.close(folder)

    def _names(self, ending: str) -> list[str]:
        with self._opened() as folder:
            return [name for name in os.listdir(folder) if name.endswith(ending)]  # noqa: PTH208

    def _read(self, name: str) -> dict[str, Any] | None:
        with self._opened() as folder:
            try:
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            except FileNotFoundError:
                return None
            except OSError as exc:
                raise StateError(f"{self.directory / name} cannot be read: {exc}") from exc
            with os.fdopen(file, "rb") as stream:
                found = os.fstat(file)
                if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                    raise StateError(f"{self.directory / name} is not a file of this user")
                encrypted = stream.read(MAX_BYTES)
        stem, _, ending = name.rpartition(".")
        try:
            content = json.loads(self._cipher.decrypt(encrypted, "approval", ending, stem))
        except ValueError as exc:
            raise StateError(f"{self.directory / name} is damaged") from exc
        if not isinstance(content, dict):
            raise StateError(f"{self.directory / name} is damaged")
        return content

    def _write(self, name: str, content: dict[str, Any]) -> None:
        """Write a file atomically."""
        stem, _, ending = name.rpartition(".")
        encrypted = self._cipher.encrypt(json.dumps(content).encode(), "approval", ending, stem)
        part = f".{secrets.token_hex(8)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._opened() as folder:
            try:
                with os.fdopen(os.open(part, flags, 0o600, dir_fd=folder), "wb") as stream:
                    stream.write(encrypted)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            except OSError as exc:
                with suppress(OSError):
                    os.unlink(part, dir_fd=folder)
                raise StateError(f"{self.directory / name} cannot be written: {exc}") from exc

    def _remove(self, name: str) -> None:
        with self._opened() as folder, suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
