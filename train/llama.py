"""A plain-torch Llama decoder for sampling: one prompt cache per group, one static cache per row.

`transformers.generate` prefills and stores the prompt once per row; here the G rollouts of a problem share
their prompt's keys and values, and rows that have finished leave the batch. Weights are those of a
`LlamaForCausalLM`, not copied; logits agree with its forward pass to rounding (tests/test_sampling.py).

Dimensions: P prompts, R rows still being written, S prompt positions, T completion positions, H query heads,
K key heads, Q = H / K, D dimensions a head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM


@dataclass
class PromptCache:
    """Keys and values of the prompts, per layer (P, K, S, D), and a mask (P, S) that is -inf at padding."""

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor
    lengths: Tensor
    """(P,): real positions of each prompt."""


@dataclass
class RowCache:
    """Keys and values of what each row has written, per layer (R, K, T, D)."""

    keys: list[Tensor]
    values: list[Tensor]

    def keep(self, rows: Tensor, written: int) -> None:
        """Drop all rows but `rows`; only the first `written` positions are copied."""
        for cache in (self.keys, self.values):
            for layer, tensor in enumerate(cache):
                smaller = tensor.new_empty((len(rows), *tensor.shape[1:]))
                smaller[:, :, :written] = tensor[rows, :, :written]
                cache[layer] = smaller


@dataclass
class GroupIndex:
    """Where each row's queries stand in a dense (P, widest group) grid, so that a group is one matrix product."""

    slots: Tensor
    """(R,): prompt * width + place within the group."""
    prompts: int
    width: int

    @classmethod
    def of(cls, prompt_of_row: Tensor, prompts: int) -> "GroupIndex":
        """Rows of a group must be adjacent."""
        counts = torch.bincount(prompt_of_row, minlength=prompts)
        first = counts.cumsum(0) - counts
        place = torch.arange(len(prompt_of_row)) - first[prompt_of_row]
        width = int(counts.max())
        return cls(prompt_of_row * width + place, prompts, width)


