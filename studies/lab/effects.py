"""What holds of the runs themselves: controls, behaviours against their filler, influence, convergence, learning rates, the paper's claims."""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from predictors import PRIMARY
from runs_of_study import FEWEST_BASES, RECIPE, checkpoints, of_parts, recipe, runs, store, whole
from scipy import stats
from within import Within

import predict
from predict.comparing import sign_flip_p
from predict.diagnostics import rank_by_k
from predict.intervals import spearman

Array = NDArray[np.float64]
Tables = Iterator[tuple[str, pl.DataFrame]]
PERMUTATIONS = 200
KEPT = (32, 64, 128, 256)
"""Steps at which the long runs are measured."""
OUTCOME = "outcome_pass_at_1"
INFLUENCES = (
    *("pass_at_1", "expected_signal", "influence", "co_influence", "gradient_agreement"),
    *("pass_at_64", "pass_at_64+gradient_agreement", "expected_signal+co_influence"),
)
"""What BRIDGE says decides how well RL goes, beside the signals to beat."""
FIGURES = ("pass_at_1", "pass_at_64", OUTCOME, "outcome_tokens")


def controls() -> Tables:
    """Negative: outcomes permuted, a twin's signals, random rewards. Positive: other RL seeds of the same checkpoint."""
    frame = whole("core", "twins")
    if frame is None:
        return
    rows, rng = Within.of(frame), np.random.default_rng(0)
    table = [("the signals as they are", rows.r2(PRIMARY), None)]
    permuted = [Within.of(_permuted(frame, rng)).r2(PRIMARY) for _ in range(PERMUTATIONS)]
    table.append(("outcomes permuted within the stratum", float(np.mean(permuted)), float(np.quantile(permuted, 0.95))))
    if len(swapped := _with_twins_signals(frame)):
        table.append(("the signals of the other data seed", Within.of(swapped).r2(PRIMARY), None))
    columns = ["control", "R2 within, base left out", "95 % of permutations"]
    yield f"{{{', '.join(PRIMARY)}}}", pl.DataFrame(table, schema=columns, orient="row")
    yield from _oracle()
    yield from _random_rewards()


