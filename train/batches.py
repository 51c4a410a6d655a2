"""Token sequences with a loss mask, gathered into batches of like length."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE = -100


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Token ids and, for each, whether the loss counts it."""

    ids: list[int]
    counted: list[bool]


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded tensors of shape (B, T). Causal attention never looks right, so no mask is needed."""

    ids: Tensor
    labels: Tensor
    """`ids` where the loss counts, else -100."""

    @property
    def counted(self) -> int:
        """Number of tokens in the loss."""
        return int((self.labels != IGNORE).sum())


def collate(sequences: list[TokenSequence], pad: int) -> Batch:
    """Pad to the longest; labels are -100 at padding and at uncounted tokens."""
    width = max(len(sequence.ids) for sequence in sequences)
    ids = torch.full((len(sequences), width), pad)
    labels = torch.full((len(sequences), width), IGNORE)
    for row, sequence in enumerate(sequences):
        tokens = torch.tensor(sequence.ids)
        ids[row, : len(tokens)] = tokens
        labels[row, : len(tokens)] = torch.where(torch.tensor(sequence.counted), tokens, IGNORE)
    return Batch(ids, labels)


def group_by_length(lengths: Iterable[int], batch_tokens: int, rng: random.Random | None = None) -> list[list[int]]:
    """Indices in batches of at most `batch_tokens` padded tokens (one long item may exceed it).

    Items of like length share a batch: with random order a third to a half of the tokens would be padding.
    With `rng`, ties and the order of the batches are shuffled.
    """
    measured = list(enumerate(lengths))
    if rng:
        rng.shuffle(measured)
    measured.sort(key=lambda pair: pair[1])
    batches: list[list[int]] = []
    current: list[int] = []
    for index, length in measured:
        if current and length * (len(current) + 1) > batch_tokens:
            batches.append(current)
            current = []
        current.append(index)
    if current:
        batches.append(current)
    if rng:
        rng.shuffle(batches)
    return batches
