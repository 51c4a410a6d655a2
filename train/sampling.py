"""Sample completions: groups of rollouts per prompt, by our own decoder or by `transformers.generate`."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from curate.errors import CheckFailed, UsageError
from curate.files import content_hash
from train import rendering
from train.attention import library_for
from train.llama import LlamaDecoder
from train.records import ENGINE

ROWS_AT_ONCE = 1536
"""Rows decoded together at most: the last of a batch run almost alone, so few large batches are faster than many small ones."""
CACHE_BYTES = 2 << 30
"""What the caches of the rows decoded together may take."""
COMPACT_BELOW = {"torch": 0.85, "compiled": 0.97}
"""Share of rows still writing below which finished ones are dropped: in torch that copies the caches."""


@dataclass(frozen=True)
class Rollouts:
    """Sampled completions of P prompts x G, in prompt order; B = P * G rows, T the longest completion."""

    tokens: Tensor
    """(B, T) ids; what follows a row's end is padding."""
    lengths: Tensor
    """(B,) tokens written, the end token included."""
    finished: Tensor
    """(B,) whether the row wrote the end token itself, rather than being cut at the limit."""
    logprobs: Tensor | None
    """(B, T) log-probability in nats of each token under the sampling distribution; 0 at padding. None where a server does not tell."""
    entropies: Tensor | None
    """(B,) mean entropy in nats of the distributions that the row's tokens were drawn from. None: of a server, which never tells."""

    @property
    def mask(self) -> Tensor:
        """(B, T) 1.0 at written tokens."""
        return (torch.arange(self.tokens.shape[1], device=self.lengths.device) < self.lengths[:, None]).float()


def sampling_seed(*parts: Any) -> int:
    """A sampler's seed, of 48 bits, that depends on every part."""
    return int(content_hash(list(parts), 12), 16)


class Sampler(Protocol):
    """Anything that writes `group_size` completions for each prompt."""

    engine: str
    """What it runs on, for the record of a run."""

    def sample(
        self, prompts: Sequence[list[int]], *, group_size: int, max_tokens: int, temperature: float, seed: int
    ) -> Rollouts:
        """Completions of token-id prompts; the same seed gives the same completions."""
        ...