class LlamaDecoder:
    """Prefill and single-token steps over the weights of a `LlamaForCausalLM`."""

    def __init__(self, model: LlamaForCausalLM, positions: int) -> None:
        """`positions` is the longest prompt plus completion that will be asked for."""
        config = model.config
        self.model = model
        self.layers = list(model.model.layers)
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.dim = self.layers[0].self_attn.head_dim
        self.epsilon = config.rms_norm_eps
        cos, sin = model.model.rotary_emb(model.lm_head.weight[:1], torch.arange(positions)[None])
        self.cos, self.sin = cos[0], sin[0]  # (positions, D)
        self.attention_in = [_stacked(layer.self_attn, ("q_proj", "k_proj", "v_proj")) for layer in self.layers]
        self.mlp_in = [_stacked(layer.mlp, ("gate_proj", "up_proj")) for layer in self.layers]

    def prefill(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, PromptCache]:
        """Run right-padded prompts (P, S) once; returns next-token logits (P, V) and their cache."""
        count, width = ids.shape
        cos, sin = self.cos[:width], self.sin[:width]
        hidden = self.model.model.embed_tokens(ids)
        keys, values = [], []
        for number in range(len(self.layers)):
            query, key, value = self._project(number, hidden)
            query, key = (_rotate(part.transpose(1, 2), cos, sin) for part in (query, key))
            value = value.transpose(1, 2)
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
            hidden = self._finish(number, hidden, mixed.transpose(1, 2).flatten(2))
            keys.append(key)
            values.append(value)
        mask = torch.zeros(count, width).masked_fill_(torch.arange(width) >= lengths[:, None], -torch.inf)
        last = hidden[torch.arange(count), lengths - 1]
        return self._logits(last), PromptCache(keys, values, mask, lengths)

    def empty_cache(self, rows: int, length: int) -> RowCache:
        """Room for `rows` completions of `length` tokens."""
        shape = (rows, self.key_heads, length, self.dim)
        return RowCache([torch.empty(shape) for _ in self.layers], [torch.empty(shape) for _ in self.layers])

    def step(
        self, ids: Tensor, time: int, prompts: PromptCache, rows: RowCache, prompt_of_row: Tensor, groups: GroupIndex
    ) -> Tensor:
        """Feed the token (R,) that each row wrote at position `time` of its completion; next-token logits (R, V)."""
        position = prompts.lengths[prompt_of_row] + time
        cos, sin = self.cos[position][:, None], self.sin[position][:, None]
        hidden = self.model.model.embed_tokens(ids)
        mask = prompts.mask[:, None, None]
        for number in range(len(self.layers)):
            query, key, value = self._project(number, hidden)
            query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
            rows.keys[number][:, :, time] = key
            rows.values[number][:, :, time] = value
            mixed = self._attend(number, query * self.dim**-0.5, time, prompts, rows, mask, groups)
            hidden = self._finish(number, hidden, mixed)
        return self._logits(hidden)

    def _attend(
        self,
        number: int,
        query: Tensor,
        time: int,
        prompts: PromptCache,
        rows: RowCache,
        mask: Tensor,
        groups: GroupIndex,
    ) -> Tensor:
        """One softmax over the shared prompt and the row's own tokens: (R, H, D) -> (R, H * D)."""
        count, width = len(query), mask.shape[-1]
        query = query.view(count, self.key_heads, -1, self.dim)
        own_keys, own_values = rows.keys[number][:, :, : time + 1], rows.values[number][:, :, : time + 1]
        shared = _to_rows(_to_grid(query, groups) @ prompts.keys[number].mT + mask, groups)
        weights = torch.cat((shared, query @ own_keys.mT), dim=-1).softmax(-1)
        from_prompt = _to_grid(weights[..., :width], groups) @ prompts.values[number]
        mixed = _to_rows(from_prompt, groups) + weights[..., width:] @ own_values
        return mixed.flatten(1)

    def _project(self, number: int, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed queries, keys and values, (..., heads, D) each."""
        layer = self.layers[number]
        normed = F.rms_norm(hidden, hidden.shape[-1:], layer.input_layernorm.weight, self.epsilon)
        heads = F.linear(normed, *self.attention_in[number]).unflatten(-1, (-1, self.dim))
        query, key, value = heads.split((self.heads, self.key_heads, self.key_heads), dim=-2)
        return query, key, value

    def _finish(self, number: int, hidden: Tensor, mixed: Tensor) -> Tensor:
        """Output projection, residual, MLP, residual."""
        layer = self.layers[number]
        hidden = hidden + layer.self_attn.o_proj(mixed)
        normed = F.rms_norm(hidden, hidden.shape[-1:], layer.post_attention_layernorm.weight, self.epsilon)
        gate, up = F.linear(normed, *self.mlp_in[number]).chunk(2, dim=-1)
        return hidden + layer.mlp.down_proj(layer.mlp.act_fn(gate) * up)

    def _logits(self, hidden: Tensor) -> Tensor:
        normed = F.rms_norm(hidden, hidden.shape[-1:], self.model.model.norm.weight, self.epsilon)
        return self.model.lm_head(normed)


def _stacked(module: torch.nn.Module, names: tuple[str, ...]) -> tuple[Tensor, Tensor | None]:
    """Weights that read the same input as one matrix, and their biases if any: one product instead of two or three."""
    parts = [getattr(module, name) for name in names]
    biased = parts[0].bias is not None
    return torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]) if biased else None


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in Llama's half-split layout."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin


def _to_grid(per_row: Tensor, groups: GroupIndex) -> Tensor:
    """(R, K, Q, X) -> (P, K, width * Q, X): all queries of a group beside one another, zeros in empty slots."""
    grid = per_row.new_zeros((groups.prompts * groups.width, *per_row.shape[1:]))
    grid[groups.slots] = per_row
    grid = grid.view(groups.prompts, groups.width, *per_row.shape[1:]).transpose(1, 2)
    return grid.flatten(2, 3)


def _to_rows(grid: Tensor, groups: GroupIndex) -> Tensor:
    """(P, K, width * Q, X) -> (R, K, Q, X): the inverse of `_to_grid`."""
    spread = grid.unflatten(2, (groups.width, -1)).transpose(1, 2).flatten(0, 1)
    return spread[groups.slots]
