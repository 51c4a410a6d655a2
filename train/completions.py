"""Ask a server's `/v1/completions` for samples, token ids in and token ids out, and check that it did what was asked (torch-free).

The requests are vLLM's: `n` choices of one prompt, `stop_token_ids`, `return_token_ids`. Every setting that would bend the
distribution is sent at its neutral value, since vLLM takes those that a request leaves out from the model's own
generation_config.json.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import UsageError
from curate.server import Cache, JsonClient
from train.configs import ServedModel

NEUTRAL = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""What leaves the model's own distribution as it is."""
OWN_SETTINGS = "start it with `--generation-config vllm`, without settings of its own"


@dataclass(frozen=True)
class Completion:
    """One sampled completion."""

    tokens: NDArray[np.int32]
    """Ids, the end token included."""
    logprobs: NDArray[np.float32] | None
    """Nats of each, before temperature; None where the server was not asked."""
    finished: bool
    """It wrote the end token."""


def samples_cache(path: Path | None) -> Cache[list[Completion]]:
    """Where answers are kept: one line a request."""
    return Cache(path, lambda completions: {"choices": [_packed(one) for one in completions]}, _unpacked)


def _packed(one: Completion) -> dict[str, Any]:
    logprobs = None if one.logprobs is None else [float(f"{value:.7g}") for value in one.logprobs.tolist()]
    return {"tokens": one.tokens.tolist(), "logprobs": logprobs, "finished": one.finished}


def _unpacked(row: dict[str, Any]) -> list[Completion]:
    return [completion(one["tokens"], one["logprobs"], finished=one["finished"]) for one in row["choices"]]


def completion(tokens: list[int], logprobs: list[float] | None, *, finished: bool) -> Completion:
    """A completion of lists, as JSON has them."""
    nats = None if logprobs is None else np.array(logprobs, dtype=np.float32)
    return Completion(np.array(tokens, dtype=np.int32), nats, finished)


def bodies(
    server: ServedModel,
    model: str,
    prompt: list[int],
    *,
    samples: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    ends: Sequence[int],
) -> Iterator[dict[str, Any]]:
    """The requests for `samples` completions of one prompt, at most `samples_a_request` each.

    vLLM gives choice i of a request the seed `seed + i`: a request goes on where the one before it ended, so that no two
    samples share a seed and how they are split changes nothing.
    """
    for first in range(0, samples, server.samples_a_request):
        yield {
            "model": model,
            "prompt": prompt,
            "n": min(server.samples_a_request, samples - first),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed + first,
            **NEUTRAL,
            # the model's own end tokens may be others than the tokenizer's, which all our samplers stop at
            "ignore_eos": True,
            "stop_token_ids": list(ends),
            "return_token_ids": True,
            # vLLM tells those before temperature unless it was started otherwise: ours only where that makes no difference
            "logprobs": 0 if temperature in (0, 1) else None,
        }


class CompletionsClient(JsonClient[list[Completion]]):
    """Samples of one server."""

    setting, address = "server", "completions"

    def read(self, body: dict[str, Any], data: Any) -> list[Completion]:
        """The completions of an answer, checked.

        Raises:
            UsageError: the server does not do what was asked of it.
            ValueError: the answer is broken.
        """
        choices = sorted(data["choices"], key=lambda choice: choice["index"])
        if not choices:
            raise ValueError("an answer without choices")
        if len(choices) != body["n"]:
            raise self._unfit(f"{body['n']} choices were asked for, {len(choices)} came", "set server.samples_a_request=1")
        return [self._completion(body, choice) for choice in choices]

    def refused(self, body: dict[str, Any], reason: str) -> list[Completion]:
        """A request of samples that is not taken ends the evaluation."""
        raise UsageError(f"{self.url} does not take a prompt of {len(body['prompt'])} token ids: {reason}")

    def _completion(self, body: dict[str, Any], choice: dict[str, Any]) -> Completion:
        tokens, nats = self._tokens(body, choice), None
        finished = self._is_finished(body, tokens, choice["finish_reason"])
        if body["logprobs"] is not None:
            nats = choice["logprobs"]["token_logprobs"]
            if len(nats) != len(tokens) or not all(math.isfinite(value) for value in nats):
                raise ValueError(f"{len(tokens)} tokens came with log-probabilities {str(nats)[:40]}")
        return completion(tokens, nats, finished=finished)

    def _tokens(self, body: dict[str, Any], choice: dict[str, Any]) -> list[int]:
        tokens, prompt = choice.get("token_ids"), choice.get("prompt_token_ids")
        if tokens is None:
            raise self._unfit("it gives no token ids", "a server that honours `return_token_ids` is needed, such as vLLM")
        if prompt not in (None, body["prompt"]):
            raise self._unfit("it read other tokens than it was sent", "it must take a prompt of token ids as it is")
        if not tokens:
            raise ValueError("a completion without tokens")
        return list(tokens)

    def _is_finished(self, body: dict[str, Any], tokens: list[int], reason: str) -> bool:
        """Whether it wrote the end token; what ended otherwise must have been cut at exactly `max_tokens`."""
        ends = body["stop_token_ids"]
        if reason not in ("stop", "length"):
            raise ValueError(f"a completion ended by {reason!r}")
        if any(end in tokens[:-1] for end in ends) or len(tokens) > body["max_tokens"]:
            raise self._unfit(f"it writes on past the end token {ends} or max_tokens", "it must honour `stop_token_ids`")
        if tokens[-1] in ends:
            return True
        if reason == "stop":
            raise self._unfit(f"it ends completions after token {tokens[-1]}, the tokenizer's end is {ends}", OWN_SETTINGS)
        if len(tokens) < body["max_tokens"]:
            raise self._unfit(f"it cut a completion at {len(tokens)} tokens, max_tokens was {body['max_tokens']}", OWN_SETTINGS)
        return False

    def _unfit(self, fault: str, remedy: str) -> UsageError:
        return UsageError(f"{self.url}: {fault}; {remedy}")
