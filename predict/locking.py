"""One writer of a workspace's store at a time, among processes."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the workspace's lock; wait for another that holds it, and say so on stderr. The lock of a killed process is free."""
    path, is_new = home / ".ingest.lock", not home.exists()
    handle = _acquired(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
        if is_new:
            with contextlib.suppress(OSError):  # holds something now
                home.rmdir()


def _acquired(path: Path) -> int:
    """A descriptor that holds the lock of the file that bears this name now: its last holder removed the one before."""
    has_said = False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the folder went between the two calls
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not has_said:
                    print(f"waiting for another ingest or export of {path.parent} to end", file=sys.stderr, flush=True)
                has_said = True
                fcntl.flock(handle, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(handle).st_ino == path.stat().st_ino:
                    return handle
            os.close(handle)
