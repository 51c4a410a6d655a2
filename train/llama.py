"""A plain-torch Llama decoder for sampling: one prompt cache per group, one static cache per row.

`transformers.generate` prefills and stores the prompt once per row; here the G rollouts of a problem share
their prompt's keys and values, and rows that have finished leave the batch. Weights are those of a
`LlamaForCausalLM`, not copied; logits agree with its forward pass to rounding (tests/test_sampling.py).
Dimensions as in `train.attention`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from train.attention import PromptCache, Rotation, RowAttention, row_attention


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
        self.rotation = Rotation(cos[0], sin[0])
        self.attention_in = [_stacked(layer.self_attn, ("q_proj", "k_proj", "v_proj")) for layer in self.layers]
        self.mlp_in = [_stacked(layer.mlp, ("gate_proj", "up_proj")) for layer in self.layers]

    def prefill(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, PromptCache]:
        """Run right-padded prompts (P, S) once; returns next-token logits (P, V) and their cache."""
        count, width = ids.shape
        positions = torch.arange(width)
        hidden = self.model.model.embed_tokens(ids)
        keys, values = [], []
        for number in range(len(self.layers)):
            heads = self._project(number, hidden).unflatten(-1, (-1, self.dim)).transpose(1, 2)
            query, key, value = heads.split((self.heads, self.key_heads, self.key_heads), dim=1)
            query, key = self.rotation(query, positions), self.rotation(key, positions)
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
            hidden = self._finish(number, hidden, mixed.transpose(1, 2).flatten(2))
            keys.append(key)
            values.append(value)
        last = hidden[torch.arange(count), lengths - 1]
        return self._logits(last), PromptCache(keys, values, lengths)

    def rows(self, prompts: PromptCache, prompt_of_row: Tensor, positions: int) -> RowAttention:
        """Room for completions of `positions` tokens, one a row of `prompt_of_row` (R,); rows of a prompt are adjacent."""
        return row_attention(prompts, prompt_of_row, positions, self.heads, self.rotation)

    def step(self, ids: Tensor, time: int, rows: RowAttention) -> Tensor:
        """Feed the token (R,) that each row wrote at position `time` of its completion; next-token logits (R, V)."""
        hidden = self.model.model.embed_tokens(ids)
        for number in range(len(self.layers)):
            mixed = rows.step(number, self._project(number, hidden), time)
            hidden = self._finish(number, hidden, mixed)
        return self._logits(hidden)

    def _project(self, number: int, hidden: Tensor) -> Tensor:
        """Queries, keys and values of the normed input side by side, (..., (H + 2K) D)."""
        layer = self.layers[number]
        normed = F.rms_norm(hidden, hidden.shape[-1:], layer.input_layernorm.weight, self.epsilon)
        return F.linear(normed, *self.attention_in[number])

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
