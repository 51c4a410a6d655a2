"""What five trainers make of a row: the tokens they feed the model, which of them carry loss, what a length limit does.

Each function below follows the trainer's own code for an SFT row of one user and one assistant turn, at the version
named in TRAINERS; `tests/golden/trainers.jsonl` holds what that code gave.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from curate.templates import ChatTemplate, Message, Token, assistant, user

EMPTY_THINKING = "<think>\n\n</think>\n\n"
MISMATCH = "renders turn by turn, which differs here from the whole conversation: MultiTurnSFTDataset.sanity_check raises"
EOS_WITHIN = 3
"""axolotl trains on the end-of-sequence token that stands at most so far after the turn."""


@dataclass(frozen=True)
class Encoded:
    """A row as the model reads it."""

    tokens: list[Token]
    loss: list[bool]
    """Which tokens carry loss."""
    refused: str = ""
    """Why the trainer stops at this row; empty where it does not."""

    @property
    def text(self) -> str:
        """All that the model reads."""
        return "".join(token.text for token in self.tokens)

    @property
    def trained(self) -> str:
        """What of it carries loss."""
        return "".join(token.text for token, loss in zip(self.tokens, self.loss, strict=True) if loss)

    def first(self, tokens: int) -> "Encoded":
        """The row cut after so many tokens."""
        return replace(self, tokens=self.tokens[:tokens], loss=self.loss[:tokens])


def _from(tokens: list[Token], start: int, end: int | None = None) -> Encoded:
    """Loss on tokens [start, end)."""
    end = len(tokens) if end is None else end
    return Encoded(tokens, [start <= place < end for place in range(len(tokens))])


def _common_prefix(one: list[Token], other: list[Token]) -> int:
    """How many leading ids are the same."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a.id != b.id:
            return place
    return min(len(one), len(other))


def _trl(row: list[Message], template: ChatTemplate) -> Encoded:
    """SFTTrainer on prompt and completion: loss from where the prompt with its generation prompt and the whole differ."""
    whole = template.tokens(row)
    return _from(whole, _common_prefix(template.tokens(row[:-1], True), whole))


@lru_cache
def _verl_marks(template: ChatTemplate) -> tuple[int, int]:
    """extract_system_prompt_and_generation: tokens of the default system turn, and of the generation prompt."""
    empty = [user("")]
    one, two = template.tokens(empty), template.tokens(empty * 2)
    return len(one[: len(one) - len(two)]), len(template.tokens(empty, True)) - len(one)


def _verl(row: list[Message], template: ChatTemplate) -> Encoded:
    """MultiTurnSFTDataset: each turn rendered alone and joined; loss on the assistant turn after the generation prompt."""
    system, header = _verl_marks(template)
    whole = template.tokens(row)
    try:
        prompt, turn = template.tokens(row[:-1]), template.tokens(row[-1:])[system:]
    except Exception as error:  # a template may insist on a user turn first
        return replace(_from(whole, len(whole)), refused=f"cannot render a turn alone ({error})")
    encoded = _from(prompt + turn, len(prompt) + header)
    same = [token.id for token in encoded.tokens] == [token.id for token in whole]
    return encoded if same else replace(encoded, refused=MISMATCH)


def _llamafactory(row: list[Message], template: ChatTemplate) -> Encoded:
    """SupervisedDatasetProcessor with LLaMA-Factory's own template of the family, which keeps the content verbatim.

    A reasoning template writes an empty thinking block, with loss, before content that has no thinking.
    """
    content = row[-1]["content"]
    bare = template.knows_thinking and "<think>" not in content and "</think>" not in content
    source = template.tokenize(template.render(row[:-1], True).removesuffix("<think>\n"))
    target = template.tokenize(EMPTY_THINKING) if bare else []
    target = target + template.tokenize(content + template.ending)
    return _from(source + target, len(source))


