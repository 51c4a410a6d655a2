"""Sources: each turns what it finds into Examples or Problems, and says which line and field is wrong when it cannot."""

import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import polars as pl
from pydantic import Field, model_validator

from curate import arithmetic, formats, gym, word_graph
from curate.behaviors import Style
from curate.config import Config, Count, check_config
from curate.errors import InputError
from curate.examples import Example, Problem, text_id
from curate.files import read_blocks, sha256_file
from curate.plain import plain_rows
from curate.readers import Placed, json_lines, read_rows

BATCH = 2048
"""Rows held as Python objects at a time."""
BLOCK = 1 << 22
"""Bytes of plain JSON lines read at a time."""


@dataclass(frozen=True)
class Embedded:
    """A task that is generated here."""

    examples: Callable[..., Iterator[Example]]
    operations: tuple[int, int]
    """The default range."""
    options: type[Config] = Config
    """What `options` may say; `Config` itself has no settings."""


EMBEDDED = {
    "arithmetic": Embedded(arithmetic.examples, (2, 6)),
    "word_graph": Embedded(word_graph.examples, (4, 8), word_graph.Options),
}
"""Every other task is reasoning-gym's."""

_OF_ROWS = {"format", "columns", "system", "reference", "name"}
_SETTINGS = {
    "path": {"path", *_OF_ROWS},
    "hf": {"hf", "config", "split", "revision", *_OF_ROWS},
    "embedded": {"task", "size", "split", "operations", "styles", "traces", "options"},
    "reasoning-gym": {"task", "size", "options"},
}
"""Which settings each kind of source has."""


class Source(Config):
    """Where rows come from: a file, a Hugging Face data set, or a task that generates them."""

    path: Path | None = None
    """.jsonl, .json, .csv (each also .gz) or .parquet."""
    hf: str | None = None
    """A data set's id on the Hugging Face Hub, or a local folder of one."""
    config: str | None = None
    split: str = "train"
    """Of a Hugging Face data set or an embedded task."""
    revision: str | None = None
    """A commit keeps the data the same for ever."""
    format: formats.Format | None = None
    """Default: what the first row's fields say."""
    columns: dict[formats.Field, str] = {}
    """Where the format's field has another name: `{question: Problem}`."""
    system: Literal["refuse", "drop"] = "refuse"
    """System turns: a data set has none."""
    reference: Literal["required", "optional"] = "required"
    """Optional: rows without a known answer are read too, with an empty one. They are no RL problems, and only `verify: null` keeps them."""
    name: str | None = Field(None, min_length=1)
    """Starts the ids of rows that have none, and is the problems' source (verl's `data_source`). Default: the file's name."""
    task: str | None = Field(None, min_length=1)
    """`arithmetic`, `word_graph`, or a data set of reasoning-gym."""
    size: Count | None = None
    """Task: problems."""
    options: dict[str, Any] = {}
    """Settings of a reasoning-gym task, or of `word_graph`: redundant, shuffle."""
    operations: tuple[int, int] | None = None
    """Embedded task: least and most operations that an answer needs. Default: the task's own range."""
    styles: dict[Style, Annotated[float, Field(ge=0)]] = {"short": 0.4, "long": 0.4, "full": 0.2}
    traces: int = Field(1, ge=1)
    """Embedded task: traces a problem, in different styles."""

    @model_validator(mode="before")
    @classmethod
    def _default_operations(cls, data: Any) -> Any:
        """Written out, so that a manifest tells what was drawn."""
        embedded = EMBEDDED.get(str(data.get("task"))) if isinstance(data, dict) else None
        return {**data, "operations": data.get("operations") or embedded.operations} if embedded else data

    @model_validator(mode="after")
    def _one_kind(self) -> "Source":
        if sum(value is not None for value in (self.path, self.hf, self.task)) != 1:
            raise ValueError("a source is an hf data set, a path or a task: give exactly one of them")
        if self.task and self.size is None:
            raise ValueError("a task needs a size: the number of problems to generate")
        known = _SETTINGS[self.kind]
        for key, value in self:
            if key not in known and value != type(self).model_fields[key].default:
                raise ValueError(f"{key!r} is no setting of {self._called}, which has {', '.join(sorted(known))}")
        if self.task in EMBEDDED:
            check_config(self.options, EMBEDDED[self.task].options, origin=f"options of task {self.task}")
        return self

    @property
    def kind(self) -> str:
        """`path`, `hf`, `embedded` or `reasoning-gym`."""
        if self.task is None:
            return "path" if self.path else "hf"
        return "embedded" if self.task in EMBEDDED else "reasoning-gym"

    @property
    def _called(self) -> str:
        if self.kind == "reasoning-gym":
            return f"{self.task}, a task of reasoning-gym (embedded are {', '.join(EMBEDDED)})"
        return f"the task {self.task}" if self.task else f"a source with {self.kind}"

    @property
    def label(self) -> str:
        """What ids start with: `name`, else the task, the file's name without its ending, or the last part of the hub's id."""
        if self.path is None:
            return self.name or self.task or Path(self.hf or "").name
        return self.name or Path(self.path.name.removesuffix(".gz")).stem

    def anchored(self, folder: Path) -> "Source":
        """The same source, its relative path taken from `folder`."""
        if self.path is not None:
            return self.model_copy(update={"path": folder / self.path})
        if self.hf is not None and (folder / self.hf).is_dir():
            return self.model_copy(update={"hf": str(folder / self.hf)})
        return self

    def facts(self) -> dict[str, Any]:
        """What a manifest says of it: where it is, and what pins its content."""
        if self.path is not None:
            return {"path": str(self.path), "sha256": sha256_file(self.path)}
        if self.hf is not None:
            return {"hf": self.hf, "config": self.config, "split": self.split, "revision": self.revision}
        return {"task": self.task, "size": self.size}


