"""The rows of a file as it stands, one at a time: JSON lines, a JSON array, CSV (each also gzipped) or Parquet.

Memory holds one row of a text file, or one batch of a Parquet file, whatever the size of the file.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from curate.errors import InputError
from curate.files import LARGEST_ROW, open_bytes, parse_lines, read_jsonl

CHUNK = 1 << 18
"""Bytes read at a time."""
BATCH_ROWS = 256
"""Rows of a Parquet file read at a time."""
NAMED_COLUMNS = 6
"""Columns read of a Parquet file that has none of those wanted, so that a message can name them."""

_MARK = re.compile(r"[^ \t\r\n]")

Placed = tuple[str, dict[str, Any]]
"""Where a row stands, as a message says it (`train.jsonl, line 3`), and the row."""


def read_rows(path: Path, fields: Collection[str]) -> Iterator[Placed]:
    """Yield every row of a file with its place.

    Args:
        fields: the columns that are needed: a Parquet file is asked for no others, so thousands of them cost nothing.

    Raises:
        InputError: another kind of file, missing, empty, cut off or malformed, with the line or row.
    """
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    kind = next((suffix for suffix in READERS if plain.endswith(suffix)), None)
    if kind is None or (kind == ".parquet" and plain != name):
        raise InputError(f"{path}: expected a file named {', '.join(READERS)} or one of the text files with .gz")
    read, expected = READERS[kind]
    empty = True
    for placed in read(path, fields):
        empty = False
        yield placed
    if empty:
        raise InputError(f"{path}: the file is empty; expected {expected}")


def _json_lines(path: Path, _: Collection[str]) -> Iterator[Placed]:
    for number, row in read_jsonl(path):
        yield f"{path}, line {number}", row


def json_lines(path: Path, lines: Iterable[bytes], first: int) -> Iterator[Placed]:
    """The rows of some lines of a file, of which the first is its line number `first`."""
    for number, row in parse_lines(path, lines, first):
        yield f"{path}, line {number}", row


def _json(path: Path, fields: Collection[str]) -> Iterator[Placed]:
    """An array of objects; a file named .json may hold JSON lines too, as many data sets do."""
    with open_bytes(path) as handle:
        start = handle.read(CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if start == b"[":
        yield from _json_array(path)
    else:
        yield from _json_lines(path, fields)


def _json_array(path: Path) -> Iterator[Placed]:
    with open_bytes(path) as handle:
        rows = _elements(handle)
        number = 0
        while True:
            number += 1
            place = f"{path}, row {number}"
            try:
                row = next(rows)
            except StopIteration:
                return
            except UnicodeDecodeError as error:
                raise InputError(f"{place} or shortly after: not UTF-8 text ({error.reason})") from None
            except RecursionError:
                raise InputError(f"{place}: JSON nested too deep to read") from None
            except ValueError as error:
                raise InputError(f"{place}: {error}") from None
            yield place, row


def _elements(handle: BinaryIO) -> Iterator[dict[str, Any]]:
    """The objects of a JSON array, whose first character is known to be its bracket."""
    text = _Text(handle)
    mark = text.next_mark(skip=1)
    while mark != "]":
        if mark != "{":
            raise ValueError(f"expected a JSON object, came {text.ahead()}")
        yield text.next_object()
        mark = text.next_mark()
        if mark not in (",", "]"):
            raise ValueError(f"expected a comma or the end of the array, came {text.ahead()}")
        if mark == "," and (mark := text.next_mark(skip=1)) == "]":
            raise ValueError(f"expected a JSON object after the comma, came {text.ahead()}")
    if text.next_mark(skip=1):
        raise ValueError(f"expected nothing after the array, came {text.ahead()}")


class _Text:
    """A file's text, read in chunks that grow while an object does not fit; what is behind is forgotten."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._decode = json.JSONDecoder().raw_decode
        self._buffer = ""
        self._place = 0
        self.next_mark()

    def next_mark(self, skip: int = 0) -> str:
        """Go on by `skip` characters and then over white space; the character there, or nothing at the end of the file."""
        self._place += skip
        while True:
            if mark := _MARK.search(self._buffer, self._place):
                self._place = mark.start()
                return mark[0]
            self._place = len(self._buffer)
            if not self._grow():
                return ""

    def next_object(self) -> dict[str, Any]:
        """Read one object and go on behind it."""
        while True:
            try:
                row, self._place = self._decode(self._buffer, self._place)
                return cast(dict[str, Any], row)
            except json.JSONDecodeError as error:
                if not self._grow():
                    raise ValueError(f"not valid JSON ({error.msg}), or cut off") from None

    def ahead(self) -> str:
        """What stands next, for a message."""
        return repr(self._buffer[self._place : self._place + 20] or "the end of the file")

    def _grow(self) -> bool:
        """Read at least as much as is kept; False at the end of the file, or where no row is as long as that."""
        kept = self._buffer[self._place :]
        raw = self._handle.read(max(CHUNK, len(kept))) if len(kept) <= LARGEST_ROW else b""
        self._buffer, self._place = kept + self._utf8.decode(raw, final=not raw), 0
        return bool(raw)


def _csv(path: Path, _: Collection[str]) -> Iterator[Placed]:
    """A header, then rows; an empty cell is a missing value."""
    csv.field_size_limit(LARGEST_ROW)
    with open_bytes(path) as handle:
        rows = csv.DictReader(io.TextIOWrapper(handle, encoding="utf-8-sig", newline=""), strict=True)
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except UnicodeDecodeError as error:
                raise InputError(f"{path}, line {rows.line_num + 1} or shortly after: not UTF-8 text ({error.reason})") from None
            except csv.Error as error:
                raise InputError(f"{path}, line {rows.line_num}: not valid CSV ({error})") from None
            if None in row or None in row.values():
                raise InputError(f"{path}, line {rows.line_num}: expected {len(rows.fieldnames or ())} cells, as the header has")
            yield f"{path}, line {rows.line_num}", {name: cell for name, cell in row.items() if cell}


def _parquet(path: Path, fields: Collection[str]) -> Iterator[Placed]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_bytes(path):
        pass  # the same messages for a missing file and a folder
    number = 0
    try:
        with pq.ParquetFile(path, buffer_size=CHUNK, pre_buffer=False) as file:
            names = file.schema_arrow.names
            columns = [name for name in names if name in fields] or names[:NAMED_COLUMNS]
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: not a readable Parquet file, after row {number} ({str(error).strip():.200})") from None


Reader = Callable[[Path, Collection[str]], Iterator[Placed]]
READERS: dict[str, tuple[Reader, str]] = {
    ".jsonl": (_json_lines, "one JSON object a line"),
    ".ndjson": (_json_lines, "one JSON object a line"),
    ".json": (_json, "a JSON array of objects, or one object a line"),
    ".csv": (_csv, "a header, then rows"),
    ".parquet": (_parquet, "rows"),
}
"""How each kind of file is read, and what it must hold."""
