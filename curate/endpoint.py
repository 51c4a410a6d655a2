"""Ask any OpenAI-compatible server (vLLM, SGLang, llama.cpp, a hosted API) to rewrite texts; answers are kept as they come."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from curate import server
from curate.config import Count
from curate.server import JsonClient, Server

Messages = list[dict[str, str]]


class Endpoint(Server):
    """Where and how to ask."""

    model: str
    temperature: float = Field(0.7, ge=0, le=2)
    max_tokens: Count = 4096
    attempts: int = Field(2, ge=1, le=16)
    """Rewrites asked of one trace before the original is kept."""


@dataclass(frozen=True)
class Answer:
    """What the server wrote, or why it did not."""

    text: str
    refused: str | None = None
    """`truncated`, `empty`, or `refused` where the server does not take this request."""


class Cache(server.Cache[Answer]):
    """Answers by the hash of their request, in an append-only JSONL file (or in memory, without a path)."""

    def __init__(self, path: Path | None) -> None:
        super().__init__(path, asdict, lambda row: Answer(row["text"], row.get("refused")))


class Client(JsonClient[Answer]):
    """One server's chat, its cache, and the requests made so far."""

    setting, address = "endpoint", "chat/completions"

    def __init__(self, endpoint: Endpoint, cache: Cache) -> None:
        super().__init__(endpoint, cache)
        self.endpoint = endpoint

    def ask_all(self, requests: Sequence[tuple[Messages, int]]) -> list[Answer]:
        """Answers to (messages, seed) pairs, in their order: see `JsonClient.answers`."""
        return self.answers([self._body(messages, seed) for messages, seed in requests])

    def _body(self, messages: Messages, seed: int) -> dict[str, Any]:
        return {
            "model": self.endpoint.model,
            "messages": messages,
            "temperature": self.endpoint.temperature,
            "max_tokens": self.endpoint.max_tokens,
            "seed": seed,
        }

    def read(self, body: dict[str, Any], data: Any) -> Answer:
        """The text of the first choice."""
        choice = data["choices"][0]
        text = choice["message"]["content"]
        if choice.get("finish_reason") == "length":
            return Answer("", "truncated")
        if not isinstance(text, str) or not text.strip():
            return Answer("", "empty")
        return Answer(text.strip())

    def refused(self, body: dict[str, Any], reason: str) -> Answer:
        """A request that is not taken costs that one trace its rewrite, nothing else."""
        return Answer("", "refused")
