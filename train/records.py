"""The run folder `runs/<run_id>/`: everything that a run leaves behind, as plain files (torch-free).

Files are written to a temporary name and renamed, or appended a line at a time, so any number of jobs may write
at once and a reader never sees half of one.
"""

import json
import math
import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import InputError
from curate.files import atomic_file, content_hash, read_json, read_jsonl, write_json

SCHEMA_VERSION = 1
ENGINE = "native"
PACKAGES = ("forerun", "torch", "transformers", "numpy", "math-verify", "latex2sympy2_extended", "sympy")

EVALUATION_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("step", pa.int64()),
        ("benchmark", pa.string()),
        ("problem_id", pa.string()),
        ("num_samples", pa.int64()),
        ("num_correct", pa.int64()),
        ("num_no_answer", pa.int64()),
        ("num_unparsable", pa.int64()),
        ("num_truncated", pa.int64()),
        ("mean_tokens", pa.float64()),
    ]
)


def workspace(home: Path | str | None) -> Path:
    """The workspace folder: `home`, else $FORERUN_HOME, else ./forerun."""
    return Path(home or os.environ.get("FORERUN_HOME") or "forerun")


@dataclass(frozen=True)
class CheckpointId:
    """One set of weights: a run and a step."""

    run_id: str
    step: int

    def __str__(self) -> str:
        return f"{self.run_id}@{self.step}"


def run_id(stage: str, science: dict[str, Any], dataset_hash: str | None, parent: CheckpointId | None, seed: int) -> str:
    """First 16 hex digits of sha256 over the canonical JSON of what decides a run's numbers."""
    identity = {
        "stage": stage,
        "config": {key: value for key, value in science.items() if key != "seed"},
        "dataset": dataset_hash,
        "parent": {"run_id": parent.run_id, "step": parent.step} if parent else None,
        "seed": seed,
    }
    return content_hash(identity)


@dataclass
class Run:
    """The content of run.json."""

    run_id: str
    stage: str
    status: str = "running"
    parent: dict[str, Any] | None = None
    base_model: str | None = None
    family: str | None = None
    dataset: dict[str, Any] | None = None
    variant: dict[str, Any] = field(default_factory=dict)
    cell: str | None = None
    rl_recipe: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    data_seed: int | None = None
    sft_seed: int | None = None
    rl_seed: int | None = None
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    engine: str = ENGINE
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    hardware: dict[str, Any] = field(default_factory=dict)
    created_at: str = ""
    finished_at: str | None = None
    schema_version: int = SCHEMA_VERSION


class RunFolder:
    """Reads and writes one run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, home: Path, identifier: str) -> "RunFolder":
        """The folder that a run id has in a workspace."""
        return cls(home / "runs" / identifier)

    @property
    def run(self) -> Run:
        """run.json as it stands.

        Raises:
            InputError: missing, malformed, or of another schema version.
        """
        data = read_json(self.path / "run.json")
        if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
            raise InputError(f"{self.path}/run.json: expected schema_version {SCHEMA_VERSION}; made by another release?")
        known = Run.__dataclass_fields__
        return Run(**{key: value for key, value in data.items() if key in known})

    @property
    def is_done(self) -> bool:
        """The run ended by itself, well or badly: there is nothing left to do."""
        return (self.path / "run.json").exists() and self.run.status in ("done", "collapsed")

    def start(self, run: Run) -> None:
        """Write run.json for a run that begins, or goes on after a kill: then its creation time stays."""
        run.versions, run.commit, run.hardware = versions(), commit(), hardware()
        run.created_at = self.run.created_at if (self.path / "run.json").exists() else now()
        self.write(run)

    def finish(self, run: Run, status: str) -> None:
        """Write run.json with its final status."""
        run.status, run.finished_at = status, now()
        self.write(run)

    def write(self, run: Run) -> None:
        """Write run.json as it is."""
        write_json(self.path / "run.json", run.__dict__)

    def checkpoint(self, step: int) -> Path:
        """Where the weights of a step are kept."""
        return self.path / "checkpoints" / str(step)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Append one row of metrics; a number that is not finite is an error."""
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise InputError(f"run {self.path.name}, step {step}: expected finite metrics, came {bad[0]} = {metrics[bad[0]]}")
        self._append("metrics.jsonl", {"step": step, **metrics})

    def metric(self, name: str) -> list[float]:
        """A metric's values in step order; of a repeated step the last one."""
        rows = {row["step"]: row for _, row in read_jsonl(self.path / "metrics.jsonl", torn_tail=True)}
        return [rows[step][name] for step in sorted(rows) if name in rows[step]]

    def loss(self, step: int, row: dict[str, Any]) -> None:
        """Append one held-out loss: heldout, heldout_hash, kind, nats_per_token, nats_per_example, tokens, examples, ..."""
        self._append("losses.jsonl", {"step": step, **row})

    def signal(self, step: int, name: str, value: float, method: str) -> None:
        """Append one scalar signal and how it was measured."""
        self._append("signals.jsonl", {"step": step, "name": name, "value": value, "method": method})

    def _append(self, name: str, row: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(self.path / name)
        with (self.path / name).open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(row, allow_nan=False) + "\n")

    def evaluation_path(self, step: int, key: dict[str, Any], seed: int) -> Path:
        """The immutable file of one sampling job."""
        return self.path / "evaluations" / f"{step}-{content_hash(key, 8)}-{seed}.parquet"

    def evaluation(self, step: int, key: dict[str, Any], provenance: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
        """Write the counts of one sampling job, key and provenance as metadata and in a sidecar."""
        path = self.evaluation_path(step, key, provenance["seed"])
        facts = {"key": key, "provenance": {**provenance, "created_at": now()}}
        table = pa.Table.from_pylist(
            [{"run_id": self.path.name, "step": step, "benchmark": key["benchmark"], **row} for row in rows],
            schema=EVALUATION_SCHEMA.with_metadata({"forerun": json.dumps(facts)}),
        )
        write_json(path.with_suffix(".json"), facts)
        with atomic_file(path) as partial:
            pq.write_table(table, partial, compression="zstd")
        return path


def _drop_torn_line(path: Path) -> None:
    """A killed writer or a full disk can leave half a line; later lines must not be glued to it."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        if handle.read() != b"\n":
            handle.seek(0)
            handle.truncate(handle.read().rfind(b"\n") + 1)


def now() -> str:
    """UTC time, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat()


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str | None:
    """The git commit of this source tree, `-dirty` if files differ; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--match="]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def hardware() -> dict[str, Any]:
    """Processor, vector instructions and threads: what bitwise reproduction depends on."""
    threads = os.environ.get("OMP_NUM_THREADS")
    return {"processor": processor(), "vectors": vectors(), "cores": os.cpu_count(), "threads": int(threads) if threads else None}


def processor() -> str:
    """The processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def vectors() -> str:
    """The vector instructions that torch uses, which decide how it rounds: the processor's widest, or what ATEN_CPU_CAPABILITY says."""
    import torch  # here alone: records are read without it

    used = torch.backends.cpu.get_cpu_capability().lower()
    return "avx512f" if used == "avx512" else used


def _cpuinfo(field: str) -> str:
    """What Linux says of the first processor; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
