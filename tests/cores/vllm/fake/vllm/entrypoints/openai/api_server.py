"""A server with vLLM's command line, that answers every chat with the words of its prompt.

`FAKE_VLLM` in the environment is a JSON object: `fail` (exit after these words), `hang` (never
become ready), `ignore_term`. Every server appends its process id and that of a worker, which
leaves the process group, to the file `FAKE_VLLM_PIDS`. A prompt "crash" ends it at once.
"""

# ruff: noqa: T201 - what it prints is its log
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BEHAVIOR: dict[str, Any] = json.loads(os.environ.get("FAKE_VLLM", "{}"))
METRICS = (
    'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n'
    "vllm:kv_cache_usage_perc{} 0.0\n"
)


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def log_message(self, *_: object) -> None:
        """Log no requests."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self.reply(b"", "text/plain")
        elif self.path == "/metrics":
            self.reply(METRICS.encode(), "text/plain")
        elif self.headers.get("Authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.send_error(401)
        else:
            card = {"id": option("--served-model-name"), "owned_by": "vllm", "max_model_len": 512}
            self.reply(json.dumps({"object": "list", "data": [card]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = body["messages"][-1]["content"].split()
        if words == ["crash"]:
            print("RuntimeError: the device is lost", flush=True)
            os._exit(3)
        deltas: list[dict[str, Any]] = [
            {"index": 0, "delta": {"content": f"{word} "}, "token_ids": [n]}
            for n, word in enumerate(words)
        ]
        deltas.append({"index": 0, "delta": {}, "finish_reason": "stop", "token_ids": []})
        usage = {"prompt_tokens": len(words), "completion_tokens": len(words)}
        chunks = [{"choices": [delta], "prompt_token_ids": [1] * len(words)} for delta in deltas]
        events = [*chunks, {"choices": [], "usage": usage}]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        self.reply("".join([*lines, "data: [DONE]\n\n"]).encode(), "text/event-stream")

    def reply(self, data: bytes, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True
    )
    with open(os.environ["FAKE_VLLM_PIDS"], "a", encoding="utf-8") as file:  # noqa: PTH123
        file.write(f"{os.getpid()} {worker.pid}\n")
    print("arguments:", json.dumps(sys.argv[1:]), flush=True)
    print("gpus:", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    if BEHAVIOR.get("ignore_term"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "fail" in BEHAVIOR:
        print(f"Traceback:\nValueError: {BEHAVIOR['fail']}", flush=True)
        worker.kill()
        sys.exit(1)
    print("INFO Starting to load model tiny...", flush=True)
    if BEHAVIOR.get("hang"):
        threading.Event().wait()
    print("INFO GPU KV cache size: 1,600 tokens", flush=True)
    ThreadingHTTPServer(("127.0.0.1", int(option("--port"))), Handler).serve_forever()


main()
