"""What a trainer sees of a dataset: every row rendered, tokenized, masked and held to a length as the trainer would.

A row is *lost* where it is cut, dropped or refused, or where its thinking carries no loss any more.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from curate.examples import Example
from curate.templates import ChatTemplate, assistant, user
from curate.trainers import Encoded, Trainer

SHOWN = 60
"""Characters of text shown on each side of where the loss begins."""


def thinking_of(completion: str) -> str:
    """The text that must survive: what stands between <think> and the last </think>, else the whole completion."""
    before, mark, _ = completion.rpartition("</think>")
    return (before.partition("<think>")[2] or before).strip() if mark else completion.strip()


@dataclass
class Tally:
    """Rows of one trainer under one limit."""

    limit: int | None
    rows: int = 0
    cut: int = 0
    """Rows that reach the trainer shorter than they are."""
    dropped: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Rows that end the run, by what the trainer says."""
    unread: int = 0
    """Rows whose thinking the model does not read in full."""
    untrained: int = 0
    """Rows whose thinking does not carry loss in full."""
    lost: int = 0
    tokens: int = 0
    """Tokens that carry loss."""

    def add(self, trainer: Trainer, encoded: Encoded, thinking: str) -> None:
        """Count one row."""
        kept = trainer.limited(encoded, self.limit)
        refused = kept.refused if kept else ""
        reached = None if refused else kept
        cut = reached is not None and len(reached.tokens) < len(encoded.tokens)
        trained = reached is not None and thinking in reached.trained
        self.rows += 1
        self.cut += cut
        self.dropped += kept is None
        self.refused.update([refused] if refused else [])
        self.unread += kept is None or thinking not in kept.text
        self.untrained += not trained
        self.lost += cut or not trained
        self.tokens += sum(reached.loss) if reached else 0


@dataclass
class View:
    """What one trainer sees: under the limit in question, and under the one its stub states."""

    trainer: Trainer
    asked: Tally
    stub: Tally | None
    longest: int = 0
    beginning: dict[str, str] = field(default_factory=dict)
    """Of the first row: the text before the loss begins, and what carries loss first and last."""

    def add(self, example: Example, template: ChatTemplate) -> None:
        """Render and count one row."""
        encoded = self.trainer.encode([user(example.problem.prompt), assistant(example.completion)], template)
        thinking = thinking_of(example.completion)
        self.longest = max(self.longest, len(encoded.tokens))
        for tally in filter(None, (self.asked, self.stub)):
            tally.add(self.trainer, encoded, thinking)
        self.beginning = self.beginning or _beginning(encoded)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        asked, stub = self.asked, self.stub
        return {
            "trainer": self.trainer.name,
            "version": self.trainer.version,
            "reads": self.trainer.reads,
            "limit": asked.limit,
            "longest": self.longest,
            "rows": asked.rows,
            "cut": asked.cut,
            "dropped": asked.dropped,
            "refused": dict(asked.refused),
            "thinking_unread": asked.unread,
            "thinking_untrained": asked.untrained,
            "lost": asked.lost,
            "tokens_with_loss": asked.tokens,
            "loss": self.beginning or {"after": "", "first": "", "last": ""},
            "stub": {"limit": stub.limit, "lost": stub.lost} if stub else None,
        }


def _beginning(encoded: Encoded) -> dict[str, str]:
    start = encoded.loss.index(True) if any(encoded.loss) else len(encoded.loss)
    trained = encoded.trained
    before = "".join(token.text for token in encoded.tokens[:start])
    return {"after": before[-SHOWN:], "first": trained[:SHOWN], "last": trained[-SHOWN:]}


def view(
    examples: Iterable[Example], template: ChatTemplate, trainers: list[tuple[Trainer, int | None, int | None]]
) -> list[View]:
    """What each trainer sees of the examples.

    Args:
        examples: rows of train.jsonl.
        template: how they are rendered and tokenized.
        trainers: (trainer, limit in question, limit of its stub), limits in the template's tokens; None: no limit, no stub.
    """
    views = [View(trainer, Tally(limit), Tally(stub) if stub else None) for trainer, limit, stub in trainers]
    for example in examples:
        for each in views:
            each.add(example, template)
    return views


def loss_in_words(seen: View, template: ChatTemplate) -> str:
    """What a trainer loses under the limit in question, and what to do; empty where nothing is lost."""
    asked, trainer = seen.asked, seen.trainer
    if not asked.lost:
        return ""
    said = [f"{rows} refused: {reason}" for reason, rows in asked.refused.items()]
    said += [f"{asked.dropped} dropped"] * bool(asked.dropped) + [f"{asked.cut} cut"] * bool(asked.cut)
    whole = asked.untrained - asked.dropped - sum(asked.refused.values())
    said += [f"the thinking of {whole} is not all trained on"] * bool(whole > 0)
    return f"{trainer.name}: of {asked.rows} rows {'; '.join(said)}. {_advice(seen, template)}"


def _advice(seen: View, template: ChatTemplate) -> str:
    """A longer limit where the limit is at fault, else another template."""
    asked, trainer = seen.asked, seen.trainer
    if asked.limit is not None and seen.longest > asked.limit:
        return f"Set {trainer.length_key}: {seen.longest} in place of {asked.limit}"
    if asked.refused:
        forced = ", and with ignore_input_ids_mismatch it trains without the thinking" if asked.unread else ""
        return f"Choose a template that renders a turn alone as in its place: {template.name} does not{forced}"
    return f"The template {template.name} drops it: choose one that keeps the thinking of assistant turns"


def stub_in_words(seen: View) -> str:
    """What a trainer's stub in the folder would lose by its length."""
    stub, trainer = seen.stub, seen.trainer
    if stub is None or stub.limit is None or seen.longest <= stub.limit:
        return ""
    return f"trainers/{trainer.name}: states {trainer.length_key} {stub.limit}, the longest row has {seen.longest}: write that"


def in_text(report: dict[str, Any]) -> str:
    """The report of `curate check` for a person."""
    lines = [f"{report['train']} train, {report['heldout']} held out, {report['rl']} for RL: hashes, copies and accounts agree"]
    lines += [f"{name} {what}" for name, what in report["loads"].items()]
    lines += [f"template {report['template']}, lengths in {report['unit']}", ""]
    lines.append(f"{'trainer':15s}{'limit':>8s}{'longest':>9s}{'cut':>7s}{'dropped':>9s}{'refused':>9s}  thinking")
    for seen in report["trainers"]:
        refused, limit = sum(seen["refused"].values()), "none" if seen["limit"] is None else seen["limit"]
        counts = f"{limit:>8}{seen['longest']:>9}{seen['cut']:>7}{seen['dropped']:>9}{refused:>9}"
        lines.append(f"{seen['trainer']:15s}{counts}  {_thinking(seen)}")
    lines += ["", "loss begins after | on"]
    lines += [f"{seen['trainer']:15s}{seen['loss']['after'][-30:]!r} | {_both_ends(seen['loss'])}" for seen in report["trainers"]]
    if report["unit"] == "words":
        lines += ["", "A model's tokenizer makes more tokens than words: --template MODEL counts them."]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in report["warnings"])])


def _thinking(seen: dict[str, Any]) -> str:
    if not seen["thinking_untrained"]:
        return "trained on in all rows"
    return f"read in {seen['rows'] - seen['thinking_unread']}, trained on in {seen['rows'] - seen['thinking_untrained']}"


def _both_ends(loss: dict[str, str]) -> str:
    return f"{loss['first'][:30]!r} ... {loss['last'][-25:]!r}"
