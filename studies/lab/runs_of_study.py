"""The laboratory's checkpoints as the scores of docs/results.md take them: packed runs read into a store, and the protocol's parts."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

import predict
from curate.config import read_yaml

PACKED = Path(__file__).parent
RECIPE = {**read_yaml(PACKED / "protocol.yaml")["grpo"], "reward": "verifier"}
"""The frozen RL recipe; runs under another one belong to a part that varies it."""
VARIED = {"steps": "BIGINT", "problems": "BIGINT", "group_size": "BIGINT", "learning_rate": "DOUBLE", "reward": "VARCHAR"}
"""Settings that some part of the protocol varies, by their type in the store."""
FEWEST_BASES = 6
"""Below it the protocol says nothing."""
CHECKPOINTS = {"core": 12, "twins": 12, "behaviors": 6, "starts": 1}
"""Of one base in a part, where all of it is there."""
SETTINGS = {  # (examples, epochs, learning rate): from gentle to destructive
    (768, 2, 0.002): "gentle",
    (1536, 4, 0.006): "long and hot",
    (96, 16, 0.003): "few examples",
    (96, 32, 0.006): "few and hot",
}


@cache
def _folder() -> TemporaryDirectory[str]:
    folder = TemporaryDirectory(prefix="forerun-results-")
    predict.ingest(Path(folder.name), sorted(path.parent for path in PACKED.glob("*/manifest.json")))
    return folder


def store() -> Path:
    """A workspace with every packed run below studies/lab, for as long as the process lives."""
    return Path(_folder().name)


@cache
def recipes() -> pl.DataFrame:
    """Each RL recipe in the store: rl_recipe and the settings in VARIED."""
    config = 'json_merge_patch(\'{"reward": "verifier"}\', config)'  # runs from before there was a choice do not say it
    settings = ", ".join(f"({config}->>'{name}')::{kind} AS {name}" for name, kind in VARIED.items())
    return predict.query(store(), f"SELECT DISTINCT rl_recipe, {settings} FROM runs WHERE stage = 'grpo' ORDER BY rl_recipe")


def recipe(**changes: object) -> str | None:
    """The id of the frozen RL recipe with some settings changed; None where no run has it."""
    wanted = {**RECIPE, **changes}
    found = recipes().filter(*(pl.col(name) == wanted[name] for name in VARIED))
    return str(found["rl_recipe"][0]) if len(found) else None


def checkpoints(**changes: object) -> pl.DataFrame:
    """The checkpoints with an outcome under the frozen recipe, or under one with some settings changed; with `setting` and `part`."""
    chosen = recipe(**changes)
    if chosen is None:
        return predict.load(store(), recipe()).clear()
    frame = predict.load(store(), chosen).filter(pl.col("outcome_pass_at_1").is_not_null())
    first = runs(**changes).filter(pl.col("rl_seed") == 0).select("id", outcome_seed_0="outcome")
    frame = frame.join(first, on="id", how="left", maintain_order="left").join(
        styles(), on="run_id", how="left", maintain_order="left"
    )
    return with_parts(frame)


def runs(**changes: object) -> pl.DataFrame:
    """Every RL run that ended, under one recipe: id of its checkpoint, rl_seed, outcome, status."""
    query = f"""SELECT start_run_id || '@' || start_step AS id, rl_seed, post_pass_at_1 AS outcome, status
        FROM rl_runs WHERE rl_recipe = '{recipe(**changes)}' AND post_pass_at_1 IS NOT NULL ORDER BY id, rl_seed"""
    return predict.query(store(), query)


@cache
def styles() -> pl.DataFrame:
    """Shares of the styles in what each checkpoint writes before RL, where `styles.py --record` measured them."""
    kept = "SELECT run_id, name, value FROM signals WHERE name ^@ 'style_' ORDER BY run_id, name"
    return predict.query(store(), kept).pivot("name", index="run_id", values="value")


def with_parts(frame: pl.DataFrame) -> pl.DataFrame:
    """The checkpoints with their `setting`, null for none of SETTINGS, and the protocol's `part` that they were made for."""
    key = pl.concat_str("n_examples", "epochs", "sft_learning_rate", separator=" ")
    names = {" ".join(map(str, setting)): name for setting, name in SETTINGS.items()}
    return frame.with_columns(setting=key.replace_strict(names, default=None)).with_columns(part=_part())


def _part() -> pl.Expr:
    plain = pl.col("behaviors") == "{}"
    return (
        pl.when(pl.col("stage") == "base").then(pl.lit("starts"))
        .when(pl.col("data_seed") == 0).then(pl.lit("first"))
        .when(plain & pl.col("setting").is_not_null()).then(pl.col("data_seed").replace_strict({1: "core", 2: "twins"}, default="other"))
        .when(plain & (pl.col("epochs") == 1)).then(pl.lit("doses"))
        .when(pl.col("n_examples") == 256).then(pl.lit("prospective"))
        .when((pl.col("data_seed") == 1) & pl.col("n_examples").is_in([96, 384])).then(pl.lit("behaviors"))
        .otherwise(pl.lit("other"))
    )  # fmt: skip


def of_parts(*parts: str) -> pl.DataFrame:
    """The checkpoints of some parts, under the frozen recipe."""
    return checkpoints().filter(pl.col("part").is_in(parts))


def whole(*parts: str) -> pl.DataFrame | None:
    """`of_parts` once each of the parts is whole on FEWEST_BASES bases: what the protocol scores once is not looked at before."""
    frame = of_parts(*parts)
    held = frame.group_by("part", "base_model").len()
    whole_bases = held.filter(pl.col("len") >= pl.col("part").replace_strict(CHECKPOINTS, default=1))["part"].to_list()
    return frame if all(whole_bases.count(part) >= FEWEST_BASES for part in parts) else None


def overview() -> Iterator[tuple[str, pl.DataFrame]]:
    """What there is: checkpoints by part, and RL runs by recipe and status."""
    gain = (pl.col("outcome_pass_at_1") - pl.col("start_pass_at_1")).mean()
    by_part = checkpoints().group_by("part").agg(
        checkpoints=pl.len(), cells=pl.col("cell").n_unique(), bases=pl.col("base_model").n_unique(),
        pass_at_1=pl.col("pass_at_1").mean(), pass_at_64=pl.col("pass_at_64").mean(),
        outcome=pl.col("outcome_pass_at_1").mean(), outcome_sd=pl.col("outcome_pass_at_1").std(), gain=gain,
        collapsed=pl.col("collapsed").sum(),
    )  # fmt: skip
    yield "Checkpoints under the frozen RL recipe", by_part.sort("part")
    by_recipe = predict.query(
        store(),
        "SELECT rl_recipe, status, count(*) AS runs, count(DISTINCT rl_seed) AS rl_seeds FROM rl_runs GROUP BY ALL ORDER BY ALL",
    )
    yield "RL runs", recipes().join(by_recipe, on="rl_recipe").drop("rl_recipe")
