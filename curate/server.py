"""Ask a server over HTTP for JSON: many requests at once, repeated where a failure may pass, answers kept as they come.

A request that fails for a passing reason is repeated with exponential backoff. Each answer is appended to a JSONL file under
the hash of what was asked, so that work that was cut off goes on where it stopped and asks nothing twice.
"""

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from pydantic import Field

from curate.config import Config
from curate.errors import CheckFailed, ForerunError, UsageError
from curate.files import content_hash, read_jsonl

LONGEST_PAUSE = 60.0
STOPPING = {401: "the key is not accepted", 403: "access is refused", 404: "no such address or model"}
PASSING = {408, 409, 425, 429}
T = TypeVar("T")


class Server(Config):
    """Where to ask, and how patiently."""

    url: str | None = None
    """Up to and with `/v1`; default `$OPENAI_BASE_URL`."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; a server without keys needs none."""
    parallel: int = Field(8, ge=1, le=256)
    """Requests at once."""
    timeout_seconds: float = Field(120.0, gt=0)
    """For one request, from its start to the last byte."""
    retries: int = Field(6, ge=0, le=20)
    backoff_seconds: float = Field(1.0, gt=0)
    """First pause; each one after it is twice as long, up to a minute, less a random half."""


class Passing(Exception):
    """A failure that another try may not meet. `pause`: seconds that the server asks to wait."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


class Refused(Exception):
    """The server does not take this request and says why; another try would meet the same."""


class Cache(Generic[T]):
    """Answers by the hash of their request, in an append-only JSONL file (or in memory, without a path)."""

    def __init__(self, path: Path | None, pack: Callable[[T], dict[str, Any]], unpack: Callable[[dict[str, Any]], T]) -> None:
        self.path, self.lock, self.pack = path, threading.Lock(), pack
        self.answers: dict[str, T] = {}
        if path and path.exists():
            _drop_torn_line(path)
            self.answers = {row["key"]: unpack(row) for _, row in read_jsonl(path)}

    def put(self, key: str, answer: T) -> None:
        """Keep an answer; on disk before this returns."""
        with self.lock:
            self.answers[key] = answer
            if self.path:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as handle:
                    handle.write(json.dumps({"key": key, **self.pack(answer)}, ensure_ascii=False) + "\n")


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line without its end: a writer was killed."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


class JsonClient(Generic[T]):
    """One address of a server, the answers of it so far, and the requests made. A subclass reads its answers."""

    setting: str
    """Name of the server's settings in a config file, for messages."""
    address: str
    """Below `/v1`, such as `chat/completions`."""

    def __init__(self, server: Server, cache: Cache[T]) -> None:
        self.server, self.cache = server, cache
        self.asked = self.retried = 0
        self._rng = random.Random()
        self._stopped = threading.Event()
        self._failure: ForerunError | None = None
        """The first one ends all other requests, and is the one told."""

    def read(self, body: dict[str, Any], data: Any) -> T:
        """The answer to a request, from the server's JSON.

        Raises:
            ForerunError: it is none, and asking again would not help.
            Passing, ValueError, LookupError, TypeError: it is none, and another try may bring one.
        """
        raise NotImplementedError

    def refused(self, body: dict[str, Any], reason: str) -> T:
        """What stands for an answer where the server does not take the request; or raises."""
        raise NotImplementedError

    def answers(self, bodies: Sequence[dict[str, Any]]) -> list[T]:
        """Answers to requests, in their order; `parallel` at once.

        Raises:
            UsageError: no address, or the server says that key, access or model are wrong.
            CheckFailed: a request failed `retries` times over; what came before is in the cache.
        """
        todo: SimpleQueue[tuple[Future[T], dict[str, Any]]] = SimpleQueue()
        futures: list[Future[T]] = [Future() for _ in bodies]
        for pair in zip(futures, bodies, strict=True):
            todo.put(pair)
        # not a pool of concurrent.futures: its end would wait for the requests under way, minutes after Ctrl-C or a failure
        for _ in range(min(self.server.parallel, len(bodies))):
            threading.Thread(target=self._work, args=(todo,), daemon=True).start()
        try:
            ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for error in filter(None, (future.exception() for future in ended)):
                raise self._failure or error
        except BaseException:
            self._stopped.set()
            raise
        return [future.result() for future in futures]

    def _work(self, todo: "SimpleQueue[tuple[Future[T], dict[str, Any]]]") -> None:
        """Answer one request after the other until none is left or one has failed."""
        while not (self._stopped.is_set() or todo.empty()):
            try:
                future, body = todo.get_nowait()
                future.set_result(self._answer(body))
            except Empty:  # another thread was faster
                return
            except Exception as error:
                future.set_exception(error)

    def _answer(self, body: dict[str, Any]) -> T:
        key = content_hash(body, 32)
        if key not in self.cache.answers:
            try:
                self.cache.put(key, self._persistently(body))
            except ForerunError as error:
                self._failure = self._failure or error
                self._stopped.set()
                raise
        return self.cache.answers[key]

    def _persistently(self, body: dict[str, Any]) -> T:
        for tries in range(self.server.retries + 1):
            if self._stopped.is_set():
                raise CheckFailed(self._given_up("another request failed"))
            try:
                self.asked += 1
                return self._once(body)
            except Passing as error:
                if tries == self.server.retries:
                    raise CheckFailed(self._given_up(str(error))) from None
                self.retried += 1
                pause = min(LONGEST_PAUSE, self.server.backoff_seconds * 2**tries) * self._rng.uniform(0.5, 1)
                self._stopped.wait(min(LONGEST_PAUSE, max(pause, error.pause)))
        raise AssertionError("unreachable")

    def _given_up(self, reason: str) -> str:
        place = f"in {self.cache.path}: run the same command again to go on" if self.cache.path else "nowhere"
        return f"{self.url}: no answer after {self.server.retries + 1} tries ({reason}); {len(self.cache.answers)} answers are kept {place}"

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"{base_url(self.server, self.setting)}/{self.address}"

    def _once(self, body: dict[str, Any]) -> T:
        try:
            data = fetch_json(self.server, self.url, body)
        except Refused as error:
            return self.refused(body, str(error))
        try:
            return self.read(body, data)
        except (ValueError, LookupError, TypeError) as error:
            if isinstance(error, ForerunError):
                raise
            raise Passing(f"{type(error).__name__}: {error}") from None


