"""Finished steps of a build, kept beside the output until it is whole: a build that was killed goes on where it stood.

The folder is named by a hash of everything that decides the output, and each step's result appears in it whole or not at
all. A build that ends, well or with an error, removes the folder; a kill or Ctrl-C leaves it for the next try.
"""

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from curate.errors import UsageError
from curate.files import content_hash, write_through_memory


class Work:
    """The folder of one build's steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def frame(self, step: str, make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        """The frame of a step: read if it was made before, else made and kept."""
        path = self.folder / f"{step}.parquet"
        if not path.exists():
            write_through_memory(path, make().write_parquet)
        return pl.read_parquet(path)


@contextlib.contextmanager
def work_beside(output: Path, identity: Any) -> Iterator[Work]:
    """The work of building `output`; steps of another identity (recipe, files, version) are thrown away first.

    Args:
        identity: JSON-able.

    Raises:
        UsageError: another build of the same output is under way.
    """
    folder = output.with_name(f".{output.name}.work")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"another build is writing {output}; wait for it, or choose another output") from None
        mine = folder / content_hash(identity)
        for other in folder.iterdir():
            if other.is_dir() and other != mine:
                shutil.rmtree(other)
        mine.mkdir(exist_ok=True)
        _sweep(mine)
        try:
            yield Work(mine)
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what a kill left half-written, so that repeated kills do not fill the disk."""
    for partial in list(folder.rglob(".*.partial")):
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)