class NativeSampler:
    """Our decoder: prompts prefilled once a group, static caches, finished rows dropped. Llama models."""

    def __init__(self, model: LlamaForCausalLM, *, end: Sequence[int], pad: int) -> None:
        if not isinstance(model, LlamaForCausalLM):
            raise UsageError(f"the native sampler decodes Llama models, came {type(model).__name__}; set sampler: transformers")
        self.model, self.end, self.pad = model, torch.tensor(list(end), device=model.device), pad
        compiled = library_for(model.lm_head.weight, model.model.layers[0].self_attn.head_dim)
        self.engine = f"{ENGINE}, compiled" if compiled else ENGINE

    @torch.inference_mode()
    def sample(
        self, prompts: Sequence[list[int]], *, group_size: int, max_tokens: int, temperature: float, seed: int
    ) -> Rollouts:
        """See `Sampler.sample`. Prompts of like length are decoded together; `temperature` 0 is greedy."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        at_once = max(1, min(ROWS_AT_ONCE, CACHE_BYTES // _row_bytes(self.model, max_tokens)) // group_size)
        generator = torch.Generator(self.model.device).manual_seed(seed)
        with _device_of(self.model):
            decoder = LlamaDecoder(self.model, max(map(len, prompts)) + max_tokens)
            parts = []
            for start in range(0, len(order), at_once):
                chunk = [prompts[index] for index in order[start : start + at_once]]
                parts.append(self._decode(decoder, chunk, group_size, max_tokens, temperature, generator))
            return _checked(_in_order(parts, order, group_size, self.pad))

    def _decode(
        self,
        decoder: LlamaDecoder,
        prompts: list[list[int]],
        group_size: int,
        max_tokens: int,
        temperature: float,
        generator: torch.Generator,
    ) -> Rollouts:
        writer = _Writer(len(prompts) * group_size, max_tokens, self.pad, self.end)
        logits, cache = decoder.prefill(*_padded(prompts, self.pad))
        prompt_of_row = torch.arange(len(prompts)).repeat_interleave(group_size)
        rows, logits = decoder.rows(cache, prompt_of_row, max_tokens), logits[prompt_of_row]
        for time in range(max_tokens):
            ids = writer.write(time, logits, temperature, generator)
            if writer.done or time + 1 == max_tokens:
                break
            if (kept := writer.compact(COMPACT_BELOW[rows.engine])) is not None:
                ids = ids[kept]
                rows.keep(kept, time)
            logits = decoder.step(ids, time, rows)
        return writer.rollouts()


def _device_of(model: PreTrainedModel) -> AbstractContextManager[object]:
    """New tensors go where the model is. Nothing on a CPU, where the context would slow every small operation."""
    return nullcontext() if model.device.type == "cpu" else model.device


def _row_bytes(model: LlamaForCausalLM, positions: int) -> int:
    """Keys and values of one row."""
    attention = model.model.layers[0].self_attn
    width = model.config.num_key_value_heads * attention.head_dim
    return 2 * len(model.model.layers) * width * positions * model.lm_head.weight.element_size()


class _Writer:
    """Draws tokens and keeps the record of every row, those dropped from the batch included."""

    def __init__(self, rows: int, max_tokens: int, pad: int, end: Tensor) -> None:
        self.tokens = torch.full((rows, max_tokens), pad)
        self.logprobs = torch.zeros(rows, max_tokens)
        self.entropies = torch.zeros(rows)
        self.lengths = torch.zeros(rows, dtype=torch.long)
        self.finished = torch.zeros(rows, dtype=torch.bool)
        self.batch = torch.arange(rows)
        self.end = end

    def write(self, time: int, logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
        """Draw one token for each row of the batch; finished rows draw too, but are not recorded."""
        chosen, logprob, entropy = _draw(logits, temperature, generator)
        writing = ~self.finished[self.batch]
        rows = self.batch[writing]
        self.tokens[rows, time] = chosen[writing]
        self.logprobs[rows, time] = logprob[writing]
        self.entropies[rows] += entropy[writing]
        self.lengths[rows] += 1
        self.finished[rows] = torch.isin(chosen[writing], self.end)
        return chosen

    @property
    def done(self) -> bool:
        return bool(self.finished.all())

    def compact(self, below: float) -> Tensor | None:
        """Places within the batch of the rows to go on with, once their share is under `below`; else None."""
        writing = ~self.finished[self.batch]
        if int(writing.sum()) >= below * len(self.batch):
            return None
        kept = writing.nonzero()[:, 0]
        self.batch = self.batch[kept]
        return kept

    def rollouts(self) -> Rollouts:
        longest = int(self.lengths.max())
        entropies = self.entropies / self.lengths
        return Rollouts(self.tokens[:, :longest], self.lengths, self.finished, self.logprobs[:, :longest], entropies)


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(R, V) -> token, its log-probability and the distribution's entropy, (R,) each, by inverting the CDF."""
    if temperature == 0:
        logprobs = logits.log_softmax(-1)
        chosen = logits.argmax(-1)
        probs = logprobs.exp()
    else:
        probs = (logits / temperature).softmax(-1)
        cumulated = probs.cumsum(-1)
        threshold = torch.rand(len(probs), 1, generator=generator) * cumulated[:, -1:]
        chosen = (cumulated <= threshold).sum(-1).clamp_(max=probs.shape[1] - 1)
    logprob = probs.gather(1, chosen[:, None])[:, 0].log()
    return chosen, logprob, torch.special.entr(probs).sum(-1)


