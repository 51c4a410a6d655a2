"""Sample a model that a server holds, such as vLLM: which model it is, whether it is the checkpoint, its rollouts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from curate.errors import CheckFailed, InputError, UsageError
from curate.files import content_hash
from curate.server import Passing, Refused, base_url, fetch_json
from train import checkpoints
from train.completions import Completion, CompletionsClient, bodies, samples_cache
from train.configs import ServedModel
from train.loss import token_logprobs
from train.sampling import Rollouts, sampling_seed

LARGEST_DIFFERENCE = 0.05
"""Nats a token by which the log-probabilities of served weights may differ from the checkpoint's, in the mean: rounding."""
COMPARED_PROMPTS, COMPARED_TOKENS = 8, 32
SEEDS = 1 << 30
"""Seeds are drawn below it, and rise by one a sample: every server takes such ones."""


@dataclass(frozen=True)
class Served:
    """What a server says of the model it holds."""

    model: str
    """The name that requests use."""
    root: str | None
    """The folder or hub name that it was loaded from."""
    engine: str
    max_model_len: int | None
    """Tokens of prompt and completion together, at most."""


def look_up(server: ServedModel) -> Served:
    """The model to ask for.

    Raises:
        UsageError: no address, or the server does not have the model of that name, or several and none is named.
        CheckFailed: no server answers there.
    """
    url = base_url(server, "server")
    card = _card(server, f"{url}/models")
    version = _version(server, f"{url.removesuffix('/v1')}/version") if card.get("owned_by") == "vllm" else None
    engine = f"vllm {version} (server)" if version else "openai server"
    return Served(card["id"], card.get("root"), engine, card.get("max_model_len"))


def _card(server: ServedModel, url: str) -> dict[str, Any]:
    try:
        cards = {card["id"]: card for card in fetch_json(server, url)["data"]}
    except (Passing, Refused, LookupError, TypeError) as error:
        raise CheckFailed(f"{url}: expected a list of models, came {error}; is the server up, and is this its address?") from None
    if server.model is None and len(cards) != 1:
        raise UsageError(f"{url}: it has {len(cards)} models; set server.model to one of {', '.join(cards) or 'its models'}")
    name = server.model or next(iter(cards))
    if name not in cards:
        raise UsageError(f"server.model {name!r}: {url} has {', '.join(cards) or 'no models'}")
    return cards[name]


def _version(server: ServedModel, url: str) -> str | None:
    try:
        return str(fetch_json(server, url)["version"])
    except (Passing, Refused, UsageError, LookupError, TypeError):
        return None


def check_folder(served: Served, folder: Path) -> None:
    """Refuse a server whose model was loaded from a folder of this machine with other weights than the checkpoint's.

    Where it was loaded from a hub, a relative path or a folder that is not here, nothing is said.

    Raises:
        InputError: the weights differ.
    """
    root = Path(served.root or "")
    if not root.is_absolute() or not root.is_dir() or root.resolve() == folder.resolve():
        return
    try:
        same = checkpoints.weights_hash(root) == checkpoints.weights_hash(folder)
    except InputError:  # no whole model, such as an adapter
        same = False
    if not same:
        raise InputError(
            f"the server's model {served.model!r} was loaded from {root}, whose weights are not those of {folder}; "
            "serve the checkpoint that is to be measured"
        )


