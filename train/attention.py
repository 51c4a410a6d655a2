"""Attention of a decode step: rows share their prompt's keys and values and have their own beside them.

Two engines do the same: torch anywhere, and `attention.c`, built once by the machine's C compiler, in float32 on a CPU. At
one token a row attention is thousands of tiny products, whose calls cost torch more than the arithmetic does.

Dimensions: P prompts, R rows still being written, S prompt positions, T completion positions, H query heads,
K key heads, Q = H / K, D dimensions a head.
"""

import ctypes
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from curate.files import atomic_file, content_hash

SOURCE = Path(__file__).with_name("attention.c")
FLAGS = ("-O3", "-march=native", "-ffast-math", "-shared", "-fPIC")
"""Loading what -ffast-math made flushes denormal numbers to zero in the whole process; the shipped runs were made so."""


@dataclass
class PromptCache:
    """Keys and values of the prompts, per layer (P, K, S, D)."""

    keys: list[Tensor]
    values: list[Tensor]
    lengths: Tensor
    """(P,): real positions of each prompt."""

    @property
    def padding(self) -> Tensor:
        """(P, S): -inf at padding, else 0."""
        width = self.keys[0].shape[2]
        mask = torch.zeros(len(self.lengths), width)
        return mask.masked_fill_(torch.arange(width) >= self.lengths[:, None], -torch.inf)


class Rotation:
    """Rotary position embedding in Llama's half-split layout: `cos` and `sin` (positions, D)."""

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        self.cos, self.sin = cos.contiguous(), sin.contiguous()

    def __call__(self, heads: Tensor, positions: Tensor) -> Tensor:
        """(..., positions, D), or (R, heads, D) with `positions` (R, 1)."""
        cos, sin = self.cos[positions], self.sin[positions]
        first, second = heads.chunk(2, dim=-1)
        return heads * cos + torch.cat((-second, first), dim=-1) * sin


class RowAttention(Protocol):
    """Holds what the rows have written; `engine` names what it runs in."""

    engine: str

    def step(self, layer: int, projected: Tensor, time: int) -> Tensor:
        """Take in the token that each row wrote at position `time`: (R, (H + 2K) D) before rotation -> mixed values (R, H D)."""
        ...

    def keep(self, rows: Tensor, written: int) -> None:
        """Go on with `rows` alone; each has `written` positions."""
        ...


def row_attention(prompts: PromptCache, prompt_of_row: Tensor, positions: int, heads: int, rotation: Rotation) -> RowAttention:
    """The faster engine that can run here, with room for completions of `positions` tokens."""
    keys = prompts.keys[0]
    if library := library_for(keys, keys.shape[3]):
        return CompiledAttention(library, prompts, prompt_of_row, positions, heads, rotation)
    return TorchAttention(prompts, prompt_of_row, positions, rotation)


def library_for(weight: Tensor, dim: int) -> ctypes.CDLL | None:
    """`attention.c` for a model of such weights and heads of `dim` dimensions, if it can be built and fits."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    library = compiled_library()
    return library if library and dim % _lanes(library) == 0 else None


class TorchAttention:
    """All queries of a group in one product with their prompt; then a product a row with its own keys."""

    engine = "torch"

    def __init__(self, prompts: PromptCache, prompt_of_row: Tensor, positions: int, rotation: Rotation) -> None:
        """Rows of a prompt must be adjacent."""
        _, self.key_heads, _, self.dim = prompts.keys[0].shape
        self.prompts, self.prompt_of_row, self.rotation = prompts, prompt_of_row, rotation
        self.padding = prompts.padding[:, None, None]
        self.groups = _GroupIndex.of(prompt_of_row, len(prompts.lengths))
        shape = (len(prompt_of_row), self.key_heads, positions, self.dim)
        self.keys, self.values = ([torch.empty(shape) for _ in prompts.keys] for _ in range(2))

    def step(self, layer: int, projected: Tensor, time: int) -> Tensor:
        """One softmax over the shared prompt and the row's own tokens."""
        heads = projected.unflatten(-1, (-1, self.dim))
        query, key, value = heads.split((heads.shape[1] - 2 * self.key_heads, self.key_heads, self.key_heads), dim=1)
        positions = self.prompts.lengths[self.prompt_of_row, None] + time
        self.keys[layer][:, :, time] = self.rotation(key, positions)
        self.values[layer][:, :, time] = value
        query = (self.rotation(query, positions) * self.dim**-0.5).view(len(query), self.key_heads, -1, self.dim)
        own_keys, own_values = (cached[layer][:, :, : time + 1] for cached in (self.keys, self.values))
        shared = _to_rows(_to_grid(query, self.groups) @ self.prompts.keys[layer].mT + self.padding, self.groups)
        weights = torch.cat((shared, query @ own_keys.mT), dim=-1).softmax(-1)
        of_prompt, of_row = weights.split((shared.shape[-1], time + 1), dim=-1)
        mixed = _to_rows(_to_grid(of_prompt, self.groups) @ self.prompts.values[layer], self.groups)
        return (mixed + of_row @ own_values).flatten(1)

    def keep(self, rows: Tensor, written: int) -> None:
        """Copies what the rows have written side by side."""
        for cached in (self.keys, self.values):
            for layer, tensor in enumerate(cached):
                smaller = tensor.new_empty((len(rows), *tensor.shape[1:]))
                smaller[:, :, :written] = tensor[rows, :, :written]
                cached[layer] = smaller
        self.prompt_of_row = self.prompt_of_row[rows]
        self.groups = _GroupIndex.of(self.prompt_of_row, self.groups.prompts)


