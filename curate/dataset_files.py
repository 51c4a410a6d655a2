"""The training files of a dataset folder, written row by row: JSONL, Parquet and TRL's prompt-completion JSONL."""

import contextlib
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, TextIO

from curate.examples import Example, arrow_table, example_row, schema
from curate.files import atomic_file, canonical_json
from curate.lengths import TokenCounter

BATCH = 8192
_LINE = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


@dataclass
class Facts:
    """What was seen of the training rows while they were written."""

    content_hash: str = ""
    lengths: list[int] = field(default_factory=list)
    """Completion tokens of each row."""
    longest_prompt: int = 0
    longest_row: int = 0
    """Prompt and completion tokens of one row."""
    longest_bytes: int = 0
    """The same in UTF-8 bytes: no byte-level tokenizer makes more tokens of it."""
    showing: Counter[str] = field(default_factory=Counter)
    """Rows that show each behaviour."""
    spans: Counter[str] = field(default_factory=Counter)

    def see(self, examples: list[Example], count: TokenCounter) -> None:
        """Take account of some rows."""
        prompts = count.all([example.problem.prompt for example in examples])
        completions = count.all([example.completion for example in examples])
        self.lengths += completions
        self.longest_prompt = max(self.longest_prompt, *prompts)
        self.longest_row = max(self.longest_row, *map(sum, zip(prompts, completions, strict=True)))
        for example in examples:
            self.longest_bytes = max(self.longest_bytes, len((example.problem.prompt + example.completion).encode()))
            if example.spans:
                self.showing.update({span.behavior for span in example.spans})
                self.spans.update(span.behavior for span in example.spans)


def write_train(folder: Path, examples: Iterable[Example], epochs: int, count: TokenCounter) -> Facts:
    """Write train.jsonl, train.parquet and train_pc.jsonl; memory holds one batch.

    The content hash is that of the canonical JSON of [rows, epochs].
    """
    import pyarrow.parquet as pq

    facts, digest, separator = Facts(), hashlib.sha256(b"[["), ""
    with contextlib.ExitStack() as stack:
        plain, pairs = (_text_file(stack, folder / name) for name in ("train.jsonl", "train_pc.jsonl"))
        partial = stack.enter_context(atomic_file(folder / "train.parquet"))
        table = stack.enter_context(pq.ParquetWriter(partial, schema("examples"), compression="zstd"))
        stream = iter(examples)
        while batch := list(itertools.islice(stream, BATCH)):
            facts.see(batch, count)
            rows = [example_row(example) for example in batch]
            for row in rows:
                line, pair, canonical = _as_json(row)
                plain.write(line)
                pairs.write(pair)
                digest.update(f"{separator}{canonical}".encode())
                separator = ","
            table.write_table(arrow_table(rows, "examples"))
    digest.update(f"],{epochs}]".encode())
    facts.content_hash = digest.hexdigest()[:16]
    return facts


def _text_file(stack: contextlib.ExitStack, path: Path) -> TextIO:
    partial = stack.enter_context(atomic_file(path))
    return stack.enter_context(partial.open("w", encoding="utf-8"))


def _as_json(row: dict[str, Any]) -> tuple[str, str, str]:
    """A row's line of train.jsonl, that of train_pc.jsonl and its canonical JSON; the texts, most of it, are quoted once."""
    name, prompt, completion = map(encode_basestring, (row["id"], *(turn["content"] for turn in row["messages"])))
    user, assistant = f'{{"role": "user", "content": {prompt}}}', f'{{"role": "assistant", "content": {completion}}}'
    turns = f'{{"content":{prompt},"role":"user"}},{{"content":{completion},"role":"assistant"}}'
    meta, canonical = _meta_as_json(row["meta"])
    return (
        f'{{"id": {name}, "messages": [{user}, {assistant}], "meta": {meta}}}\n',
        f'{{"id": {name}, "prompt": [{user}], "completion": [{assistant}]}}\n',
        f'{{"id":{name},"messages":[{turns}],"meta":{canonical}}}',
    )


def _meta_as_json(meta: dict[str, Any]) -> tuple[str, str]:
    """The facts about a row as they stand in its line, and as canonical JSON."""
    problem, truth, source, style = map(
        encode_basestring, (meta["problem_id"], meta["ground_truth"], meta["source"], meta["style"])
    )
    operations, spans = meta["operations"], meta["spans"]
    plain, canonical = (_LINE.encode(spans), canonical_json(spans)) if spans else ("[]", "[]")
    return (
        f'{{"problem_id": {problem}, "ground_truth": {truth}, "source": {source}, '
        f'"operations": {operations}, "style": {style}, "spans": {plain}}}',
        f'{{"ground_truth":{truth},"operations":{operations},"problem_id":{problem},'
        f'"source":{source},"spans":{canonical},"style":{style}}}',
    )
