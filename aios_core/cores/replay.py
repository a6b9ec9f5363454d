"""Record the requests and answers of a core, and replay them offline.

    core = RecordingCore(OpenAICore(...), "run.jsonl")     # once, with the real endpoint
    core = ReplayCore("run.jsonl")                         # in every test after that

A recording is a JSONL file: a header, then one line for each answer, with its request,
its deltas and its completion. A request is identified by a hash of everything that can
change its answer. Ids of tool calls are replaced by numbers in order of appearance, since
many backends choose them at random. Failures are not recorded.

`RecordingCore` writes in a thread of its own, from `start` to `close`, so that the
kernel's loop never waits for the disk. Its lock guards the runs without an answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TextIO

from aios_core.core import (
    Capabilities,
    Core,
    CoreLoad,
    Failed,
    Finished,
    Prepared,
    Progress,
    Report,
    ReportSink,
    Run,
    Stopped,
    count_prompt,
)
from aios_core.cores.answer_format import (
    decode_completion,
    decode_delta,
    encode_completion,
    encode_delta,
)
from aios_core.cores.scripted import ScriptedAnswer, ScriptedCore
from aios_core.cores.streaming import answering_model
from aios_core.errors import ModelLoadError, NoSuchObject
from aios_core.messages import Completion, Delta, ResponseFormat
from aios_core.private_files import open_private
from aios_core.shielding import finish_shielded
from aios_core.syscalls import LLMGenerate

log = logging.getLogger(__name__)

FORMAT: Final = 2
_FORMATS: Final = (1, FORMAT)  # that can be read
_UNFINISHED_KEPT: Final = 10_000  # runs without an answer for which deltas are kept


def canonical(request: LLMGenerate, model: str) -> dict[str, Any]:
    """Return everything in a request that can change its answer, as a JSON object."""
    numbers: dict[str, int] = {}
    messages = [_plain(message.to_dict()) for message in request.messages]
    for message in messages:
        for call in message.get("tool_calls", ()):
            call["id"] = numbers.setdefault(call["id"], len(numbers))
        if "tool_call_id" in message:
            message["tool_call_id"] = numbers.setdefault(message["tool_call_id"], len(numbers))
    wanted = request.response_format
    return {
        "model": model,
        "messages": messages,
        "tools": [tool.to_dict() for tool in request.tools],
        "tool_choice": request.tool_choice,
        "parallel_tool_calls": request.parallel_tool_calls,
        "response_format": None if wanted is None else _plain(wanted.to_dict()),
        "sampling": _plain(request.sampling.to_dict()),
        "extra": _plain(request.extra),
    }


def fingerprint(asked: Mapping[str, Any]) -> str:
    """Hash a canonical request."""
    text = json.dumps(asked, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


class RecordingCore:
    """A core that forwards everything to another one and records the answers.

    The first `start` replaces the file; a start after a `CoreDown` appends to it.
    """

    def __init__(self, core: Core, path: str | Path) -> None:
        self._core = core
        self._path = Path(path)
        self._sink: ReportSink | None = None
        self._recorder: _Recorder | None = None
        self._was_started = False
        self._lock = threading.Lock()  # guards _asked and _deltas
        self._asked: dict[int, LLMGenerate] = {}
        self._deltas: OrderedDict[int, list[Delta]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<RecordingCore {self._core!r} to {self._path}>"

    @property
    def name(self) -> str:
        return self._core.name

    @property
    def models(self) -> Sequence[str]:
        return self._core.models

    @property
    def capabilities(self) -> Capabilities:
        return self._core.capabilities

    async def start(self, sink: ReportSink) -> None:
        """Open the file and start the core. Raises `BackendError` if either fails."""
        self._sink = sink
        is_new = self._recorder is None
        if self._recorder is None:
            self._recorder = await asyncio.to_thread(
                _Recorder, self._path, append=self._was_started
            )
        try:
            await self._core.start(self._take)
        except BaseException:
            await finish_shielded(asyncio.to_thread(self._close_recorder))
            raise
        if is_new:
            self._was_started = True
            window = self._core.capabilities.context_window
            self._recorder.write(
                {"format": FORMAT, "models": list(self.models), "context_window": window}
            )

    def prepare(self, request: LLMGenerate) -> Prepared | Awaitable[Prepared]:
        return self._core.prepare(request)

    async def count_prompt(self, request: LLMGenerate) -> int | None:
        """Count with the recorded core."""
        return await count_prompt(self._core, request)

    def run(self, run: Run) -> None:
        with self._lock:
            self._asked[run.id] = run.request
            if run.snapshot is None:
                self._deltas[run.id] = []
            while len(self._deltas) > _UNFINISHED_KEPT:
                self._deltas.popitem(last=False)
        self._core.run(run)

    def preempt(self, run_id: int) -> None:
        self._core.preempt(run_id)

    def cancel(self, run_id: int) -> None:
        self._core.cancel(run_id)

    def load(self) -> CoreLoad:
        return self._core.load()

    async def close(self) -> None:
        """Close the core, and the file once everything is written. Idempotent."""
        try:
            await self._core.close()
        finally:
            await finish_shielded(asyncio.to_thread(self._close_recorder))

    def _close_recorder(self) -> None:
        if self._recorder:
            self._recorder.close()
            self._recorder = None

    def _take(self, reports: Sequence[Report]) -> None:
        """Record deltas and answers, and forward all reports in order."""
        for report in reports:
            self._note(report)
        if self._sink:
            self._sink(reports)

    def _note(self, report: Report) -> None:
        with self._lock:
            match report:
                case Progress(run_id, _, delta) if delta and run_id in self._deltas:
                    self._deltas[run_id].append(delta)
                case Finished(run_id, completion):
                    deltas = self._deltas.pop(run_id, [])
                    self._write(self._asked.pop(run_id), deltas, completion)
                case Failed(run_id) | Stopped(run_id):
                    self._deltas.pop(run_id, None)
                    self._asked.pop(run_id, None)
                case _:
                    pass

    def _write(self, request: LLMGenerate, deltas: list[Delta], completion: Completion) -> None:
        if self._recorder is None:
            return
        model = answering_model(request, self.models)
        self._recorder.write(
            {
                "asked": canonical(request, model),
                "deltas": [encode_delta(delta) for delta in deltas],
                "answer": encode_completion(completion),
            }
        )


class _Recorder:
    """A writer of JSON lines to a file, in a thread of its own, in order of the calls."""

    def __init__(self, path: Path, *, append: bool) -> None:
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        try:
            flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
            file = os.fdopen(open_private(path, flags), "a" if append else "w", encoding="utf-8")
        except OSError as exc:
            raise ModelLoadError(f"cannot write the recording {path}: {exc}") from exc
        self._thread = threading.Thread(
            target=self._work, args=(file,), name=f"recording-{path.name}", daemon=True
        )
        self._thread.start()

    def write(self, entry: Mapping[str, Any]) -> None:
        self._lines.put(json.dumps(entry, ensure_ascii=False))

    def close(self) -> None:
        """Wait until everything is written, and close the file."""
        self._lines.put(None)
        self._thread.join()

    def _work(self, file: TextIO) -> None:
        with file:
            while (line := self._lines.get()) is not None:
                try:
                    file.write(line + "\n")
                    file.flush()
                except OSError as exc:  # a full disk must not fail the run itself
                    log.warning("the recording %s lacks an answer: %r", file.name, exc)


@dataclass(frozen=True, slots=True)
class _RecordedCall:
    asked: Mapping[str, Any]
    answer: ScriptedAnswer

    @property
    def prompt(self) -> str:
        return _last_content(self.asked)

    @property
    def completion(self) -> Completion:
        assert isinstance(self.answer.end, Completion)  # noqa: S101 - only answers are recorded
        return self.answer.end


class ReplayCore(ScriptedCore):
    """A core that answers from a recording, without delay or with `token_s` for each delta.

    A repeated request gets the next answer that was recorded for it; the last one is
    repeated.

    Raises:
        ModelLoadError: the file is missing or damaged; the error names the line.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str = "replay",
        models: Sequence[str] | None = None,
        latency_s: float = 0.0,
        token_s: float = 0.0,
        slots: int = 64,
        preemptible: bool = False,
    ) -> None:
        self._path = Path(path)
        header, recorded = _load(self._path)
        super().__init__(
            (),
            name=name,
            models=models or header["models"],
            latency_s=latency_s,
            token_s=token_s,
            slots=slots,
            preemptible=preemptible,
            context_window=header["context_window"],
        )
        self._recorded = recorded
        self._num_given: dict[str, int] = {}

    def prepare(self, request: LLMGenerate) -> Prepared:
        """Return the recorded token count. Raises `NoSuchObject` for an unknown request."""
        prepared = super().prepare(request)
        answers = self._find(request)[1]
        return Prepared(answers[0].completion.usage.input_tokens, prepared.max_tokens)

    def _next_answer(self, run: Run) -> ScriptedAnswer:
        key, answers = self._find(run.request)
        num_given = self._num_given.get(key, 0)
        self._num_given[key] = num_given + 1
        return answers[min(num_given, len(answers) - 1)].answer

    def _find(self, request: LLMGenerate) -> tuple[str, list[_RecordedCall]]:
        asked = canonical(request, self.model_of(request))
        key = fingerprint(asked)
        if key not in self._recorded:
            raise self._unknown(asked)
        return key, self._recorded[key]

    def _unknown(self, asked: Mapping[str, Any]) -> NoSuchObject:
        """Build an error that names the most similar recorded request, and the differences."""
        prompt = _last_content(asked)
        everything = [answers[0] for answers in self._recorded.values()]
        if not everything:
            return NoSuchObject("recorded answer to", prompt)
        closest = max(everything, key=lambda one: _likeness(one, asked, prompt))
        error = NoSuchObject("recorded answer to", prompt, [closest.prompt])
        parts = [field for field, value in asked.items() if closest.asked.get(field) != value]
        error.add_note(f"the closest request in {self._path} differs in: {', '.join(parts)}")
        return error


