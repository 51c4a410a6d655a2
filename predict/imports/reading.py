"""Reading foreign files within limits: what is cut short, too large, or not what its name says ends as one clear error."""

import json
import sqlite3
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import InputError
from curate.files import read_jsonl

MAX_DOCUMENT = 256 << 20
"""Bytes of one JSON document, which must be held in memory whole; JSONL is read a line at a time and has no such limit."""
MAX_UNPACKED = 2 << 30
"""Bytes that the members of a zip may unpack to, together."""
MAX_RATIO = 500
"""How many times larger than its packed form a member of over a mebibyte may be; logs of text reach about 50."""
STORED, DEFLATED, ZSTANDARD = 0, 8, 93


def document(path: Path, hint: str = "") -> Any:
    """One JSON document, bare NaN and Infinity allowed as Python writes them.

    Raises:
        InputError: missing, malformed, or over MAX_DOCUMENT bytes; `hint` says what to do then.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if (size := path.stat().st_size) > MAX_DOCUMENT:
        raise InputError(
            f"{path}: one JSON document of {size >> 20} MiB; at most {MAX_DOCUMENT >> 20} MiB are read into memory{hint}"
        )
    return parsed(path.read_bytes(), str(path))


def parsed(raw: bytes, where: str) -> Any:
    """The JSON value of some bytes; an error names the place."""
    try:
        return json.loads(raw)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{where}, line {error.lineno}: not valid JSON ({error.msg}); was the file cut short?") from None
    except RecursionError:
        raise InputError(f"{where}: JSON nested too deep to read") from None


def lines(path: Path, *, growing: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) of each line of a JSONL file, read as a stream.

    Args:
        growing: a log that may still be written: its last line may be torn.

    Raises:
        InputError: missing, malformed (with the line), or one line of over MAX_DOCUMENT bytes.
    """
    if path.is_file() and path.stat().st_size > MAX_DOCUMENT:
        with path.open("rb") as handle:
            if b"\n" not in handle.readline(MAX_DOCUMENT):
                raise InputError(f"{path}: the first line has over {MAX_DOCUMENT >> 20} MiB; expected one JSON object a line")
    yield from read_jsonl(path, torn_tail=growing)


def only(found: list[Path], path: Path, expected: str) -> Path:
    """The one file of a list; none or several is an error that says what was looked for."""
    if len(found) == 1:
        return found[0]
    came = f"{len(found)} of them ({', '.join(file.name for file in found[:3])}, ...): name one" if found else "there is none"
    raise InputError(f"{path}: expected {expected}; {came}")


def parquet(path: Path) -> pl.DataFrame:
    """A Parquet file as a frame.

    Raises:
        InputError: missing, not Parquet, or over MAX_UNPACKED bytes unpacked.
    """
    try:
        metadata = pq.read_metadata(path)
        size = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
        if size > MAX_UNPACKED:
            raise InputError(f"{path}: unpacks to {size >> 20} MiB; at most {MAX_UNPACKED >> 20} MiB are read")
        return pl.read_parquet(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None


def query(path: Path, sql: str, *parameters: Any) -> list[dict[str, Any]]:
    """Rows of a SQLite file, opened read-only.

    Raises:
        InputError: missing, or not a database that has what is asked for.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with closing(sqlite3.connect(f"file:{urllib.parse.quote(str(path.resolve()))}?mode=ro", uri=True)) as connection:
            cursor = connection.execute(sql, parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    except sqlite3.Error as error:
        raise InputError(f"{path}: cannot be read as the database expected ({error})") from None


class Archive:
    """The members of a zip, Zstandard ones too (Inspect writes them; Python's zipfile reads them from 3.14 on).

    Raises:
        InputError: not a zip, cut short, or one that unpacks to more than the limits allow.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self.members = {member.filename: member for member in archive.infolist()}
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
            raise InputError(
                f"{path}: not a whole zip archive ({error}); was it cut short, or is the job still running?"
            ) from None
        self._check_sizes()

    def _check_sizes(self) -> None:
        total = sum(member.file_size for member in self.members.values())
        if total > MAX_UNPACKED:
            raise InputError(f"{self.path}: unpacks to {total >> 20} MiB; at most {MAX_UNPACKED >> 20} MiB are read")
        for member in self.members.values():
            if member.file_size > max(1 << 20, MAX_RATIO * member.compress_size):
                raise InputError(
                    f"{self.path}, {member.filename}: unpacks to over {MAX_RATIO} times its size; not a log but a zip bomb"
                )

    def json(self, name: str) -> Any:
        """The JSON value of a member."""
        if name not in self.members:
            raise InputError(f"{self.path}: holds no {name}; is it a finished log?")
        return parsed(self._unpacked(self.members[name]), f"{self.path}, {name}")

    def _unpacked(self, member: zipfile.ZipInfo) -> bytes:
        """The bytes of a member: never more than it announces, and with its checksum."""
        with self.path.open("rb") as handle:
            raw = _packed(handle, member)
        try:
            data = _DECODERS[member.compress_type](raw, member.file_size + 1)
        except (KeyError, OSError, zlib.error, pa.ArrowException) as error:
            raise InputError(f"{self.path}, {member.filename}: cannot be unpacked ({error})") from None
        if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
            raise InputError(
                f"{self.path}, {member.filename}: length or checksum differs from what the archive says; it is damaged"
            )
        return data


def _packed(handle: IO[bytes], member: zipfile.ZipInfo) -> bytes:
    """The member's packed bytes: they follow its local header, a name and an extra field of lengths given there."""
    handle.seek(member.header_offset + 26)
    header = handle.read(4)
    handle.seek(int.from_bytes(header[:2], "little") + int.from_bytes(header[2:], "little"), 1)
    return handle.read(member.compress_size)


def _unzstd(raw: bytes, limit: int) -> bytes:
    """At most `limit` bytes of one or several Zstandard frames."""
    with pa.input_stream(pa.BufferReader(raw), compression="zstd") as stream:
        blocks, left = [], limit
        while left and (block := stream.read(left)):
            blocks.append(block)
            left -= len(block)
    return b"".join(blocks)


_DECODERS: dict[int, Any] = {
    STORED: lambda raw, limit: raw[:limit],
    DEFLATED: lambda raw, limit: zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, limit),
    ZSTANDARD: _unzstd,
}


def numbered(folder: Path, suffix: str) -> list[tuple[int, Path]]:
    """Files of a folder whose stem is a number, in its order: `120.jsonl`."""
    found = [(int(file.stem), file) for file in folder.glob(f"*{suffix}") if file.stem.isdecimal()]
    return sorted(found)
