"""Reading and writing files so that nothing is ever half-visible: write to a temporary name, then rename."""

import codecs
import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from curate.errors import InputError, OutputExists

LARGEST_ROW = 64 << 20
"""Bytes of one row of a text file. A longer one is no row (a file without line ends, mostly), and would fill the memory."""


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same value gives the same text. NaN is refused."""
    return _CANONICAL.encode(value)


def content_hash(value: Any, length: int = 16) -> str:
    """First `length` hex digits of sha256 over the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes.

    Raises:
        InputError: there is no such file, or it is a folder.
    """
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: expected a file, came a folder") from None


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, on failure removed.

    An OSError that does not say its place (a full disk, mostly) is given that of `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it becomes `path`, on failure it is removed.

    Raises:
        OutputExists: `path` is there and `force` is false. Nothing is touched.
    """
    if path.exists() and not force:
        raise OutputExists(f"{path} exists already; remove it, choose another output, or pass --force")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        yield partial
        swap_in(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def swap_in(new: Path, path: Path) -> None:
    """Rename `new` to `path`, keeping the old folder until the new one is in place."""
    old = new.with_suffix(".old")
    if path.exists():
        os.replace(path, old)
    os.replace(new, path)
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically as UTF-8."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_through_memory(path: Path, write: Callable[[io.BytesIO], Any]) -> None:
    """Write atomically what `write` puts into a buffer: Polars' own writers raise errors that do not say what went wrong."""
    buffer = io.BytesIO()
    write(buffer)
    with atomic_file(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON. NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or malformed one is an InputError that names the place."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: expected a JSON file, came a folder; name a file in it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, through gzip where its name ends in .gz.

    Raises:
        InputError: no such file, a folder, or (while it is read) a gzip stream that is broken or cut off.
    """
    try:
        handle = cast(BinaryIO, gzip.GzipFile(path)) if path.suffix.lower() == ".gz" else path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: expected a file, came a folder; name a file in it") from None
    with handle:
        try:
            yield handle
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path}: the gzip stream is broken or cut off ({error}); copy the file again") from None


def read_jsonl(path: Path, *, torn_tail: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for each non-empty line of a .jsonl or .jsonl.gz file.

    Args:
        torn_tail: forgive a last line without its newline that is not valid JSON (a writer was killed).

    Raises:
        InputError: missing file, bad UTF-8, malformed JSON or a line that is not an object, with its number.
    """
    with open_bytes(path) as handle:
        yield from parse_lines(path, iter(lambda: handle.readline(LARGEST_ROW + 1), b""), 1, torn_tail=torn_tail)


def parse_lines(
    path: Path, lines: Iterable[bytes], first: int, *, torn_tail: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """`read_jsonl` of some lines of the file, of which the first is its line number `first`."""
    for number, raw in enumerate(lines, start=first):
        text = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        if not text.strip():
            continue
        if len(text) > LARGEST_ROW:
            raise InputError(f"{path}, line {number}: longer than {LARGEST_ROW >> 20} MiB; expected one JSON object a line")
        try:
            row = _parse_row(text)
        except ValueError as error:
            if torn_tail and not raw.endswith(b"\n"):
                return
            raise InputError(f"{path}, line {number}: {error}") from None
        yield number, row


def read_blocks(path: Path, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield (number of its first line, whole lines of about `size` bytes together); the last line may lack its end.

    Raises:
        InputError: as `open_bytes`.
    """
    first = 1
    with open_bytes(path) as handle:
        while block := handle.read(size):
            block += handle.readline(LARGEST_ROW + 1) if not block.endswith(b"\n") else b""
            yield first, block
            first += block.count(b"\n")


def _parse_row(raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error.reason} at byte {error.start} of the line)") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("JSON nested too deep to read") from None
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, came {type(row).__name__}")
    return row
