"""One row per SFT checkpoint: signals known before RL, and the outcome after it; from the store or from a spreadsheet."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError, UsageError
from curate.files import content_hash

Direction = Literal["up", "down"]
OUTCOME = "outcome_pass_at_1"
AFTER_RL = ("rl_recipe", "n_rl_seeds", "early_reward_start", "early_reward_slope", "rl_seconds", "collapsed")
"""Columns of the `checkpoints` view that RL fills, beside those named outcome_*."""
SINGLE_ROWS = "none"
"""A group of this name: every row is a cluster of its own."""
LOSSES_ON_ONE_SET = ("gen_loss", "gen_loss_style_free", "gen_loss_result", "loss_over_min")
HELDOUT = ("heldout_hash", "heldout", "heldout_set")
"""Columns that say on which held-out set a loss was measured."""
_OTHER_SET = re.compile(r"own|^rl_", re.IGNORECASE)  # losses that are meant to be of another set than the shared one
_UP = re.compile(r"pass|acc|reward|coverage|mixed|signal|influence|agreement", re.IGNORECASE)
_DOWN = re.compile(r"loss|nll|ppl|perplexity", re.IGNORECASE)
_SHARE = re.compile(r"pass|acc|share|score|post|reward", re.IGNORECASE)
_TERM = re.compile(r"(?:(log|logit)\()?([^()+,]+?)\)?")


@dataclass(frozen=True)
class Term:
    """A column, possibly transformed: `gen_loss`, `log(gen_loss)`, `logit(pass_at_64)`."""

    column: str
    transform: Literal["log", "logit"] | None = None

    @classmethod
    def parse(cls, text: str) -> "Term":
        """Read one term.

        Raises:
            UsageError: not a column or log(column) or logit(column).
        """
        match = _TERM.fullmatch(text.strip())
        if not match or ("(" in text) != bool(match[1]) or ("(" in text) != text.strip().endswith(")"):
            raise UsageError(f"predictor term {text!r}: expected a column, log(column) or logit(column)")
        return cls(match[2].strip(), match[1])  # type: ignore[arg-type]

    def values(self, frame: pl.DataFrame) -> NDArray[np.float64]:
        """The transformed column, shape (n,); nulls become NaN.

        Raises:
            InputError: no such column, not numbers, or outside of the transform's domain.
        """
        raw = column(frame, self.column)
        if self.transform is None:
            return raw
        low, high = (0.0, np.inf) if self.transform == "log" else (0.0, 1.0)
        bad = (raw <= low) | (raw >= high)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise InputError(f"{self.transform}({self.column}): row {row + 1} holds {raw[row]:g}, outside of ({low:g}, {high:g})")
        return np.log(raw) if self.transform == "log" else np.log(raw / (1 - raw))


def load(home: Path | str | None = None, rl_recipe: str | None = None) -> pl.DataFrame:
    """The `checkpoints` view of a workspace's store, in a fixed order.

    Args:
        rl_recipe: keep the outcomes of this RL recipe; needed where the store holds several.

    Raises:
        InputError: no store. UsageError: several RL recipes, none chosen.
    """
    from predict import store
    from train.records import workspace

    frame = store.query(workspace(home), "SELECT * FROM checkpoints ORDER BY base_model, cell, run_id, step, rl_recipe")
    recipes = sorted(set(frame["rl_recipe"].drop_nulls()))
    if rl_recipe is not None and rl_recipe not in recipes:
        raise UsageError(f"RL recipe {rl_recipe!r}: the store holds {', '.join(recipes) or 'none'}")
    if rl_recipe is None and len(recipes) > 1:
        raise UsageError(
            f"the store holds outcomes of {len(recipes)} RL recipes, which are never pooled: choose one of {', '.join(recipes)}"
        )
    if rl_recipe is not None:
        frame = _of_recipe(frame, rl_recipe)
    return frame.with_columns(id=pl.format("{}@{}", "run_id", "step"))


def _of_recipe(frame: pl.DataFrame, rl_recipe: str) -> pl.DataFrame:
    """Rows of one RL recipe; checkpoints that only others were run on stay, as candidates: without an outcome."""
    chosen = frame.filter(pl.col("rl_recipe") == rl_recipe)
    after_rl = [name for name in frame.columns if name in AFTER_RL or name.startswith("outcome_")]
    others = frame.join(chosen, on=["run_id", "step"], how="anti").unique(["run_id", "step"], keep="first", maintain_order=True)
    others = others.with_columns(pl.lit(None, frame.schema[name]).alias(name) for name in after_rl)
    return pl.concat([chosen, others]).sort("base_model", "cell", "run_id", "step", maintain_order=True)


def group_of(runs: pl.DataFrame, named: str | None) -> str | None:
    """The column of the clusters that are left out whole, None for single rows.

    Not named: `cell` of a store's checkpoints (rows with a run_id), single rows of any other table. "none": single rows.

    Raises:
        InputError: no such column.
    """
    if named is None:
        return "cell" if {"cell", "run_id"} <= set(runs.columns) else None
    if named == SINGLE_ROWS and named not in runs.columns:
        return None
    if named not in runs.columns:
        column(runs, named)
    return named


def filled_columns(runs: pl.DataFrame, outcome: str = OUTCOME) -> set[str]:
    """Columns with values on nine tenths of the rows with an outcome (of all, without one): one that few have may not cost all others their rows."""
    known = runs.filter(pl.col(outcome).is_not_null()) if outcome in runs.columns else runs
    most = min(0.1 * len(known), len(known) - 1)
    return {name for name in runs.columns if known[name].null_count() <= most}


def names(runs: pl.DataFrame) -> dict[str, str]:
    """What a person calls each checkpoint, by its id: training set, learning rate, epochs, seed, and of several base models which."""
    parts = {"variant": "{}", "sft_learning_rate": "lr {:g}", "epochs": "x {}", "data_seed": "seed {}"}
    if "base_model" in runs.columns and runs["base_model"].n_unique() > 1:
        parts["base_model"] = "{}"
    return {
        row["id"]: " ".join(text.format(row[name]) for name, text in parts.items() if row.get(name) is not None) or row["id"]
        for row in runs.to_dicts()
    }


def with_ids(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows with a text column `id`: their own, else their number, from 1."""
    named = frame if "id" in frame.columns else frame.with_row_index("id", offset=1)
    return named.with_columns(pl.col("id").cast(pl.String))


