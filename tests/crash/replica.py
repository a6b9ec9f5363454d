"""A server with vLLM's dialect and a model in which every token follows from all before it.

    python replica.py PORT    (0: the system chooses; the port is printed)

A continuation is right only if it starts from exactly the tokens that were generated before. With
a seed and a temperature, the tokens depend on the seed and on their distance from the start of
the *request*, as on a real server, so a continued answer would differ.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

FIRST_OUTPUT_ID = 1_000  # ids from here on are tokens of an answer, below are prompts
VOCABULARY = 500
TOKEN_S = 0.02  # slower than the client reads, so that a kill hits answers that are not whole
ONE_IN = 60  # tokens ends an answer


def prompt_ids(body: Mapping[str, Any]) -> list[int]:
    """Return the token ids of a prompt: one for each word."""
    if "prompt" in body:
        return list(body["prompt"])
    words = " ".join(message["content"] for message in body["messages"]).split()
    return [zlib.crc32(word.encode()) % FIRST_OUTPUT_ID for word in words]


def answer_ids(prompt: Sequence[int], limit: int, seed: int | None = None) -> Iterator[int]:
    """Yield the tokens of an answer to a prompt, which may end in an unfinished answer."""
    ids = list(prompt)
    for position in range(limit):
        key = repr((ids, None if seed is None else (seed, position)))
        number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
        if ids[-1] >= FIRST_OUTPUT_ID and number % ONE_IN == 0:  # also at once after a continuation
            return
        ids.append(FIRST_OUTPUT_ID + number // ONE_IN % VOCABULARY)
        yield ids[-1]


def text_of(token: int) -> str:
    return f"w{token - FIRST_OUTPUT_ID} "


def seed_of(body: Mapping[str, Any]) -> int | None:
    return body.get("seed") if body.get("temperature") else None


def chunks_of(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a streamed answer."""
    prompt, limit = prompt_ids(body), body.get("max_tokens", 64)
    envelope = {"id": "r", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}

    def chunk(text: str, ids: list[int], reason: str | None = None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "token_ids": ids}
        is_plain = "prompt" in body
        choice |= {"text": text} if is_plain else {"delta": {"role": "assistant", "content": text}}
        return {**envelope, "choices": [choice], "prompt_token_ids": prompt}

    num_tokens = 0
    for token in answer_ids(prompt, limit, seed_of(body)):
        num_tokens += 1
        yield chunk(text_of(token), [token])
    yield chunk("", [], "length" if num_tokens == limit else "stop")
    total = len(prompt) + num_tokens
    usage = {"prompt_tokens": len(prompt), "completion_tokens": num_tokens, "total_tokens": total}
    yield {**envelope, "choices": [], "usage": usage}


async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        path = head.split(" ")[1]
        if path.endswith("/completions"):
            await stream(json.loads(raw), writer)
        elif path == "/v1/models":
            card = {"id": "m", "object": "model", "owned_by": "vllm", "max_model_len": 4_096}
            write_page(writer, json.dumps({"object": "list", "data": [card]}), "application/json")
        elif path == "/tokenize":
            write_page(writer, json.dumps({"count": 8, "max_model_len": 4_096}), "application/json")
        else:
            write_page(writer, "", "text/plain")
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


def write_page(writer: asyncio.StreamWriter, text: str, kind: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n{text}".encode())


async def stream(body: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode())
    for chunk in (*map(json.dumps, chunks_of(body)), "[DONE]"):
        data = f"data: {chunk}\n\n".encode()
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await writer.drain()
        await asyncio.sleep(TOKEN_S)
    writer.write(b"0\r\n\r\n")


async def main(port: int) -> None:
    server = await asyncio.start_server(serve_one, "127.0.0.1", port)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