def _permuted(frame: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    order = frame.with_columns(draw=pl.Series(rng.random(len(frame)))).sort("base_model", "length_mix", "draw")
    return frame.sort("base_model", "length_mix").with_columns(order[OUTCOME])


def _with_twins_signals(frame: pl.DataFrame) -> pl.DataFrame:
    """Each outcome beside the signals of the checkpoint of the same cell and the other data seed."""
    twins = [pl.col(name).alias(f"twin_{name}") for name in PRIMARY]
    other = frame.select("cell", (3 - pl.col("data_seed")).alias("data_seed"), *twins)
    joined = frame.join(other, on=["cell", "data_seed"])
    return joined.with_columns(pl.col(f"twin_{name}").alias(name) for name in PRIMARY)


def _oracle() -> Tables:
    """One run's outcome predicted by the mean of the other RL seeds of its checkpoint: what no signal can beat."""
    by_seed = runs().filter(pl.len().over("id") > 1)
    if by_seed.is_empty():
        return
    first = by_seed.filter(pl.col("rl_seed") == 0).select("id", y="outcome")
    level = by_seed.filter(pl.col("rl_seed") > 0).group_by("id").agg(level=pl.col("outcome").mean())
    both = first.join(level, on="id").join(checkpoints(), on="id")
    variance = by_seed.group_by("id").agg(variance=pl.col("outcome").var())["variance"].mean()
    y, x = both["y"].to_numpy(), both["level"].to_numpy()
    rows = [
        ("noise SD of one run", float(np.sqrt(variance))),
        ("R2 of the other seeds' mean", float(1 - ((y - x) ** 2).sum() / ((y - y.mean()) ** 2).sum())),
        ("ceiling for one run, 1 - noise / variance", float(1 - variance / y.var(ddof=1))),
        ("Spearman of the other seeds' mean", spearman(x, y)),
    ]
    yield f"{len(both)} checkpoints with several RL seeds", pl.DataFrame(rows, schema=["figure", "value"], orient="row")


def _random_rewards() -> Tables:
    """RL with a coin for a reward beside the verifier, from the same checkpoints."""
    coin = checkpoints(reward="random")
    if coin.is_empty():
        return
    chosen = ["id", "base_model", pl.col("start_pass_at_1").alias("before"), pl.col(OUTCOME).alias("random rewards")]
    both = coin.select(chosen).join(checkpoints().select("id", pl.col(OUTCOME).alias("verifier")), on="id").drop("id")
    yield "pass@1 on B before RL, after RL with random rewards, and after RL with the verifier", both.sort("base_model")


def contrast(title: str, first: pl.DataFrame, second: pl.DataFrame, on: Sequence[str], names: Sequence[str] = FIGURES) -> Tables:
    """Mean difference first - second of matched checkpoints, a value a base, with a t interval and the sign-flip p over bases."""
    columns = list(dict.fromkeys(["base_model", *on]))
    both = first.select(*columns, *names).join(second.select(*columns, *names), on=columns, suffix="_other")
    if both["base_model"].n_unique() < 2:
        return
    table = []
    for name in names:
        by_base = (
            both.group_by("base_model").agg((pl.col(name) - pl.col(f"{name}_other")).mean()).sort("base_model")[name].to_numpy()
        )
        low, high = stats.ttest_1samp(by_base, 0).confidence_interval(0.9)
        p = sign_flip_p(by_base, np.random.default_rng(0))
        table.append((name, len(both), len(by_base), float(by_base.mean()), float(low), float(high), p))
    columns = ["figure", "pairs", "bases", "difference", "low 90", "high 90", "p"]
    yield title, pl.DataFrame(table, schema=columns, orient="row")


def behaviors() -> Tables:
    """Behaviours against their length-matched filler, and against no injection at all."""
    frame = of_parts("behaviors", "core")
    contrasts = (
        ("bridge-384", "filler-384"),
        ("reflect-384", "filler-384"),
        ("bridge-384", "vary-384"),
        ("bridge-96", "filler-96"),
    )
    for kind in ("behaved", "plain"):
        kept = frame.filter(pl.col("base_model").str.contains(kind), pl.col("data_seed") == 1)
        for first, second in contrasts:
            sides = [kept.filter(pl.col("variant") == name, pl.col("epochs") < 32) for name in (first, second)]
            yield from contrast(f"{first} less {second}, {kind} bases", *sides, ["epochs"])


def influence() -> Tables:
    """BRIDGE's influence: whether it forecasts the outcome, and whether behaviours raise it."""
    frame = of_parts("core", "behaviors").filter(pl.col("influence").is_not_null())
    core = frame.filter(pl.col("part") == "core")
    if core["base_model"].n_unique() < FEWEST_BASES:
        return
    report, rows = predict.score(core, predictors=list(INFLUENCES), group="base_model"), Within.of(core)
    table = []
    for one in report.predictors:
        names = tuple(one.name.split("+"))
        correlation = rows.correlation(one.name) if len(names) == 1 else None
        table.append((one.name, one.n, one.spearman.value, one.r2_logo, rows.r2(names), correlation))
    columns = ["predictor", "n", "Spearman", "R2", "R2 within", "correlation within"]
    yield "Core, a base left out; within: centred within base x length mix", pl.DataFrame(table, schema=columns, orient="row")
    for kind in ("behaved", "plain"):
        kept = frame.filter(pl.col("base_model").str.contains(kind), pl.col("epochs") == 4)
        for first, second in (("bridge-384", "filler-384"), ("bridge-384", "vary-384")):
            sides = [kept.filter(pl.col("variant") == name) for name in (first, second)]
            yield from contrast(f"{first} less {second}, {kind} bases", *sides, [], INFLUENCES[1:5])


def convergence() -> Tables:
    """Whether 48 steps tell what 256 would: outcomes of the same runs on the way."""
    long = recipe(steps=256)
    if long is None:
        return
    query = f"""SELECT r.start_run_id || '@' || r.start_step AS id, p.step, p.value FROM rl_runs r
        JOIN checkpoint_pass p ON p.run_id = r.run_id AND p.purpose = 'outcome' AND p.k = 1 WHERE r.rl_recipe = '{long}'"""
    wide = predict.query(store(), query).pivot("step", index="id", values="value")
    ended = checkpoints(steps=256).join(wide, on="id").join(checkpoints().select("id", after_48=OUTCOME), on="id", how="left")
    table = []
    for name in ("after_48", *(str(step) for step in KEPT if str(step) in ended.columns)):
        known = ended.filter(pl.col(name).is_not_null())
        signals = {signal: _spearman(known, signal, name) for signal in (*PRIMARY, "pass_at_8")}
        table.append(
            {
                "steps": name,
                "n": len(known),
                "mean": known[name].mean(),
                "rank with 256": _spearman(known, name, "256"),
                **signals,
            }
        )
    yield "Rank correlations of the outcome after some steps: with that after 256, and with the signals", pl.DataFrame(table)
    yield "The same checkpoints, each less its base's mean: spread of the outcome and correlations", _within_bases(ended)


def _within_bases(ended: pl.DataFrame) -> pl.DataFrame:
    """SD of the outcome after each number of steps and its correlation with that after 256 and with signals, less the bases' means."""
    steps, signals = ("after_48", *map(str, KEPT)), (*PRIMARY, "pass_at_8", "rl_loss_style_free")
    centred = ended.select(pl.col(name) - pl.col(name).mean().over("base_model") for name in (*steps, *signals))
    freedom = len(ended) - ended["base_model"].n_unique()
    table = [
        {
            "steps": step,
            "SD": float(np.sqrt((centred[step] ** 2).sum() / freedom)),
            "with 256": float(np.corrcoef(centred[step], centred["256"])[0, 1]),
            **{signal: float(np.corrcoef(centred[signal], centred[step])[0, 1]) for signal in signals},
        }
        for step in steps
    ]
    return pl.DataFrame(table)


def _spearman(frame: pl.DataFrame, x: str, y: str) -> float | None:
    return spearman(frame[x].to_numpy(), frame[y].to_numpy())


def rates() -> Tables:
    """The same checkpoints at half and twice the RL learning rate."""
    middle = checkpoints().select("id", "base_model", *PRIMARY, usual=OUTCOME)
    table = []
    for rate in (0.0003, RECIPE["learning_rate"], 0.0012):
        other = checkpoints(learning_rate=rate).select("id", outcome=OUTCOME).join(middle, on="id")
        if rate == RECIPE["learning_rate"] or other.is_empty():
            continue
        signals = {signal: _spearman(other, signal, "outcome") for signal in PRIMARY}
        table.append({"learning rate": rate, "n": len(other), "mean": other["outcome"].mean(), "mean at .0006": other["usual"].mean(),
                      "rank with .0006": _spearman(other, "outcome", "usual"), **signals})  # fmt: skip
    if table:
        yield "Rank correlations of the outcome at other learning rates", pl.DataFrame(table)


def claims() -> Tables:
    """Claims of 'Quagmires in SFT-RL post-training' that this laboratory can speak to."""
    frame = of_parts("core", "twins", "doses", "behaviors").filter(pl.col("sft_learning_rate") == 0.002, pl.col("data_seed") == 1)
    ladder = {name: frame.filter(pl.col("variant") == f"vary-{n}", pl.col("epochs") == e) for name, n, e in
              (("1536 x 1", 1536, 1), ("768 x 2", 768, 2), ("384 x 4", 384, 4))}  # fmt: skip
    for first, second in (("768 x 2", "1536 x 1"), ("384 x 4", "768 x 2")):
        yield from contrast(f"(a) equal updates, {first} less {second}", ladder[first], ladder[second], [])
    core = whole("core", "twins")
    if core is None:
        return
    mixes = [core.filter(pl.col("length_mix") == mix) for mix in ("short", "varying")]
    yield from contrast("(b) short traces alone less varying ones", *mixes, ["setting", "data_seed"])
    yield "(c) rank correlation by k, all checkpoints", rank_by_k(core)
