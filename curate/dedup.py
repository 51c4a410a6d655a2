"""Repeats among training rows: equal rows, near-equal questions, and what to do when their reference answers differ.

Exact repeats are rows (question and completion); near repeats are questions, and all traces of a kept question stay. The
keeper never depends on the order of the rows: verified ones first, then the smallest id (`ranked`). Every dropped row names
its keeper. Near questions with different reference answers are settled by the traces: if those of exactly one answer are
verified, that one stays; else all rows go, since nothing says which is right.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import polars as pl
from pydantic import Field

from curate.answers import Verdict, verify
from curate.config import Config
from curate.examples import text_id
from curate.near import near_clusters
from curate.shingles import Numbers

FOUND = pl.Schema({"row": pl.Int64, "id": pl.String, "reason": pl.String, "partner_id": pl.String, "similarity": pl.Float64})


class Dedup(Config):
    """Removal of repeats. Exact: equal question and completion after folding case and white space."""

    exact: bool = True
    near: float | None = Field(None, gt=0, le=1)
    """Least Jaccard similarity, over word shingles, at which two questions are one; null looks at equal rows only."""
    against: tuple[Path, ...] = ()
    """Rows whose question repeats one of these files' are dropped; nothing is taken out of the files."""
    shingle: int = Field(3, ge=1, le=32)
    """Words a shingle. In 50 words, one changed in the middle leaves a similarity of 0.88 at 3 words, 0.82 at 5."""
    numbers: Numbers = "distinct"
    """`distinct`: questions with other numbers are other problems, as in templated math. `ignore`: all numbers read alike;
    different answers are then expected, and no conflict."""


def exact_key(text: str) -> str:
    """A hash shared by texts that differ in case and white space only."""
    return text_id(" ".join(text.lower().split()), 32)


