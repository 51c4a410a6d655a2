"""That the libraries which trainers load with read a dataset folder, and read the same from each of its copies."""

import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from curate.errors import CheckFailed


def load_with_libraries(folder: Path, rows: int) -> dict[str, str]:
    """Library -> what it read, or how to install it.

    Args:
        rows: how many rows the training set must have.

    Raises:
        CheckFailed: a library cannot read a file, or reads something else from one than from the other.
    """
    found = {}
    for name, load in (("datasets", _datasets), ("pandas", _pandas)):
        if find_spec(name) is None:
            found[name] = f"not installed, so not tried: pip install {name}"
            continue
        try:
            read, note = load(folder)
        except Exception as error:  # whatever the library raises, the trainer that loads with it would meet too
            raise CheckFailed(f"{folder}: {name} {version(name)} cannot load it ({type(error).__name__}: {error})") from None
        if read != rows:
            raise CheckFailed(f"{folder}: {name} {version(name)} reads {read} training rows, the manifest has {rows}")
        found[name] = f"{version(name)} reads {rows} rows{note}"
    return found


def _datasets(folder: Path) -> tuple[int, str]:
    """`datasets`, as TRL, LLaMA-Factory, axolotl and open-instruct call it: equal types from JSONL and from Parquet."""
    import datasets

    silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory() as cache:
            lines, pairs = (
                datasets.Dataset.from_json(str(folder / name), cache_dir=cache) for name in ("train.jsonl", "train_pc.jsonl")
            )
            table = datasets.Dataset.from_parquet(str(folder / "train.parquet"), cache_dir=cache)
            return lines.num_rows, _compared(lines, table, pairs)
    finally:
        if not silent:
            datasets.enable_progress_bars()


def _compared(lines: Any, table: Any, pairs: Any) -> str:
    """A note on types that differ where no trainer looks; what trainers read must be the same.

    A column whose lists are all empty has no type in JSONL, so `datasets` cannot join it with another set's.
    """
    if not lines.num_rows == table.num_rows == pairs.num_rows:
        raise ValueError(f"train.jsonl, train.parquet, train_pc.jsonl: {lines.num_rows}, {table.num_rows}, {pairs.num_rows} rows")
    for column in ("id", "messages"):
        if lines.features[column] != table.features[column]:
            raise TypeError(f"{column} is {lines.features[column]} in train.jsonl, {table.features[column]} in train.parquet")
    apart = lines.features != table.features
    return "; train.jsonl has no type for lists that are empty in every row: join sets by their Parquet files" if apart else ""


def _pandas(folder: Path) -> tuple[int, str]:
    """pandas, as verl calls it."""
    import pandas as pd

    messages = pd.read_parquet(folder / "train.parquet", dtype_backend="pyarrow")["messages"]
    wrong = sum([turn["role"] for turn in row] != ["user", "assistant"] for row in messages)
    if wrong:
        raise ValueError(f"{wrong} rows are not a user and an assistant turn")
    return len(messages), ""