def _likeness(one: _RecordedCall, asked: Mapping[str, Any], prompt: str) -> tuple[float, int]:
    same = sum(one.asked.get(field) == value for field, value in asked.items())
    return SequenceMatcher(None, one.prompt, prompt, autojunk=False).ratio(), same


def _load(path: Path) -> tuple[dict[str, Any], dict[str, list[_RecordedCall]]]:
    """Read the header, and the answers by the hash of their requests."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ModelLoadError(f"cannot read the recording {path}: {exc}") from exc
    if not lines:
        raise ModelLoadError(f"the recording {path} is empty")
    header: dict[str, Any] = {}
    recorded: dict[str, list[_RecordedCall]] = {}
    for number, entry in _entries(path, lines):
        try:
            if number == 1 or "format" in entry:
                header = _header(entry)
                continue
            one = _entry(entry if header.get("format") == FORMAT else _updated(entry))
        except (KeyError, TypeError, ValueError) as exc:
            raise ModelLoadError(f"{path}, line {number}: not a recorded answer: {exc!r}") from exc
        recorded.setdefault(fingerprint(one.asked), []).append(one)
    return header, recorded


def _entries(path: Path, lines: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError as exc:
            raise ModelLoadError(f"{path}, line {number}: damaged: {exc}") from exc
        if not isinstance(entry, dict):
            raise ModelLoadError(f"{path}, line {number}: damaged: {line:.100}")
        yield number, entry


def _header(entry: Mapping[str, Any]) -> dict[str, Any]:
    if entry["format"] not in _FORMATS:
        raise ValueError(f"format: got {entry['format']!r}; allowed: {list(_FORMATS)}")
    models = [str(model) for model in entry["models"]]
    return {
        "format": entry["format"],
        "models": models,
        "context_window": int(entry["context_window"]),
    }


def _entry(entry: Mapping[str, Any]) -> _RecordedCall:
    asked, deltas = entry["asked"], tuple(map(decode_delta, entry["deltas"]))
    if not isinstance(asked, dict):
        raise TypeError(f"a request expected, got {asked!r:.100}")
    _last_content(asked)  # raises now, rather than in an error that quotes it
    return _RecordedCall(asked, ScriptedAnswer(decode_completion(entry["answer"]), deltas or None))


def _last_content(asked: Mapping[str, Any]) -> str:
    messages = asked["messages"]
    return str(messages[-1]["content"]) if messages else ""


def _updated(entry: dict[str, Any]) -> dict[str, Any]:
    """Convert an entry of format 1, where a default value means a value that is not set now."""
    asked = dict(entry["asked"])
    unset = {"temperature": 0.0, "top_p": 1.0, "stop": []}
    asked["sampling"] = {
        key: value
        for key, value in asked["sampling"].items()
        if value is not None and value != unset.get(key)
    }
    if asked["tool_choice"] == "auto":
        asked["tool_choice"] = None
    if asked["parallel_tool_calls"]:
        asked["parallel_tool_calls"] = None
    if (schema := asked["response_format"]) is not None:
        asked["response_format"] = ResponseFormat(schema).to_dict()
    return {**entry, "asked": asked}


def _plain(value: Any) -> Any:
    """Return a value as it would be after writing and reading it as JSON."""
    return json.loads(json.dumps(value, default=repr))