@dataclass
class _GroupIndex:
    """Where each row's queries stand in a dense (P, widest group) grid, so that a group is one matrix product."""

    slots: Tensor
    """(R,): prompt * width + place within the group."""
    prompts: int
    width: int

    @classmethod
    def of(cls, prompt_of_row: Tensor, prompts: int) -> "_GroupIndex":
        counts = torch.bincount(prompt_of_row, minlength=prompts)
        first = counts.cumsum(0) - counts
        place = torch.arange(len(prompt_of_row)) - first[prompt_of_row]
        width = int(counts.max())
        return cls(prompt_of_row * width + place, prompts, width)


def _to_grid(per_row: Tensor, groups: _GroupIndex) -> Tensor:
    """(R, K, Q, X) -> (P, K, width * Q, X): all queries of a group beside one another, zeros in empty slots."""
    grid = per_row.new_zeros((groups.prompts * groups.width, *per_row.shape[1:]))
    grid[groups.slots] = per_row
    grid = grid.view(groups.prompts, groups.width, *per_row.shape[1:]).transpose(1, 2)
    return grid.flatten(2, 3)


def _to_rows(grid: Tensor, groups: _GroupIndex) -> Tensor:
    """(P, K, width * Q, X) -> (R, K, Q, X): the inverse of `_to_grid`."""
    spread = grid.unflatten(2, (groups.width, -1)).transpose(1, 2).flatten(0, 1)
    return spread[groups.slots]


class CompiledAttention:
    """`attention.c` over caches in blocks of as many positions as it takes at once; dropping a row copies nothing."""

    engine = "compiled"

    def __init__(
        self,
        library: ctypes.CDLL,
        prompts: PromptCache,
        prompt_of_row: Tensor,
        positions: int,
        heads: int,
        rotation: Rotation,
    ) -> None:
        _, self.key_heads, width, self.dim = prompts.keys[0].shape
        self.kernel, self.heads, self.rotation = library, heads, rotation
        self.prompt_of_row, self.lengths = prompt_of_row.contiguous(), prompts.lengths.contiguous()
        self.slots = torch.arange(len(prompt_of_row))
        lanes = _lanes(library)
        self.prompt_room, self.own_room = (-(-count // lanes) * lanes for count in (width, positions))
        padding = (0, 0, 0, self.prompt_room - width)
        self.prompt_keys = [_in_blocks(F.pad(keys, padding), lanes) for keys in prompts.keys]
        self.prompt_values = [F.pad(values, padding).contiguous() for values in prompts.values]
        size = len(prompt_of_row) * self.key_heads * self.own_room * self.dim
        self.keys, self.values = ([torch.empty(size) for _ in prompts.keys] for _ in range(2))
        self.scratch = torch.empty(self.dim + self.prompt_room + self.own_room)

    def step(self, layer: int, projected: Tensor, time: int) -> Tensor:
        """See `RowAttention.step`."""
        projected, out = projected.contiguous(), torch.empty(len(projected), self.heads * self.dim)
        prompts = (self.prompt_keys[layer], self.prompt_values[layer], self.lengths)
        own = (self.keys[layer], self.values[layer], self.slots, self.prompt_of_row)
        tensors = (projected, self.rotation.cos, self.rotation.sin, *prompts, *own, out, self.scratch)
        sizes = (len(out), time, self.heads, self.key_heads, self.dim, self.prompt_room, self.own_room)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        self.kernel.attend(*pointers, *map(ctypes.c_int64, sizes), ctypes.c_float(self.dim**-0.5))
        return out

    def keep(self, rows: Tensor, written: int) -> None:
        """See `RowAttention.keep`."""
        self.slots, self.prompt_of_row = self.slots[rows], self.prompt_of_row[rows]


def _lanes(library: ctypes.CDLL) -> int:
    """Positions that `attention.c` takes at once: as many floats as the machine's vectors hold."""
    return ctypes.c_int64.in_dll(library, "lanes").value


def _in_blocks(keys: Tensor, lanes: int) -> Tensor:
    """(P, K, S, D) -> (P, K, S / lanes, D, lanes), contiguous."""
    return keys.unflatten(2, (-1, lanes)).mT.contiguous()


@cache
def compiled_library() -> ctypes.CDLL | None:
    """The built `attention.c`, once a process."""
    return build_library()


def build_library() -> ctypes.CDLL | None:
    """Build `attention.c` unless it was built before; None without a C compiler, or with FORERUN_COMPILED=0."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or os.environ.get("FORERUN_COMPILED") == "0":
        return None
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    flags = (*FLAGS, "-mno-avx512f") if torch.backends.cpu.get_cpu_capability() == "AVX2" else FLAGS  # as wide as torch's
    identity = content_hash([SOURCE.read_text(), flags, _instructions(), os.path.realpath(compiler)])
    target = root / "forerun" / f"attention-{identity}.so"
    try:
        if not target.exists():
            with atomic_file(target) as partial:
                subprocess.run([compiler, *flags, str(SOURCE), "-o", str(partial)], check=True, capture_output=True)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.CalledProcessError):
        return None


def _instructions() -> str:
    """What the processor can do: a library built for another may not run here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