def _axolotl(row: list[Message], template: ChatTemplate) -> Encoded:
    """ChatTemplateStrategy.find_turn: loss where the row differs from one with a dummy answer, and on the next EOS."""
    whole, dummy = template.tokens(row), template.tokens([*row[:-1], assistant("[[dummy_message]]")])
    start = _common_prefix(dummy, whole)
    end = len(whole) - _common_prefix(dummy[::-1], whole[::-1])
    if start == min(len(whole), len(dummy)) or end <= start:
        return _from(whole, len(whole))
    loss = [start <= place < end for place in range(len(whole))]
    for place in range(end, min(end + EOS_WITHIN + 1, len(whole))):
        if whole[place].id == template.eos_id:
            loss[place] = True
            break
    return Encoded(whole, loss)


def _open_instruct(row: list[Message], template: ChatTemplate) -> Encoded:
    """sft_tulu_tokenize_and_truncate_v1: loss from the end of the generation prompt, counted in characters or in tokens."""
    header, rendered = template.render(row[:-1], True), template.render(row, False)
    whole = template.tokenize(rendered)
    if not rendered.startswith(header):
        return _by_token_count(row, whole, len(template.tokenize(header)), rendered)
    loss, place = [], 0
    for token in whole:
        place += len(token.text)
        loss.append(place > len(header))
    return Encoded(whole, loss)


def _by_token_count(row: list[Message], whole: list[Token], start: int, rendered: str) -> Encoded:
    """open-instruct's second way; a row whose content it cannot find again in the trained part is masked out."""
    encoded, content = _from(whole, start), row[-1]["content"]
    if content in rendered and not encoded.trained.lstrip().startswith(content):
        return _from(whole, len(whole))
    return encoded


def _keep_start(encoded: Encoded, limit: int) -> Encoded | None:
    """Cut the end; a row that has no token left to train on is dropped."""
    cut = encoded.first(limit)
    return cut if any(cut.loss) else None


def _llamafactory_cut(encoded: Encoded, limit: int) -> Encoded:
    """infer_seqlen: the target is cut where the prompt is short, the prompt where the target is, else both."""
    source = encoded.loss.index(True) if any(encoded.loss) else len(encoded.tokens)
    target = len(encoded.tokens) - source
    if target * 2 < limit:
        most = limit
    elif source * 2 < limit:
        most = limit - source
    else:
        most = int(limit * target / (source + target))
    kept_target = min(most, target)
    kept_source = min(max(limit - kept_target, 0), source)
    tokens = encoded.tokens[:kept_source] + encoded.tokens[source : source + kept_target]
    return _from(tokens, kept_source)


def _drop(encoded: Encoded, limit: int) -> None:
    """Rows over the limit are left out."""


def _refuse(encoded: Encoded, limit: int) -> Encoded:
    return replace(encoded, refused=f"longer than the limit of {limit}: MultiTurnSFTDataset raises ValueError")


@dataclass(frozen=True)
class Trainer:
    """One trainer's way with a dataset folder."""

    name: str
    version: str
    """The release, or commit, whose code the functions follow."""
    reads: str
    """The file of the folder that its stub names."""
    length_key: str
    """Dotted name of the limit in its config."""
    default_length: int | None
    encode: Callable[[list[Message], ChatTemplate], Encoded]
    over_limit: Callable[[Encoded, int], Encoded | None]
    """What becomes of a row over the limit; None: it is dropped."""

    def limited(self, encoded: Encoded, limit: int | None) -> Encoded | None:
        """The row as it is trained on under a limit in tokens, or None where it is dropped."""
        if limit is None or len(encoded.tokens) <= limit:
            return encoded if any(encoded.loss) or self.over_limit is not _keep_start else None
        return self.over_limit(encoded, limit)


TRAINERS = {
    trainer.name: trainer
    for trainer in (
        Trainer("trl", "1.16.0", "train_pc.jsonl", "max_length", 1024, _trl, _keep_start),
        Trainer("verl", "0.9.1", "train.parquet", "data.max_length", 1024, _verl, _refuse),
        Trainer("llamafactory", "0.9.5", "train.jsonl", "cutoff_len", 2048, _llamafactory, _llamafactory_cut),
        Trainer("axolotl", "0.21.0", "train.jsonl", "sequence_len", 512, _axolotl, _drop),
        Trainer("open-instruct", "e6c3044", "train.jsonl", "max_seq_length", None, _open_instruct, _keep_start),
    )
}
