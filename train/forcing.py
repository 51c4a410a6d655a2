"""Budget forcing on rows of tokens: thinking is cut at a maximum and the answer asked for, or kept from ending.

After s1 (Muennighoff et al. 2025, arXiv 2501.19393, section 3.1, and its released evaluation). The model writes, something is
cut off or appended, the model writes on: rounds of any `Sampler`. docs/budget.md says how this departs from s1.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from train import rendering
from train.configs import BudgetConfig, Delimiters
from train.evaluate import PROBLEMS_AT_ONCE
from train.sampling import Rollouts, Sampler, sampling_seed

Tokens = list[int]


@dataclass(frozen=True)
class Row:
    """One completion, what was appended to it included."""

    tokens: Tokens
    finished: bool
    """It ends with the end token, rather than being cut at a limit."""
    thinking: int
    """Tokens of its thinking: those before the end-of-thinking delimiter, all if there is none; the end token is none of them."""
    closed: bool
    """It ended its thinking itself, by the delimiter or by the end token."""
    forced: bool = False
    """Its thinking was cut at the budget."""


class Marks:
    """The delimiters as one model's tokenizer reads and writes them."""

    def __init__(self, texts: Delimiters, tokenizer: Any) -> None:
        """Raises InputError where the tokenizer cannot write them."""
        self.texts, self.tokenizer = texts, tokenizer
        self.start, self.wait = self._ids(texts.start), self._ids(texts.wait)
        self.exit, self.exit_on_new_line = self._ids(texts.forced_exit), self._ids(texts.forced_exit.removeprefix("\n"))

    def _ids(self, text: str) -> Tokens:
        return rendering.token_ids(self.tokenizer, text, "a delimiter of budget forcing") if text else []

    def decode(self, tokens: Sequence[int]) -> str:
        """The text, special tokens included: a delimiter may be one."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def opened(self, prompt: Tokens) -> Tokens:
        """The prompt with its thinking opened; chat templates that open it themselves often add a line feed."""
        opened = self.decode(prompt).rstrip().endswith(self.texts.start.rstrip())
        return prompt if opened else [*prompt, *self.start]

    def forced_exit(self, before: Tokens) -> Tokens:
        """What closes the thinking and asks for the answer, after these tokens."""
        on_new_line = self.texts.forced_exit.startswith("\n") and self.decode(before[-1:]).endswith("\n")
        return self.exit_on_new_line if on_new_line else self.exit

    def thinking_length(self, tokens: Tokens) -> int | None:
        """Tokens whose text lies wholly before the first end-of-thinking delimiter; None where there is none.

        By text, since a tokenizer may spell the delimiter in pieces and join its ends with what stands beside them.
        """
        at = self.decode(tokens).find(self.texts.end)
        if at < 0:
            return None
        return bisect_right(range(len(tokens) + 1), at, key=lambda count: len(self.decode(tokens[:count]))) - 1

    def row(self, tokens: Tokens, finished: bool) -> Row:
        """A completion with its thinking measured."""
        length = self.thinking_length(tokens)
        if length is None:
            return Row(tokens, finished, len(tokens) - finished, closed=finished)
        return Row(tokens, finished, length, closed=True)

    def rows(self, rollouts: Rollouts) -> list[Row]:
        """The rows of rollouts, without their padding."""
        triples = zip(rollouts.tokens.tolist(), rollouts.lengths.tolist(), rollouts.finished.tolist(), strict=True)
        return [self.row(tokens[:length], finished) for tokens, length, finished in triples]


def kept_open(row: Row, wait: Tokens) -> Tokens:
    """MINIMUM: the thinking as far as it went, the wait text where its end stood."""
    return [*row.tokens[: row.thinking], *wait]


def cut(row: Row, budget: int) -> Tokens | None:
    """MAXIMUM: the first `budget` tokens of thinking that goes on beyond them; None for thinking that does not."""
    return row.tokens[:budget] if row.thinking > budget else None


@dataclass(frozen=True)
class Forcer:
    """Samples on after forcing. Prompts are one a row, thinking opened; equal seeds give equal rows."""

    config: BudgetConfig
    sampler: Sampler
    tokenizer: Any

    @cached_property
    def marks(self) -> Marks:
        """The delimiters."""
        return Marks(self.config.texts, self.tokenizer)

    def wait(self, prompts: Sequence[Tokens], rows: Sequence[Row], *seed: Any) -> list[Row]:
        """Every row that closed its thinking waits once and goes on, to `max_tokens` in all; the others stay."""
        most = self.config.max_tokens
        kept = {place: kept_open(row, self.marks.wait) for place, row in enumerate(rows) if row.closed}
        limit = max([1, *(most - len(tokens) for tokens in kept.values())])
        new = dict(enumerate(rows))
        for place, written, finished in self._continued(prompts, kept, limit, seed):
            tokens = [*kept[place], *written]
            new[place] = self.marks.row(tokens[:most], finished and len(tokens) <= most)
        return list(new.values())

    def cap(self, prompts: Sequence[Tokens], rows: Sequence[Row], budget: int, *seed: Any) -> list[Row]:
        """Every row that thinks beyond the budget is cut there and asked for its answer; the others stay."""
        kept = {place: tokens for place, row in enumerate(rows) if (tokens := cut(row, budget)) is not None}
        asked = {place: [*tokens, *self.marks.forced_exit(tokens or prompts[place])] for place, tokens in kept.items()}
        new = dict(enumerate(rows))
        for place, written, finished in self._continued(prompts, asked, self.config.answer_tokens, seed):
            new[place] = Row([*asked[place], *written], finished, budget, closed=False, forced=True)
        return list(new.values())

    def _continued(
        self, prompts: Sequence[Tokens], kept: dict[int, Tokens], limit: int, seed: tuple[Any, ...]
    ) -> list[tuple[int, Tokens, bool]]:
        """(place, what the model writes after prompt and kept tokens, whether it ended) of each kept row."""
        found, places = [], list(kept)
        for start in range(0, len(places), PROBLEMS_AT_ONCE):  # each row has a prompt of its own: no more than an evaluation's
            chunk = places[start : start + PROBLEMS_AT_ONCE]
            rollouts = self.sampler.sample(
                [[*prompts[place], *kept[place]] for place in chunk],
                group_size=1,
                max_tokens=limit,
                temperature=self.config.temperature,
                seed=sampling_seed("budget", self.config.seed, *seed, start),
            )
            lengths, finished = rollouts.lengths.tolist(), rollouts.finished.tolist()
            rows = [tokens[:length] for tokens, length in zip(rollouts.tokens.tolist(), lengths, strict=True)]
            found += list(zip(chunk, rows, finished, strict=True))
        return found