def ranked(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows from the best keeper down: verified first, then by id; the texts decide between equal ids."""
    return rows.sort(~pl.col("verified").fill_null(False), "id", "prompt", "ground_truth", "row")


def find_duplicates(rows: pl.DataFrame, config: Dedup, against: pl.DataFrame | None = None) -> pl.DataFrame:
    """The rows to drop, one line each, in the order of `rows`.

    Args:
        rows: id, prompt, ground_truth, verified (whether the row's own trace yields its reference answer; null counts as
            no), exact_key (of question and completion), prompt_key (`exact_key` of the question).
        against: id and prompt of the questions that must not be repeated.

    Returns:
        row (its index in `rows`), id, reason, partner_id, and similarity: the Jaccard similarity of the two questions, null
        where none was computed. Reasons: `exact_duplicate`, `repeats_reference` (partner_id is the reference's),
        `near_duplicate`, `conflicting_answer` (the partner is the keeper, or a row with another answer where all go).
    """
    left = ranked(rows.with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64)))
    found = [pl.DataFrame(schema=FOUND)]
    for step in (_exact, _references, _near):
        found.append(step(left, config, against))
        left = left.join(found[-1], on="row", how="anti", maintain_order="left")
    return pl.concat(found).sort("row")


def _exact(rows: pl.DataFrame, config: Dedup, _: pl.DataFrame | None) -> pl.DataFrame:
    repeats = rows.with_columns(
        partner_id=pl.col("id").first().over("exact_key"), is_first=pl.col("exact_key").is_first_distinct()
    )
    return _as_found(repeats.filter(~pl.col("is_first") & config.exact), "exact_duplicate")


def _references(rows: pl.DataFrame, config: Dedup, against: pl.DataFrame | None) -> pl.DataFrame:
    """Rows whose question is that of a reference but for case and white space; near ones are found with the near ones."""
    if against is None:
        return pl.DataFrame(schema=FOUND)
    keys = pl.Series([exact_key(prompt) for prompt in against["prompt"]], dtype=pl.String)
    known = against.select(prompt_key=keys, partner_id="id").unique("prompt_key", keep="first", maintain_order=True)
    repeats = rows.join(known, on="prompt_key", how="inner", maintain_order="left")
    return _as_found(repeats.with_columns(similarity=pl.lit(1.0)), "repeats_reference")


def _near(rows: pl.DataFrame, config: Dedup, against: pl.DataFrame | None) -> pl.DataFrame:
    if config.near is None:
        return pl.DataFrame(schema=FOUND)
    questions = rows.unique("prompt_key", keep="first", maintain_order=True).select("prompt_key", "prompt", first_id="id")
    known = pl.DataFrame(schema={"id": pl.String, "prompt": pl.String}) if against is None else against
    clusters = near_clusters(
        questions["prompt"], config.near, reference=known["prompt"], shingle=config.shingle, numbers=config.numbers
    )
    near = questions.with_columns(
        number=pl.int_range(pl.len(), dtype=pl.Int64),
        keeper=pl.Series(clusters.keeper),
        similarity=pl.Series(clusters.similarity),
    )
    rows = rows.join(near.drop("prompt", "first_id"), on="prompt_key", how="left", maintain_order="left")
    outside = rows.filter(pl.col("keeper") < 0)
    outside = outside.with_columns(partner_id=known["id"].gather(-1 - outside["keeper"]))
    inside = rows.filter(pl.col("keeper") >= 0)
    inside = inside.with_columns(partner_id=questions["first_id"].gather(inside["keeper"]))
    return pl.concat([_as_found(outside, "repeats_reference"), _inside(inside, config)])


def _inside(rows: pl.DataFrame, config: Dedup) -> pl.DataFrame:
    """Near repeats among the rows; `keeper` says which question each one's is a repeat of, itself included."""
    several = pl.col("ground_truth").n_unique().over("keeper") > 1
    disputed = rows.filter(several & (config.numbers == "distinct"))
    settled = [row for cluster in disputed.partition_by("keeper", maintain_order=True) for row in _settled(cluster)]
    plain = rows.join(disputed, on="row", how="anti", maintain_order="left").filter(pl.col("keeper") != pl.col("number"))
    return pl.concat([_as_found(plain, "near_duplicate"), pl.DataFrame(settled, schema=FOUND, orient="row")])


def _settled(cluster: pl.DataFrame) -> Iterator[tuple[int, str, str, str, float]]:
    """What to drop of one question and its near repeats, whose reference answers are not all written alike."""
    answers = _unified(cluster["ground_truth"].to_list())
    ids = cluster["id"].to_list()
    proven = {answer for answer, verified in zip(answers, cluster["verified"], strict=True) if verified}
    undecided = len(set(answers)) > 1 and len(proven) != 1
    for row, answer in zip(cluster.iter_rows(named=True), answers, strict=True):
        reason, partner = "near_duplicate", row["partner_id"]
        if undecided:
            reason, partner = "conflicting_answer", next(i for i, other in zip(ids, answers, strict=True) if other != answer)
        elif proven and answer not in proven:
            reason = "conflicting_answer"
        elif row["keeper"] == row["number"]:
            continue
        yield row["row"], row["id"], reason, partner, row["similarity"]


def _unified(answers: list[str]) -> list[str]:
    """Each answer as the first one that it is not known to differ from."""
    kinds: list[str] = []
    for answer in answers:
        if not any(_same_answer(answer, kind) for kind in kinds):
            kinds.append(answer)
    return [next(kind for kind in kinds if _same_answer(answer, kind)) for answer in answers]


@lru_cache(maxsize=65_536)
def _same_answer(left: str, right: str) -> bool:
    """Undecidable counts as the same: then one of the two questions stays, where a conflict would cost both."""
    return left == right or verify(rf"\boxed{{{left}}}", ground_truth=right) != Verdict.INCORRECT


def _as_found(rows: pl.DataFrame, reason: str) -> pl.DataFrame:
    if "similarity" not in rows.columns:
        rows = rows.with_columns(similarity=pl.lit(None, pl.Float64))
    return rows.with_columns(reason=pl.lit(reason)).select(FOUND.names()).cast(FOUND)