class ServedSampler:
    """Rollouts by a server's `/v1/completions`. It cannot know entropies, nor log-probabilities at a temperature but 0 and 1."""

    def __init__(self, server: ServedModel, served: Served, *, end: Sequence[int], pad: int, answers: Path | None = None) -> None:
        """`answers`: folder in which what the server answered is kept until the work is done."""
        self.server, self.served, self.end, self.pad, self.answers = server, served, list(end), pad, answers
        self.engine = served.engine

    def sample(
        self, prompts: Sequence[list[int]], *, group_size: int, max_tokens: int, temperature: float, seed: int
    ) -> Rollouts:
        """See `Sampler.sample`. Greedy completions are asked for once and repeated.

        Raises:
            UsageError: the server takes no such prompts or does not do what was asked.
            CheckFailed: it gave up on a request; the answers to others are kept.
        """
        self._check_length(prompts, max_tokens)
        drawn = group_size if temperature > 0 else 1
        settings = {"samples": drawn, "max_tokens": max_tokens, "temperature": temperature, "ends": self.end}
        requests = [
            body
            for place, prompt in enumerate(prompts)
            for body in bodies(self.server, self.served.model, prompt, seed=sampling_seed(seed, place) % SEEDS, **settings)
        ]
        client = CompletionsClient(self.server, samples_cache(self._kept(seed)))
        completions = [one for answer in client.answers(requests) for one in answer]
        return _rollouts([one for one in completions for _ in range(group_size // drawn)], self.pad)

    def _kept(self, seed: int) -> Path | None:
        """The file of the answers to one call. Another server, or other weights, never reads them."""
        return self.answers and self.answers / f"{content_hash([seed, asdict(self.served)])}.jsonl"

    def _check_length(self, prompts: Sequence[list[int]], max_tokens: int) -> None:
        longest, limit = max(map(len, prompts)), self.served.max_model_len
        if limit is not None and longest + max_tokens > limit:
            raise UsageError(
                f"the longest prompt has {longest} tokens, max_tokens is {max_tokens}: the server takes {limit} together; "
                f"start it with --max-model-len {longest + max_tokens}, or set max_tokens={max(1, limit - longest)}"
            )


def _rollouts(completions: Sequence[Completion], pad: int) -> Rollouts:
    lengths = torch.tensor([len(one.tokens) for one in completions])
    shape = (len(completions), int(lengths.max()))
    tokens, logprobs = torch.full(shape, pad), torch.zeros(shape)
    for row, one in enumerate(completions):
        tokens[row, : len(one.tokens)] = torch.from_numpy(one.tokens)
        if one.logprobs is not None:
            logprobs[row, : len(one.tokens)] = torch.from_numpy(one.logprobs)
    told = all(one.logprobs is not None for one in completions)
    finished = torch.tensor([one.finished for one in completions])
    return Rollouts(tokens, lengths, finished, logprobs if told else None, None)


def check_weights(sampler: ServedSampler, model: PreTrainedModel, prompts: Sequence[list[int]]) -> float:
    """How far the server's log-probabilities are from the model's own, on a few short completions: mean absolute nats a token.

    Raises:
        CheckFailed: more than rounding explains; the server holds other weights.
    """
    prompts = prompts[:COMPARED_PROMPTS]
    asking = ServedSampler(sampler.server, sampler.served, end=sampler.end, pad=sampler.pad)
    rollouts = asking.sample(prompts, group_size=1, max_tokens=COMPARED_TOKENS, temperature=1.0, seed=0)
    assert rollouts.logprobs is not None  # asked for at temperature 1
    differences = [
        (own_logprobs(model, prompt, rollouts.tokens[row, :length]) - rollouts.logprobs[row, :length]).abs()
        for row, (prompt, length) in enumerate(zip(prompts, rollouts.lengths.tolist(), strict=True))
    ]
    if (difference := float(torch.cat(differences).mean())) > LARGEST_DIFFERENCE:
        raise CheckFailed(
            f"the log-probabilities of the server's model {sampler.served.model!r} differ from the checkpoint's by {difference:.3f} "
            f"nats a token (rounding: below {LARGEST_DIFFERENCE}); serve the checkpoint that is to be measured"
        )
    return difference


@torch.inference_mode()
def own_logprobs(model: PreTrainedModel, prompt: list[int], tokens: Tensor) -> Tensor:
    """Log-probabilities, (T,), that the model itself gives the T tokens of a completion, at temperature 1."""
    ids = torch.cat((torch.tensor(prompt), tokens)).to(model.device)[None]
    logits = model(ids).logits[:, len(prompt) - 1 : -1].float()
    return token_logprobs(logits, ids[:, len(prompt) :])[0].cpu()
