"""Where runs come from: run folders and packed studies below the workspace and the recorded sources, and whether they changed."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from curate.errors import InputError, UsageError
from curate.files import read_json
from predict.imports import lineage
from train.records import ENGINE

DEPTH = 4
"""Folders below a source that are searched: studies/<name>/<workspace>/runs/<run_id> is found from `studies`."""
RUN_FILES = {"run.json", "metrics.jsonl", "losses.jsonl", "signals.jsonl"}


@dataclass(frozen=True)
class Unit:
    """What is read as a whole or not at all: a run folder or a packed study."""

    folder: Path
    is_packed: bool
    signature: str
    """Hash of the name, size, time and inode of each of its files: writers append, or rename a new file into place."""


@dataclass
class Found:
    """All units, each once, in the order of their sources, and the folders beside run folders that hold no run.json."""

    units: dict[Path, Unit] = field(default_factory=dict)
    without_run: list[Path] = field(default_factory=list)


def recorded(home: Path, added: Iterable[Path] = ()) -> list[Path]:
    """The sources of sources.json and `added`, without the workspace itself.

    Raises:
        InputError: sources.json is no list of paths.
    """
    file = home / "sources.json"
    known = read_json(file) if file.exists() else []
    if not isinstance(known, list) or not all(isinstance(entry, str) for entry in known):
        raise InputError(f"{file}: expected a list of paths")
    paths = [*(Path(entry) for entry in known), *(path.resolve() for path in added)]
    return list(dict.fromkeys(path for path in paths if path not in (home.resolve(), home.resolve() / "runs")))


def named(home: Path, known: list[Path], name: str) -> Path:
    """What a name to be dropped stands for: the path of a recorded source, or the folder of an imported run by its name or id.

    Raises:
        UsageError: neither, or a run that was not imported.
    """
    for path in (Path(name), Path(name).resolve()):
        if path in known:
            return path
    folder, step = lineage.find(home, name)
    if step is None and folder.path.is_dir():
        if folder.path.name == lineage.imported_id(name) or not folder.run.engine.startswith(ENGINE):
            return folder.path
        raise UsageError(f"--drop {name}: run {name} was not imported but trained here; move {folder.path} away to be without it")
    listed = ", ".join(map(str, known)) or "none"
    raise UsageError(f"--drop {name}: neither a recorded source ({listed}) nor the name or id of an imported run of {home}")


def find(home: Path, sources: Iterable[Path]) -> Found:
    """The units of the workspace and of every source.

    Raises:
        InputError: a source is not there or holds none.
    """
    found = Found()
    if (home / "runs").is_dir():
        _search(home.resolve() / "runs", 1, found)
    for source in sources:
        if not source.exists():
            raise InputError(
                f"{source}: recorded as a source of runs, but it is not there; restore it, or forget it with `predict ingest --drop`"
            )
        if not source.is_dir() or not _search(source, DEPTH, found):
            raise InputError(
                f"{source}: expected a packed study (manifest.json, runs.parquet) or run folders (run.json) in it or up to {DEPTH} folders below"
            )
    return found


def _search(folder: Path, depth: int, found: Found) -> int:
    """Add the units in and below a folder; how many there are."""
    entries = {entry.name: entry for entry in _entries(folder)}
    if "run.json" in entries or {"manifest.json", "runs.parquet"} <= entries.keys():
        found.units.setdefault(folder, _unit(folder, entries))
        return 1
    if not depth:
        return 0
    below = [folder / name for name, entry in sorted(entries.items()) if entry.is_dir() and not name.startswith(".")]
    counts = {child: _search(child, depth - 1, found) for child in below}
    if any(child in found.units and not found.units[child].is_packed for child in below):
        found.without_run += [child for child, count in counts.items() if not count]
    return sum(counts.values())


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:  # a writer's temporary folder that was renamed meanwhile
        return []


def _unit(folder: Path, entries: dict[str, os.DirEntry[str]]) -> Unit:
    is_packed = "run.json" not in entries
    files = [
        entry for name, entry in entries.items() if (name.endswith((".parquet", ".json")) if is_packed else name in RUN_FILES)
    ]
    if not is_packed and "evaluations" in entries:
        files += [entry for entry in _entries(folder / "evaluations") if not entry.name.startswith(".")]
    return Unit(folder, is_packed, signature(files))


def signature(files: Iterable[os.DirEntry[str]]) -> str:
    """Hash of what tells that a file has changed."""
    return hashlib.sha256("\n".join(sorted(_stamps(files))).encode()).hexdigest()[:16]


def _stamps(files: Iterable[os.DirEntry[str]]) -> Iterator[str]:
    for entry in files:
        stat = entry.stat()
        yield f"{entry.name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
