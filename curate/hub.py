"""Rows of a data set of the Hugging Face Hub, or of a local folder of one, through the `datasets` library."""

import logging
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from curate.errors import InputError, UsageError
from curate.readers import BATCH_ROWS, NAMED_COLUMNS, Placed

SAVED = ("state.json", "dataset_dict.json")
"""What `save_to_disk` leaves in a folder."""


def read_hub(name: str, config: str | None, split: str, revision: str | None, fields: Collection[str]) -> Iterator[Placed]:
    """Yield every row of one split with its place, out of a memory-mapped table.

    Args:
        name: an id (`openai/gsm8k`), a folder of data files, or a folder written by `save_to_disk`.
        fields: the columns that are needed.

    Raises:
        UsageError: the `datasets` library is not installed.
        InputError: it cannot be reached, or has no such config, split or revision.
    """
    try:
        import datasets
    except ImportError:
        raise UsageError(
            "a source with hf needs the datasets library: pip install 'forerun[hf]', or give a file as path"
        ) from None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its notes on retries; the error below says it once
    try:
        table = _opened(datasets, name, config, split, revision)
    except ConnectionError:
        raise InputError(
            f"{name}: the Hub cannot be reached and the data set is not in the local cache; download it where there is a network "
            "(the cache is $HF_HOME), or give a folder as hf or a file as path"
        ) from None
    except (OSError, ValueError, KeyError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"{name}: cannot be read as a data set ({str(error).strip().splitlines()[0]:.300})") from None
    columns = [column for column in table.column_names if column in fields] or table.column_names[:NAMED_COLUMNS]
    number = 0
    for batch in table.select_columns(columns).with_format("arrow").iter(BATCH_ROWS):
        for row in batch.to_pylist():
            number += 1
            yield f"{name} ({split}), row {number}", row


def _opened(datasets: Any, name: str, config: str | None, split: str, revision: str | None) -> Any:
    """The table of one split."""
    if not any((Path(name) / mark).exists() for mark in SAVED):
        return datasets.load_dataset(name, config, split=split, revision=revision)
    saved = datasets.load_from_disk(name)
    if not isinstance(saved, datasets.DatasetDict):
        return saved
    if split not in saved:
        raise ValueError(f"expected a split of {', '.join(saved)}, came {split!r}")
    return saved[split]