def read_table(path: Path) -> pl.DataFrame:
    """A spreadsheet of runs, CSV or Parquet.

    Raises:
        InputError: missing, empty or malformed.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: expected a CSV or Parquet file, came a folder")
    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: not a readable table ({str(error).splitlines()[0]})") from None
    if not len(frame):
        raise InputError(f"{path}: the table has a header but no rows")
    return frame


def _read_csv(path: Path) -> pl.DataFrame:
    """Spaces around a cell are none of it: Polars would take its column for text."""
    _check_lines(path)
    frame = pl.read_csv(path, infer_schema_length=None, null_values=["", "NA", "null"]).rename(str.strip)
    for name in frame.select(pl.col(pl.String)).columns:
        cells = frame[name].str.strip_chars()
        numbers = cells.cast(pl.Float64, strict=False)
        frame = frame.with_columns(numbers if numbers.null_count() == cells.null_count() else cells)
    return frame


def _check_lines(path: Path) -> None:
    """Refuse by its number a line that is no UTF-8 text or has not the header's fields: Polars would fill up a short one."""
    import csv

    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        reader = csv.reader(handle)
        try:
            header = [name.strip() for name in next(reader, [])]
            if not header:
                raise InputError(f"{path}: the file is empty; expected a header line and one line a run")
            if twice := [name for name in header if header.count(name) > 1]:
                raise InputError(f"{path}, line 1: column {twice[0]!r} is there twice")
            for row in reader:
                if row and len(row) != len(header):
                    raise InputError(f"{path}, line {reader.line_num}: {len(row)} fields, the header has {len(header)}")
                ",".join(row).encode("utf-8")
        except (csv.Error, UnicodeEncodeError) as error:
            reason = "not UTF-8 text" if isinstance(error, UnicodeEncodeError) else str(error)
            raise InputError(f"{path}, line {reader.line_num}: {reason}") from None