def _padded(prompts: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    ids = torch.full((len(prompts), int(lengths.max())), pad)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    return ids, lengths


def _in_order(parts: list[Rollouts], order: list[int], group_size: int, pad: int) -> Rollouts:
    """Join chunks and undo the sorting by prompt length."""
    width = max(part.tokens.shape[1] for part in parts)
    place = torch.empty(len(order), dtype=torch.long)
    place[torch.tensor(order)] = torch.arange(len(order))
    rows = (place[:, None] * group_size + torch.arange(group_size)).flatten()

    def joined(tensors: list[Tensor], fill: float) -> Tensor:
        if tensors[0].ndim == 2:
            tensors = [torch.nn.functional.pad(t, (0, width - t.shape[1]), value=fill) for t in tensors]
        return torch.cat(tensors)[rows]

    return Rollouts(
        joined([part.tokens for part in parts], pad),
        joined([part.lengths for part in parts], 0),
        joined([part.finished for part in parts], 0),
        joined([part.logprobs for part in parts], 0.0),
        joined([part.entropies for part in parts], 0.0),
    )


class TransformersSampler:
    """`transformers.generate`: any causal model, one row a rollout."""

    engine = "transformers"

    def __init__(self, model: PreTrainedModel, *, end: Sequence[int], pad: int) -> None:
        self.model, self.end, self.pad = model, torch.tensor(list(end), device=model.device), pad

    @torch.inference_mode()
    def sample(
        self, prompts: Sequence[list[int]], *, group_size: int, max_tokens: int, temperature: float, seed: int
    ) -> Rollouts:
        """See `Sampler.sample`."""
        width, device = max(map(len, prompts)), self.model.device
        padded = torch.tensor([[self.pad] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        attended = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]), _plain_generation(self.model):
            torch.manual_seed(seed)
            output = self.model.generate(
                padded.repeat_interleave(group_size, 0),
                attention_mask=attended.repeat_interleave(group_size, 0),
                max_new_tokens=max_tokens,
                do_sample=temperature > 0,
                **({"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}),
                eos_token_id=self.end.tolist(),
                pad_token_id=self.pad,
                return_dict_in_generate=True,
                output_logits=True,
                remove_invalid_values=True,  # for `_checked` to see them, where multinomial would raise
            )
        return _checked(self._rollouts(output.sequences[:, width:], torch.stack(output.logits, 1), temperature))

    def _rollouts(self, tokens: Tensor, logits: Tensor, temperature: float) -> Rollouts:
        """Read lengths, log-probabilities and entropies off what was written, (B, T) and (B, T, V)."""
        ended = torch.isin(tokens, self.end)
        finished = ended.any(1)
        lengths = torch.where(finished, ended.int().argmax(1) + 1, tokens.shape[1])
        logprobs = (logits / (temperature or 1.0)).log_softmax(-1)
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        chosen = logprobs.gather(2, tokens[..., None])[..., 0]
        entropies = (torch.special.entr(logprobs.exp()).sum(-1) * mask).sum(1) / lengths
        return Rollouts(tokens, lengths, finished, torch.where(mask, chosen, 0.0), entropies)


def _checked(rollouts: Rollouts) -> Rollouts:
    """Refuse what a model of broken weights wrote."""
    if not bool(rollouts.logprobs.isfinite().all() and rollouts.entropies.isfinite().all()):
        raise CheckFailed("the model's next-token probabilities are not finite: its training diverged")
    return rollouts


@contextmanager
def _plain_generation(model: PreTrainedModel) -> Iterator[None]:
    """Set aside the settings that a model folder came with (repetition penalty, top-k, ...): they bend the distribution."""
    shipped, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = shipped


def make_sampler(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Sampler:
    """The sampler of that name over a model that may go on training: it always samples the weights as they are."""
    kinds = {"native": NativeSampler, "transformers": TransformersSampler}
    return kinds[name](model, end=rendering.end_ids(tokenizer), pad=rendering.pad_id(tokenizer))
