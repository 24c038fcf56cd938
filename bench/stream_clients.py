"""Clients of a server, in a process of their own: they ask in streams and say when each answer's tokens came.

A task is a line of JSON on standard input, its report a line on standard output:
{"url", "headers", "bodies": [...], "at_once": 64} -> {"seconds", "answers": [{"first", "last", "tokens", ...}]}
Times are seconds from the request of each answer. Few chunks are parsed: clients share the cores with the server.
"""

import asyncio
import json
import sys
import time
from typing import Any

import httpx

TEXT_STARTS = (b'"content":"', b'"content": "', b'"text":"', b'"text": "')


async def ask(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> dict[str, Any]:
    """One answer, from request to `[DONE]`."""
    started = time.perf_counter()
    told: dict[str, Any] = {"first": None, "last": None, "tokens": 0, "prompt_tokens": 0, "cached_tokens": 0}
    sent = {**body, "stream": True, "stream_options": {"include_usage": True}}
    usage: bytes = b""
    rest = b""
    async with client.stream("POST", url, json=sent) as reply:
        if reply.status_code != 200:
            return told | {"error": f"{reply.status_code} {(await reply.aread())[:200].decode(errors='replace')}"}
        async for chunk in reply.aiter_bytes():
            now = time.perf_counter() - started
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if b'"error"' in line:
                    return told | {"error": line[:200].decode(errors="replace")}
                if has_text(line):
                    told["first"], told["last"] = told["first"] or now, now
                elif b'"usage":{' in line or b'"usage": {' in line:
                    usage = line
                elif line == b"data: [DONE]":
                    told["end"] = now
    if "end" not in told or told["first"] is None or not usage:
        return told | {"error": "the stream ended early"}
    counts = json.loads(usage.removeprefix(b"data: "))["usage"]
    told |= {"tokens": counts["completion_tokens"], "prompt_tokens": counts["prompt_tokens"]}
    return told | {"cached_tokens": (counts.get("prompt_tokens_details") or {}).get("cached_tokens", 0)}


def has_text(line: bytes) -> bool:
    """Whether a chunk holds any of the answer."""
    for start in TEXT_STARTS:
        place = line.find(start)
        if place >= 0:
            return line[place + len(start) : place + len(start) + 1] != b'"'
    return False


async def run(task: dict[str, Any]) -> dict[str, Any]:
    """All answers of a task, so many at a time."""
    waiting = list(enumerate(task["bodies"]))[::-1]
    answers: list[dict[str, Any]] = [{}] * len(waiting)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(headers=task["headers"], timeout=600, limits=limits, trust_env=False) as client:

        async def work() -> None:
            while waiting:
                number, body = waiting.pop()
                try:
                    answers[number] = await ask(client, task["url"], body)
                except httpx.HTTPError as error:
                    answers[number] = {"error": repr(error)}

        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(task["at_once"])))
        return {"seconds": time.perf_counter() - started, "answers": answers}


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(asyncio.run(run(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
