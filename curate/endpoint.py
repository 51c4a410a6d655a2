"""Ask any OpenAI-compatible server (vLLM, SGLang, llama.cpp, a hosted API) to rewrite texts; answers are kept as they come.

A request that fails for a passing reason is repeated with exponential backoff. Each answer is appended to a JSONL file under
the hash of what was asked, so that a build that was cut off goes on where it stopped and asks nothing twice.
"""

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from curate.config import Config, Count
from curate.errors import CheckFailed, UsageError
from curate.files import content_hash, read_jsonl

LONGEST_PAUSE = 60.0
STOPPING = {401: "the key is not accepted", 403: "access is refused", 404: "no such address or model"}
PASSING = {408, 409, 425, 429}
Messages = list[dict[str, str]]


class Endpoint(Config):
    """Where and how to ask."""

    model: str
    url: str | None = None
    """Up to and with `/v1`; default `$OPENAI_BASE_URL`."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; a server without keys needs none."""
    temperature: float = Field(0.7, ge=0, le=2)
    max_tokens: Count = 4096
    parallel: int = Field(8, ge=1, le=256)
    """Requests at once."""
    timeout_seconds: float = Field(120.0, gt=0)
    """For one request, from its start to the last byte."""
    retries: int = Field(6, ge=0, le=20)
    backoff_seconds: float = Field(1.0, gt=0)
    """First pause; each one after it is twice as long, up to a minute, less a random half."""
    attempts: int = Field(2, ge=1, le=16)
    """Rewrites asked of one trace before the original is kept."""


class Passing(Exception):
    """A failure that another try may not meet. `pause`: seconds that the server asks to wait."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


@dataclass(frozen=True)
class Answer:
    """What the server wrote, or why it did not."""

    text: str
    refused: str | None = None
    """`truncated`, `empty`, or `refused` where the server does not take this request."""


class Cache:
    """Answers by the hash of their request, in an append-only JSONL file (or in memory, without a path)."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.lock = path, threading.Lock()
        self.answers: dict[str, Answer] = {}
        if path and path.exists():
            _drop_torn_line(path)
            self.answers = {row["key"]: Answer(row["text"], row.get("refused")) for _, row in read_jsonl(path)}

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; on disk before this returns."""
        with self.lock:
            self.answers[key] = answer
            if self.path:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                row = {"key": key, "text": answer.text, "refused": answer.refused}
                with self.path.open("a", encoding="utf-8") as handle:
                    handle.write(json.dumps(row, ensure_ascii=False) + "\n")


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line without its end: a writer was killed."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


@dataclass
class Client:
    """One server, its cache, and the requests made so far."""

    endpoint: Endpoint
    cache: Cache
    asked: int = 0
    retried: int = 0
    _rng: random.Random = field(default_factory=random.Random)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _failure: UsageError | CheckFailed | None = None
    """The first one ends all other requests, and is the one told."""

    def ask_all(self, requests: Sequence[tuple[Messages, int]]) -> list[Answer]:
        """Answers to (messages, seed) pairs, in their order; `parallel` at once.

        Raises:
            UsageError: no address, or the server says that key, access or model are wrong.
            CheckFailed: a request failed `retries` times over; what came before is in the cache.
        """
        with ThreadPoolExecutor(self.endpoint.parallel) as pool:
            futures = [pool.submit(self._answer, messages, seed) for messages, seed in requests]
            try:
                return [future.result() for future in futures]
            except BaseException as error:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise self._failure or error from None

    def _answer(self, messages: Messages, seed: int) -> Answer:
        body = {
            "model": self.endpoint.model,
            "messages": messages,
            "temperature": self.endpoint.temperature,
            "max_tokens": self.endpoint.max_tokens,
            "seed": seed,
        }
        key = content_hash(body, 32)
        if key not in self.cache.answers:
            try:
                self.cache.put(key, self._persistently(body))
            except (UsageError, CheckFailed) as error:
                self._failure = self._failure or error
                self._stopped.set()
                raise
        return self.cache.answers[key]

    def _persistently(self, body: dict[str, Any]) -> Answer:
        for tries in range(self.endpoint.retries + 1):
            if self._stopped.is_set():
                raise CheckFailed(self._given_up("another request failed"))
            try:
                self.asked += 1
                return self._once(body)
            except Passing as error:
                if tries == self.endpoint.retries:
                    raise CheckFailed(self._given_up(str(error))) from None
                self.retried += 1
                pause = min(LONGEST_PAUSE, self.endpoint.backoff_seconds * 2**tries) * self._rng.uniform(0.5, 1)
                self._stopped.wait(min(LONGEST_PAUSE, max(pause, error.pause)))
        raise AssertionError("unreachable")

    def _given_up(self, reason: str) -> str:
        place = f"in {self.cache.path}: run the same command again to go on" if self.cache.path else "nowhere"
        return f"{self.url}: no answer after {self.endpoint.retries + 1} tries ({reason}); {len(self.cache.answers)} answers are kept {place}"

    @property
    def url(self) -> str:
        """Where requests go."""
        base = self.endpoint.url or os.environ.get("OPENAI_BASE_URL")
        if not base or not base.startswith(("http://", "https://")):
            raise UsageError(f"endpoint.url (or $OPENAI_BASE_URL): expected http://.../v1, came {base!r}")
        return f"{base.rstrip('/')}/chat/completions"

    def _once(self, body: dict[str, Any]) -> Answer:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.endpoint.api_key_env):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        try:
            return _read_answer(_fetched(request, self.endpoint.timeout_seconds))
        except urllib.error.HTTPError as error:
            if error.code in STOPPING:
                raise UsageError(f"{self.url}: HTTP {error.code}, {STOPPING[error.code]} ({_excerpt(error)})") from None
            if error.code in PASSING or error.code >= 500:
                raise Passing(f"HTTP {error.code}", _asked_pause(error.headers.get("Retry-After"))) from None
            return Answer("", "refused")
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, IndexError) as error:
            raise Passing(f"{type(error).__name__}: {error}") from None


def _fetched(request: urllib.request.Request, seconds: float) -> bytes:
    """The whole body, or TimeoutError: a server that drips bytes is cut off too."""
    deadline, parts = time.monotonic() + seconds, []
    with urllib.request.urlopen(request, timeout=seconds) as response:
        while part := response.read1(1 << 16):
            parts.append(part)
            if time.monotonic() > deadline:
                raise TimeoutError(f"the answer was not complete after {seconds:g} s")
    return b"".join(parts)


def _read_answer(data: bytes) -> Answer:
    choice = json.loads(data)["choices"][0]
    text = choice["message"]["content"]
    if choice.get("finish_reason") == "length":
        return Answer("", "truncated")
    if not isinstance(text, str) or not text.strip():
        return Answer("", "empty")
    return Answer(text.strip())


def _asked_pause(header: str | None) -> float:
    try:
        return max(0.0, float(header or 0))
    except ValueError:  # an HTTP date: our own backoff will do
        return 0.0


def _excerpt(error: urllib.error.HTTPError) -> str:
    return error.read(200).decode(errors="replace").strip() or str(error.reason)
