"""Name a set of weights, find it, load it, save it.

A reference is a run id, `run_id@step`, a Hugging Face folder, or the name of a base model shipped under
`studies/*/bases/`. Finding is torch-free; only loading and saving import torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from curate.errors import InputError
from curate.files import atomic_folder, read_json
from train.records import CheckpointId, Run, RunFolder

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHIPPED = Path(__file__).parent.parent / "studies"
_RUN_REFERENCE = re.compile(r"([0-9a-f]{16})(?:@(\d+))?")


@dataclass(frozen=True)
class Checkpoint:
    """Weights that a stage starts from or measures."""

    id: CheckpointId
    folder: Path
    """A Hugging Face folder: config.json, *.safetensors, tokenizer.json."""
    run: Run
    """The run that made it."""

    @property
    def base_model(self) -> str:
        """Name of the base model at the root of its lineage."""
        return self.run.base_model or self.run.run_id


def resolve(reference: str, home: Path) -> Checkpoint:
    """Find the checkpoint a reference names; a plain model folder is recorded as a base run of the workspace.

    Raises:
        InputError: nothing of that name, an unfinished run, or a folder that holds no model.
    """
    match = _RUN_REFERENCE.fullmatch(reference)
    if match:
        return _of_run(home, match[1], match[2])
    return _record_base(home, model_folder(reference))


def model_folder(reference: str) -> Path:
    """The Hugging Face folder of that path, or of a base model shipped under that name.

    Raises:
        InputError: neither is there.
    """
    folder = Path(reference)
    if folder.exists():
        return folder
    shipped = {path.name: path for path in sorted(SHIPPED.glob("*/bases/*"))}
    if reference not in shipped:
        raise InputError(
            f"model {reference!r}: expected a run id, run_id@step, a model folder or a shipped base "
            f"({', '.join(shipped) or 'none here'}); there is no such"
        )
    return shipped[reference]


def _of_run(home: Path, identifier: str, step: str | None) -> Checkpoint:
    record = RunFolder.of(home, identifier)
    if not record.path.exists():
        raise InputError(f"run {identifier}: not in {home}/runs; is --home the right workspace?")
    run = record.run
    if run.status == "running" and step is None:
        raise InputError(f"run {identifier} has not finished; run its command again to go on, or name a step")
    number = int(step) if step is not None else run.steps
    folder = _base_folder(run) if run.stage == "base" else record.checkpoint(number)
    if not (folder / "config.json").exists():
        kept = sorted(int(path.name) for path in (record.path / "checkpoints").glob("*"))
        raise InputError(f"run {identifier} has no checkpoint of step {number}; it has {kept}")
    return Checkpoint(CheckpointId(identifier, number), folder, run)


def _base_folder(run: Run) -> Path:
    return Path(run.config["folder"])


def weights_hash(folder: Path) -> str:
    """First 16 hex digits of sha256 over a model folder's weights and tokenizer: a base model's run id."""
    files = [*sorted(folder.glob("*.safetensors")), folder / "tokenizer.json"]
    if len(files) < 2 or not files[-1].exists():
        raise InputError(f"{folder}: expected a Hugging Face folder with *.safetensors and tokenizer.json")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]


def _record_base(home: Path, folder: Path) -> Checkpoint:
    identifier = weights_hash(folder)
    record = RunFolder.of(home, identifier)
    if not (record.path / "run.json").exists():
        family = read_json(folder / "config.json").get("model_type")
        run = Run(identifier, "base", base_model=folder.name, family=family, cell=f"base/{folder.name}")
        run.config = {"folder": str(folder.resolve())}
        record.start(run)
        record.finish(run, "done")
    run = record.run
    if not _base_folder(run).exists():  # the model or the workspace has moved
        run.config["folder"] = str(folder.resolve())
        record.write(run)
    return Checkpoint(CheckpointId(identifier, run.steps), folder, run)


def load(folder: Path, device: str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model in fp32 and tokenizer of a Hugging Face folder; nothing is downloaded."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    model.to(torch.device(device))  # type: ignore[arg-type]  # its wrapper is typed wrongly
    return model, load_tokenizer(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder alone, where a server holds the weights."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, weights: dict[str, Tensor] | None = None
) -> None:
    """Write an ordinary Hugging Face folder, whole or not at all; `weights` where the model does not hold all of them itself."""
    remove_partials(folder)
    with atomic_folder(folder, force=True) as partial, plain_os_errors(folder):
        model.save_pretrained(partial, state_dict=weights)
        tokenizer.save_pretrained(partial)


def remove_partials(path: Path) -> None:
    """Remove what a killed writer of `path` left beside it."""
    for left in path.parent.glob(f".{path.name}.*.partial"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextlib.contextmanager
def plain_os_errors(path: Path) -> Iterator[None]:
    """A full disk is an OSError, whichever error of their own torch, safetensors and tokenizers make of it."""
    try:
        yield
    except Exception as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        raise