def load(source: Source, seed: int) -> Iterator[Example]:
    """Yield the examples of one source, one at a time.

    Raises:
        InputError: an unreadable file, or a row of another shape, with its line and field.
        UsageError: a library is missing, or a task has no such setting.
    """
    if source.task in EMBEDDED:
        yield from _embedded(source, seed)
        return
    yield from _examples(source, _rows(source, seed))


def load_batches(source: Source, seed: int) -> Iterator[list[Example] | pl.DataFrame]:
    """The examples of `load`, in batches; those of plain JSON lines as a frame.

    Its columns are id, problem_id, prompt, completion, ground_truth and source; `meta` and spans are empty.

    Raises:
        InputError, UsageError: as `load`.
    """
    path = source.path
    if path is None or not _may_be_plain(source):
        yield from batches(load(source, seed))
        return
    messages = source.model_copy(update={"format": "messages"})
    blocks = read_blocks(path, BLOCK)
    for first, block in itertools.chain([next(blocks, (1, b""))], blocks):
        plain = plain_rows(block)
        if plain is not None and (source.reference == "optional" or not plain["ground_truth"].has_nulls()):
            yield _named(source, plain)
        elif first == 1:  # the first row says what format the file has
            yield from batches(load(source, seed))
            return
        else:
            yield list(_examples(messages, _of_records(messages, json_lines(path, io.BytesIO(block), first))))


def batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Lists of at most `BATCH` examples."""
    stream = iter(examples)
    while batch := list(itertools.islice(stream, BATCH)):
        yield batch


def _may_be_plain(source: Source) -> bool:
    name = source.path.name.lower().removesuffix(".gz") if source.path else ""
    return name.endswith((".jsonl", ".ndjson")) and source.format in (None, "messages") and not source.columns


def _named(source: Source, plain: pl.DataFrame) -> pl.DataFrame:
    """Plain rows with what `_examples` would add to each."""
    label = source.label
    texts = zip(plain["id"], plain["prompt"], plain["completion"], strict=True)
    return plain.with_columns(
        pl.col("ground_truth").fill_null(""),
        id=pl.Series([f"{label}-{text_id(prompt + done)}" if name is None else name for name, prompt, done in texts]),
        problem_id=pl.Series([text_id(prompt) for prompt in plain["prompt"]]),
        source=pl.lit(source.name or label),
    )


def _examples(source: Source, rows: Iterable[tuple[str, formats.Row]]) -> Iterator[Example]:
    label = source.label
    for place, row in rows:
        if row.completion is None:
            raise InputError(f"{place}: {row.no_trace}")
        yield Example(_row_id(label, row), _problem(source, label, row, text_id(row.prompt)), row.completion, {})


def load_problems(source: Source, seed: int) -> Iterator[tuple[str, Problem]]:
    """Yield (row id, problem) of every row, one with a worked solution or without.

    The row id is the example's where `load` would give one: several traces of a problem are several rows. A row
    without a worked solution names its problem, which takes over the row's own id.

    Under `reference: optional` a problem's `ground_truth` may be empty: it cannot be used for RL.

    Raises:
        InputError, UsageError: as `load`.
    """
    if source.task in EMBEDDED:
        yield from ((example.id, example.problem) for example in _embedded(source, seed))
        return
    label = source.label
    for _, row in _rows(source, seed):
        row_id = _row_id(label, row)
        problem_id = row_id if row.completion is None and row.id is not None else text_id(row.prompt)
        yield row_id, _problem(source, label, row, problem_id)


def problems_of_file(path: Path) -> list[Problem]:
    """The problems of a file that rows are compared with, those without a known answer too.

    Raises:
        InputError: as `load_problems`.
    """
    return [problem for _, problem in load_problems(Source(path=path, reference="optional"), 0)]


def _embedded(source: Source, seed: int) -> Iterator[Example]:
    task = EMBEDDED[source.task or ""]
    shape = {"size": source.size, "operations": source.operations, "styles": source.styles, "traces": source.traces}
    return task.examples(**shape, split=source.split, seed=seed, **task.options(**source.options).model_dump())


def _problem(source: Source, label: str, row: formats.Row, problem_id: str) -> Problem:
    return Problem(problem_id, row.prompt, row.reference or "", source.name or row.source or label, row.meta)


def _row_id(label: str, row: formats.Row) -> str:
    """The row's own id; a number names nothing beside other files' numbers, so the label stands before it; else by content."""
    if isinstance(row.id, str):
        return row.id
    return f"{label}-{text_id(row.prompt + (row.completion or '')) if row.id is None else row.id}"


def _rows(source: Source, seed: int) -> Iterator[tuple[str, formats.Row]]:
    if source.task is not None:
        assert source.size is not None  # checked by Source
        generated = gym.rows(source.task, source.size, source.options, seed, embedded=EMBEDDED)
        yield from ((source.task, row) for row in generated)
        return
    yield from _of_records(source, _records(source))


def _of_records(source: Source, records: Iterable[Placed]) -> Iterator[tuple[str, formats.Row]]:
    read = formats.READERS[source.format] if source.format else None
    for place, record in records:
        try:
            fields = record | {str(ours): record.get(theirs) for ours, theirs in source.columns.items()}
            read = read or formats.READERS[formats.detect(fields)]
            row = read(fields, source.system == "drop")
            if row.reference is None and source.reference == "required":
                raise ValueError(formats.NO_REFERENCE)
        except ValueError as error:
            raise InputError(f"{place}: {error}") from None
        yield place, row


def _records(source: Source) -> Iterator[Placed]:
    wanted = {*get_args(formats.Field), *source.columns.values()}
    if source.path is not None:
        return read_rows(source.path, wanted)
    from curate.hub import read_hub

    return read_hub(source.hf or "", source.config, source.split, source.revision, wanted)
