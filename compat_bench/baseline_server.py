"""A model behind OpenAI's API the plain way: one request at a time, first come, first served.

This is the system without a kernel that every framework can be pointed at with the
OpenAI class that it brings. Generation is transformers' own `generate`. It listens
on 127.0.0.1 alone, on a port that the system chooses.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Final

MAX_TOKENS: Final = 96
MAX_BODY: Final = 4 << 20  # bytes
NO_KEY: Final = "none"  # clients want one
_CALL: Final = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)

Complete = Callable[[Mapping[str, Any]], dict[str, Any]]  # a request's body -> the message


@dataclass(slots=True)
class PlainServer:
    """A running server, and what it saw."""

    base_url: str
    model: str
    waits_s: list[float] = field(default_factory=list)  # of each request, for the model
    api_key: str = NO_KEY


class PlainModel:
    """transformers' `generate`, greedy."""

    def __init__(self, path: Path) -> None:
        import torch  # noqa: PLC0415 - takes seconds
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415
        from transformers.utils import logging  # noqa: PLC0415

        logging.disable_progress_bar()
        torch.set_num_threads(1)  # as the kernel's core has it: a model this small gains by it
        self._torch = torch
        self._model: Any = AutoModelForCausalLM.from_pretrained(path).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(path)

    def __call__(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The assistant's message to a request as OpenAI's API has it, with its usage."""
        inputs = self._tokenizer.apply_chat_template(
            [_flat(raw) for raw in body["messages"]],
            tools=body.get("tools") or None,
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or MAX_TOKENS
        num_prompt = inputs["input_ids"].shape[1]
        with self._torch.inference_mode():
            output = self._model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        new = output[0, num_prompt:]
        message = _parsed(self._tokenizer.decode(new, skip_special_tokens=False), body)
        message["usage"] = (num_prompt, len(new))
        return message


def at_once(body: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - a Complete
    """A model that costs nothing."""
    return {"role": "assistant", "content": "ok", "usage": (1, 1)}


@contextmanager
def serve(complete: Complete, model: str) -> Iterator[PlainServer]:
    """Serve until the block ends."""
    turn = threading.Lock()

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    address = PlainServer(f"http://127.0.0.1:{server.server_port}/v1", model)

    def in_turn(body: Mapping[str, Any]) -> dict[str, Any]:
        asked_at = time.perf_counter()
        with turn:
            address.waits_s.append(time.perf_counter() - asked_at)
            return complete(body)

    Handler.complete = staticmethod(in_turn)
    Handler.model = model
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    complete: ClassVar[Complete]
    model: ClassVar[str]

    def do_GET(self) -> None:
        if self.path.rstrip("/").endswith("/models"):
            self._reply({"object": "list", "data": [{"id": self.model, "object": "model"}]})
        else:
            self._refuse(404, f"no such page: {self.path}")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY:
            self._refuse(413, f"more than {MAX_BODY} bytes")
            return
        raw = self.rfile.read(length)
        if not self.path.rstrip("/").endswith("/chat/completions"):
            self._refuse(404, f"no such page: {self.path}")
            return
        try:
            body = json.loads(raw)
            message = self.complete(body)
        except (ValueError, KeyError, TypeError) as exc:
            self._refuse(400, f"not a completion request: {exc!r}")
            return
        usage = _usage(message.pop("usage"))
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        if body.get("stream"):
            self._stream(message, reason, usage)
        else:
            choice = {"index": 0, "message": message, "finish_reason": reason}
            self._reply({**self._head("chat.completion"), "choices": [choice], "usage": usage})

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Log nothing."""

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": "plain", "object": kind, "created": int(time.time()), "model": self.model}

    def _stream(self, message: dict[str, Any], reason: str, usage: dict[str, int]) -> None:
        head = self._head("chat.completion.chunk")
        calls = message.pop("tool_calls", [])
        # A chunk for each call, as OpenAI's API has it: clients read only the first of a chunk.
        deltas = [message, *({"tool_calls": [{**c, "index": n}]} for n, c in enumerate(calls)), {}]
        chunks = [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            for delta in deltas
        ]
        chunks[-1]["choices"][0]["finish_reason"] = reason
        chunks.append({**head, "choices": [], "usage": usage})
        events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
        self._send(200, f"{events}data: [DONE]\n\n".encode(), "text/event-stream")

    def _reply(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), "application/json")

    def _refuse(self, status: int, message: str) -> None:
        error = {"error": {"message": message, "type": "invalid_request_error"}}
        self._send(status, json.dumps(error).encode(), "application/json")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()  # kept back by the buffer, so that head and body leave together
        self.wfile.write(body)
        self.wfile.flush()


def _usage(counts: tuple[int, int]) -> dict[str, int]:
    prompt, answer = counts
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _flat(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A message with its content as one text, which is what chat templates read."""
    content = raw.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part.get("text", "") for part in content)
    return {**raw, "content": content}


def _parsed(text: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The message that an answer of a Hermes-style model is."""
    text = text.partition("<|end|>")[0]
    stop = body.get("stop") or []
    for word in [stop] if isinstance(stop, str) else stop:
        text = text.partition(word)[0]
    calls = []
    for number, inside in enumerate(_CALL.findall(text)):
        try:
            call = json.loads(inside)
            function = {
                "name": call["name"],
                "arguments": json.dumps(call["arguments"], ensure_ascii=False),
            }
        except (ValueError, KeyError, TypeError):
            return {"role": "assistant", "content": text}
        calls.append(
            {"id": f"call_{time.time_ns()}_{number}", "type": "function", "function": function}
        )
    message: dict[str, Any] = {"role": "assistant", "content": _CALL.sub("", text)}
    if calls:
        message["tool_calls"] = calls
    return message