def column(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    """A numeric column, shape (n,); nulls become NaN.

    Raises:
        InputError: no such column (with the nearest name), not numeric, or a NaN or infinity among the values.
    """
    if name not in frame.columns:
        close = difflib.get_close_matches(name, frame.columns, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(frame.columns[:20])}"
        raise InputError(f"column {name!r}: the table has none of that name{hint}")
    series = frame[name]
    if not series.dtype.is_numeric() and series.dtype not in (pl.Boolean, pl.Null):
        wrong = [(row, value) for row, value in enumerate(series, start=1) if value is not None and not _is_number(value)]
        row, value = wrong[0] if wrong else (1, series[0])
        raise InputError(f"column {name!r}, row {row}: expected numbers, came {value!r}")
    values = series.cast(pl.Float64)
    bad = values.is_nan() | values.is_infinite()
    if bad.any():
        row = int(bad.arg_true()[0])
        raise InputError(
            f"column {name!r}, row {row + 1}: expected a finite number, came {values[row]}; leave the cell empty if it is not known"
        )
    return values.to_numpy()


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def label_codes(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    """A categorical column as numbers, equal labels of any two frames alike (a hash), NaN where it is null; shape (n,)."""
    if name not in frame.columns:
        column(frame, name)
    labels = frame[name].cast(pl.String).to_list()
    return np.array([np.nan if label is None else int(content_hash(label, 12), 16) for label in labels], dtype=float)


def as_fractions(frame: pl.DataFrame, names: Iterable[str], percent: Sequence[str] = ()) -> tuple[pl.DataFrame, list[str]]:
    """Shares given in percent as fractions, with a note for each.

    A column is in percent if it names a share (pass, acc, score, ...) and its values exceed 1.

    Args:
        percent: columns that are in percent although some of their values are at most 1.

    Raises:
        InputError: values of both kinds in one column, or `percent` names no column.
    """
    notes = []
    for name in percent:
        column(frame, name)
    for name in dict.fromkeys(names):
        if name not in percent and not _SHARE.search(name):
            continue
        values = column(frame, name)
        known = values[~np.isnan(values)]
        if not len(known) or (known.max() <= 1 and name not in percent):
            continue
        if known.max() > 100 or known.min() < 0:
            raise InputError(
                f"column {name!r}: expected fractions in 0..1 or percent in 0..100, came {known.min():g} .. {known.max():g}"
            )
        small = known[(known > 0) & (known <= 1)]
        if len(small) and name not in percent:
            raise InputError(
                f"column {name!r} mixes percent ({known.max():g}) and what looks like fractions ({small[0]:g}): "
                f"write all values alike, or pass --percent {name} if all are in percent"
            )
        frame = frame.with_columns(pl.col(name) / 100)
        notes.append(f"{name} is in percent; read as fractions")
    return frame, notes


def noise_as_fractions(frame: pl.DataFrame, given: pl.DataFrame, outcome: str) -> pl.DataFrame:
    """`outcome_sd` and `outcome_sampling_variance` in the units of an outcome that was given in percent."""
    if outcome not in frame.columns or frame[outcome].equals(given[outcome]):
        return frame
    units = {"outcome_sd": 100.0, "outcome_sampling_variance": 100.0**2}
    return frame.with_columns(pl.col(name) / unit for name, unit in units.items() if name in frame.columns)


def direction(name: str, given: Mapping[str, Direction] | None = None) -> Direction | None:
    """Whether the outcome should rise or fall with a signal; None if nobody says."""
    if given and name in given:
        return given[name]
    if _DOWN.search(name):
        return "down"
    return "up" if _UP.search(name) else None


def same_heldout(frame: pl.DataFrame, names: Iterable[str]) -> None:
    """Refuse losses measured on different held-out sets as one feature.

    Raises:
        InputError: the rows differ in the column that says which set it was (HELDOUT) and a feature is such a loss.
    """
    used = [name for name in names if name in LOSSES_ON_ONE_SET or (_DOWN.search(name) and not _OTHER_SET.search(name))]
    said = next((name for name in HELDOUT if name in frame.columns), None)
    if used and said:
        sets = sorted(str(value) for value in set(frame[said].drop_nulls()))
        if len(sets) > 1:
            raise InputError(
                f"{used[0]} was measured on {len(sets)} different held-out sets ({', '.join(sets)}), which are not one feature: "
                f"filter the rows to one {said}, or measure all checkpoints on one set"
            )