def base_url(server: Server, setting: str) -> str:
    """The server's address up to and with `/v1`.

    Raises:
        UsageError: none is given.
    """
    base = server.url or os.environ.get("OPENAI_BASE_URL")
    if not base or not base.startswith(("http://", "https://")):
        raise UsageError(f"{setting}.url (or $OPENAI_BASE_URL): expected http://.../v1, came {base!r}")
    return base.rstrip("/")


def fetch_json(server: Server, url: str, body: dict[str, Any] | None = None) -> Any:
    """What a URL answers: to a POST of `body`, or to a GET.

    Raises:
        UsageError: key, access or address are wrong.
        Refused: the server does not take this request.
        Passing: it may answer another time.
    """
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(server.api_key_env):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    try:
        return json.loads(_fetched(request, server.timeout_seconds))
    except urllib.error.HTTPError as error:
        if error.code in STOPPING:
            raise UsageError(f"{url}: HTTP {error.code}, {STOPPING[error.code]} ({_excerpt(error)})") from None
        if error.code in PASSING or error.code >= 500:
            raise Passing(f"HTTP {error.code}", _asked_pause(error.headers.get("Retry-After"))) from None
        raise Refused(f"HTTP {error.code}: {_excerpt(error)}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
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


def _asked_pause(header: str | None) -> float:
    try:
        return max(0.0, float(header or 0))
    except ValueError:  # an HTTP date: our own backoff will do
        return 0.0


def _excerpt(error: urllib.error.HTTPError) -> str:
    return error.read(200).decode(errors="replace").strip() or str(error.reason)
