"""Score the predictors that published SFT -> RL runs allow, one Markdown table a source.

    python studies/published.py --data ../shared/data [--json]

`--data` is a folder that holds `runs/*.csv`, tables of published accuracies before and after RL, one row a checkpoint and benchmark. They are
read where they lie. Outcomes, groups and predictors were fixed by what a table holds (which values are missing, which starts are shared), not by
what the scores say; one slice was added after looking and says so. What cannot be scored is printed with its reason.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

import predict
from curate.commands import finish, run_app
from curate.errors import InputError
from predict.features import Direction
from predict.intervals import Interval
from predict.printing import print_rows

OUTCOME = "post_rl"
JOINED = {
    "analysis_data_quality": "analysis_data",
    "analysis_data_quantity": "analysis_data",
    "analysis_longcot": "analysis_long",
    "analysis_longcot_instruction": "analysis_long",
    "analysis_length_scheduler": "analysis_long",
    "octo-vs-llama-vs-qwen": "octothinker",
}
"""OctoThinker's experiments that share starts or whole runs: one group."""
DIRECTIONS: dict[str, Direction] = {"sft_step": "up", "parameters": "up"}

COLUMNS = """Scored by `predict.score`. Spearman: with its 90 % interval from resampled groups (rows where there are none), (z) by Fisher's z over rows where groups
are fewer than 6, none where neither can be had. R² against the training fold's mean, so that `mean` is 0. "Spearman within" is of the predictions of
left-out groups, within each. "R² less pass@1's": of left-out groups (rows), less the first predictor's; its p is adjusted for all predictors shown.
"""

app = typer.Typer(pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Slice:
    """Rows that are scored together: one row a checkpoint, all accuracies as fractions, the outcome in `post_rl`."""

    name: str
    rows: pl.DataFrame
    predictors: list[str]
    """The first is the baseline."""
    group: str | None = None
    """Column of the clusters; None: single rows."""


@dataclass(frozen=True)
class Source:
    """What one publication measured, and the slices of it."""

    name: str
    facts: dict[str, str]
    slices: list[Slice]
    table: pl.DataFrame | None = None
    """Shown in place of scores where nothing can be scored."""


@dataclass(frozen=True)
class Scored:
    """A slice with its report, or with the reason why there is none."""

    slice: Slice
    report: predict.Report | None = None
    reason: str | None = None


@app.command()
def main(
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder that holds runs/*.csv.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")] = False,
) -> None:
    """Score every published table under DIR/runs."""
    sources = [(source, [scored(part) for part in source.slices]) for source in (read(data / "runs") for read in READERS)]

    def text() -> None:
        print(COLUMNS)
        for pair in sources:
            show(*pair)

    finish({"sources": [as_dict(*pair) for pair in sources]}, as_json=as_json, text=text)


def scored(part: Slice) -> Scored:
    """The scorer's report, or its refusal in its own words."""
    directions = {name: way for name, way in DIRECTIONS.items() if name in part.rows.columns}
    try:
        report = predict.score(
            part.rows, outcome=OUTCOME, predictors=part.predictors, group=part.group or "none", directions=directions
        )
    except InputError as refusal:
        return Scored(part, reason=str(refusal))
    return Scored(part, report)


# The sources


def retu(runs: Path) -> Source:
    """Two SFT ladders of one base model, DAPO from every checkpoint; the only table with a loss on one shared set."""
    table = fractions(predict.read_table(runs / "retu_qwen7b_sft_dapo.csv")).filter(pl.col("sft_step") > 0)
    curves = predict.read_table(runs / "retu_qwen7b_dapo_curves.csv").filter(pl.col("rl_index") == 0)
    early = curves.select("sft_variant", "sft_step", early_acc=pl.col("overall") / 100)
    table = table.join(early, on=["sft_variant", "sft_step"], how="left").with_columns(
        id=pl.format("{}@{}", "sft_variant", "sft_step"),
        loss_over_min=pl.col("gen_loss") / pl.col("gen_loss").min().over("sft_variant"),
    )
    both = table.filter(pl.col("benchmark") == "overall")
    best = both.with_columns((pl.col("post_best_ma5") / 100).alias(OUTCOME))
    math = one_benchmark(table, "math", "pass_at_1", skip=["overall"])
    within = ["pass_at_1", "mean", "gen_loss", "pass_at_1+gen_loss", "log(sft_step)", "early_acc"]
    pooled = [*within[:2], "label(sft_variant)", "gen_loss", "loss_over_min", *within[3:]]
    slices = [
        Slice("both sets", both, pooled, "sft_variant"),
        Slice("both sets without easy102K@6120", both.filter(pl.col("id") != "easy102K@6120"), pooled, "sft_variant"),
        Slice("both sets, best 5 evaluations", best, pooled, "sft_variant"),
        Slice("both sets, MATH alone", math, ["pass_at_1", "mean", "pass_at_1_other", "gen_loss"], "sft_variant"),
        *(Slice(f"within {name}", both.filter(pl.col("sft_variant") == name), within) for name in ("SFT889K", "easy102K")),
    ]
    return Source("RETU: Qwen2.5-7B, SFT then DAPO", RETU, slices)


RETU = {
    "What": "18 SFT checkpoints of one base model, 12 of one run on SFT889K and 6 of one on easy102K, a DAPO run from each. The base is left out.",
    "Source": "Ding et al. 2025, arXiv 2512.11470; LINs-lab/RETU@5fbdfcbc. That commit has no licence (an MIT file was removed in December 2025): figures cited only",
    "Outcome": "mean of the last 5 evaluations, fixed beforehand; six benchmarks weighted by size, GSM8K 61 % of it. `best 5 evaluations` is the best mean of 5 in a row",
    "Signals": "pass@1 on the outcome's own problems (its R² is inflated); gen_loss on 199 other problems, one set for all; loss_over_min = gen_loss over the least of "
    "its SFT run; pass_at_1_other = mean of the five other benchmarks; early_acc = the first evaluation after some RL, so no forecast. No pass@k",
    "Caveats": "one RL seed; two SFT runs, so the checkpoints of one are near twins; RL runs are 19 to 70 evaluations long; gen_loss was read off a figure "
    "(error about .005, two decimals, five ties); easy102K@6120 is overfitted (gen_loss .87, the others at most .47) and decays at the end of RL, "
    "so it is left out once, after looking",
}  # fmt: skip


def octothinker(runs: Path) -> Source:
    """GRPO from 32 mid-trained starts."""
    table = predict.read_table(runs / "octothinker_grpo.csv")
    experiment = pl.col("source").str.extract(r"plot/data/([^/]+)/").replace(JOINED)
    table = table.with_columns(
        id=pl.col("model"), few_shot_acc=pl.col("pre_fewshot_acc") / 100, pass_at_1=pl.col("pre_pass1"), experiment=experiment
    )
    names = ["pass_at_1", "mean", "label(experiment)", "few_shot_acc", "few_shot_acc_other", "pass_at_1+few_shot_acc"]
    cases = [("MATH500", 100), ("MATH500", 200), ("GSM8k", 100), ("OlympiadBench", 100), ("AMC23", 100)]
    slices = [Slice(f"{name}, step {step}", started(table, name, step), names, "experiment") for name, step in cases]
    return Source("OctoThinker: mid-trained Llama-3.2-3B, GRPO", OCTOTHINKER, slices)


def started(table: pl.DataFrame, benchmark: str, step: int) -> pl.DataFrame:
    """OctoThinker's runs on one benchmark with their accuracy at a fixed RL step; shorter runs have none."""
    return one_benchmark(table, benchmark, "few_shot_acc").with_columns(pl.col(f"post_at{step}").alias(OUTCOME))


OCTOTHINKER = {
    "What": "GRPO on 8k MATH prompts from 32 starts: 31 mid-trainings of Llama-3.2-3B (or none), one Qwen2.5-3B. Mid-training, not SFT.",
    "Source": "Wang et al. 2025, arXiv 2506.20512; GAIR-NLP/OctoThinker@2ee2b49, Apache-2.0; the authors' exported curves",
    "Outcome": "accuracy at a fixed RL step, since runs are 80 to 852 steps long; step 100 is the last with a run of every group",
    "Signals": "pass_at_1 = step 0 in RL's own chat template; few_shot_acc = few-shot accuracy, both on the outcome's problems (R² inflated); few_shot_acc_other = "
    "mean few-shot accuracy on the three other benchmarks. No loss, no pass@k",
    "Caveats": "one RL seed; step 0 is near zero where the template fails, not the model; context and template of RL differ between runs; AMC23 has 40 problems. "
    "Groups are the authors' experiments, those that share starts joined",
}  # fmt: skip


def octothinker_passk(runs: Path) -> Source:
    """The one table with pass@k at several k before and a score after RL."""
    table = predict.read_table(runs / "octothinker_passk.csv").rename({"model": "id"})
    named = fractions(table).with_columns(pl.format("pass_at_{}", "k").alias("k"), pl.col("pre_passk") / 100)
    wide = named.pivot("k", index=["id", "base", "pass_at_1", OUTCOME], values="pre_passk")
    return Source("OctoThinker: pass@k", PASSK, [Slice("MATH500", wide, ["pass_at_1", *named["k"].unique(maintain_order=True)])])


PASSK = {
    "What": "Llama-3.2-3B and OctoThinker-3B-Long, pass@1 and pass@32..256 on MATH500 before and after GRPO.",
    "Source": "as above (`plot/plot/pass_k.ipynb`)",
    "Caveats": "two starts; the better one was evaluated after RL at 4,096 tokens, all else at 1,024",
}


def simplerl(runs: Path) -> Source:
    """Zero RL from ten base models."""
    table = fractions(predict.read_table(runs / "simplerl_zoo_base_to_rl.csv")).rename({"model": "id"})
    table = table.with_columns(family=pl.col("base").str.extract(r"^([A-Za-z]+)"), parameters=parameters("base"))
    average = table.filter(pl.col("benchmark") == "avg")
    math = one_benchmark(table, "math500", "pass_at_1", skip=["avg", "aime24_avg32"])
    names = ["pass_at_1", "mean", "label(family)", "log(parameters)", "pass_at_1+log(parameters)"]
    slices = [
        Slice("average of six", average, names, "family"),
        Slice("MATH500 alone", math, [*names, "pass_at_1_other"], "family"),
    ]
    return Source("SimpleRL-Zoo: ten base models, GRPO", SIMPLERL, slices)


SIMPLERL = {
    "What": "GRPO on 8k GSM8K and MATH prompts from ten base models (Mistral, Llama, DeepSeek, Qwen2.5; 0.5B to 32B), no SFT.",
    "Source": "Zeng et al. 2025, arXiv 2503.18892; hkust-nlp/simpleRL-reason@cf1c785, MIT; tables of its README",
    "Outcome": "the authors' average of six benchmarks, and MATH500 alone",
    "Signals": "pass_at_1 on the outcome's problems (R² inflated); pass_at_1_other = mean of the five other benchmarks; parameters in billions. No loss, no pass@k",
    "Caveats": "one run a model; the bases were decoded greedily, the RL models at temperature 1; the training data have three levels of difficulty; "
    "Qwen is six of ten. It compares models, never checkpoints of one model",
}  # fmt: skip


def sober(runs: Path) -> Source:
    """Released RL models re-evaluated under one protocol, with their base models."""
    table = fractions(predict.read_table(runs / "sober_reasoning_pairs.csv")).filter(pl.col("rl_algo").is_not_null())
    base = pl.col("base").str.to_lowercase().str.replace_all("-", " ")  # four bases are written in two ways
    table = table.rename({"model": "id"}).with_columns(base_model=base, parameters=parameters("base")).drop("base", "sft_variant")
    means = table.group_by("id", "base_model", "parameters", maintain_order=True).agg(pl.col("pass_at_1", OUTCOME).mean())
    math = one_benchmark(table, "math500", "pass_at_1")
    names = ["pass_at_1", "mean", "label(base_model)", "log(parameters)"]
    slices = [
        Slice("mean of six", means, names, "base_model"),
        Slice("MATH500 alone", math, [*names, "pass_at_1_other"], "base_model"),
    ]
    return Source("Sober Reasoning: 36 released RL models", SOBER, slices)


SOBER = {
    "What": "36 released RL models and the models they say they start from, all re-evaluated by one laboratory under one protocol. The 17 SFT models are left out.",
    "Source": "Hochlehnert et al. 2025, arXiv 2504.07086; bethgelab/sober-reasoning@8fceffd, no licence: figures cited only",
    "Outcome": "mean of six benchmarks (AIME24, AIME25, AMC23, MATH500, Minerva, OlympiadBench) over evaluation seeds, and MATH500 alone",
    "Signals": "pass_at_1 of the named base, one value a base, on the outcome's problems (R² inflated); pass_at_1_other = mean of the five other benchmarks. No loss, no pass@k",
    "Caveats": "9 bases under 13 spellings, 13 of the 36 rows from one; the rows of a base differ by RL recipe and data, and some (Instruct models, distilled ones) by SFT "
    "in between: no signal of the base can tell them apart",
}  # fmt: skip


def small(runs: Path) -> Source:
    """Tables of ten repositories: how many different starts each has on one benchmark."""
    table = predict.read_table(runs / "misc_small_pairs.csv").with_columns(
        pl.col("source").str.extract(r"^([^@]+?)(?:@| issue|$)")
    )
    ended = pl.col("post_pass1").is_not_null()
    starts = table.filter(ended).group_by("source", "benchmark").agg(pl.col("pre_pass1").n_unique().alias("starts"))
    counts = table.group_by("source", maintain_order=True).agg(
        pl.len().alias("rows"),
        ended.sum().alias("with an outcome"),
        (ended & pl.col("pre_passk").is_not_null()).sum().alias("of them with pass@k"),
        (ended & pl.col("gen_loss").is_not_null()).sum().alias("of them with a loss"),
    )
    most = starts.group_by("source").agg(pl.col("starts").max().alias("most starts on one benchmark"))
    return Source("Small tables", SMALL, [], counts.join(most, on="source", how="left").fill_null(0))


SMALL = {
    "What": "small tables of ten repositories; `note` in the file says whose run each row is.",
    "Source": "named by row; licences differ, figures cited only",
    "Not scored": "no table has 5 different starts on one benchmark, and rows of different tables were measured by different people under different protocols: pooled they "
    "would compare models. The losses are on different validation sets, so no feature, and no RL was run from those checkpoints",
}  # fmt: skip

READERS: list[Callable[[Path], Source]] = [retu, octothinker, octothinker_passk, simplerl, sober, small]


# Rows


def fractions(table: pl.DataFrame) -> pl.DataFrame:
    """Percent before and after RL as `pass_at_1` and `post_rl`, fractions."""
    both = {"pass_at_1": pl.col("pre_pass1") / 100, OUTCOME: pl.col("post_pass1") / 100}
    return table.with_columns(**both).drop("pre_pass1", "post_pass1")


def one_benchmark(table: pl.DataFrame, benchmark: str, signal: str, skip: list[str] | None = None) -> pl.DataFrame:
    """Rows of one benchmark with `<signal>_other`: the mean of the signal over the other benchmarks, so over other problems."""
    others = table.filter(~pl.col("benchmark").is_in([benchmark, *(skip or [])]))
    mean = others.group_by("id").agg(pl.col(signal).mean().alias(f"{signal}_other"))
    return table.filter(pl.col("benchmark") == benchmark).join(mean, on="id", how="left")


def parameters(column: str) -> pl.Expr:
    """Billions of parameters from a model's name."""
    return pl.col(column).str.extract(r"(\d+(?:\.\d+)?)B").cast(pl.Float64)


# Printing


def show(source: Source, parts: list[Scored]) -> None:
    """A source as Markdown: facts, one table, the scorer's notes, and what could not be scored."""
    print(f"### {source.name}\n")
    print("\n".join(f"- **{name}**: {text.rstrip('.')}." for name, text in source.facts.items()), end="\n\n")
    rows = [row for part in parts for row in lines(part)]
    if rows or source.table is not None:
        print_rows(pl.DataFrame(rows) if source.table is None else source.table, "md")
        print()
    for line in notes(parts):
        print(line)
    print()


def lines(part: Scored) -> Iterator[dict[str, Any]]:
    """One row a predictor."""
    report = part.report
    for score in report.predictors if report else []:
        versus = score.versus_baseline
        yield {
            "rows": part.slice.name,
            "predictor": score.name,
            "n": score.n,
            "groups": report.n_groups if report and report.group else "-",
            "Spearman": rank(score),
            "R² in sample": rounded(score.r2_in_sample),
            "R² row out": rounded(score.r2_loo),
            "R² group out": rounded(score.r2_logo),
            "Spearman within": rounded(score.spearman_within),
            "MAE row out": rounded(score.mae_loo, 3),
            "R² less pass@1's": ranged(Interval(**versus["delta_r2"])) if versus else "-",
            "p": f"{versus['p_value_adjusted']:.2g}" if versus else "-",
        }


def rank(score: predict.Score) -> str:
    """Spearman with the interval of resampled clusters, or where there is none and rows are few that of Fisher's z, marked."""
    if score.spearman.low is None and score.spearman_fisher and score.spearman_fisher.low is not None:
        return f"{ranged(score.spearman_fisher)} (z)"
    return ranged(score.spearman)


def ranged(value: Interval) -> str:
    """`0.65 [0.21, 0.88]`."""
    ends = "" if value.low is None else f" [{rounded(value.low)}, {rounded(value.high)}]"
    return f"{rounded(value.value)}{ends}"


def rounded(value: float | None, digits: int = 2) -> str:
    """Fixed decimals; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def notes(parts: list[Scored]) -> Iterator[str]:
    """What the scorer says of all rows of a source, of each slice, and of each predictor on it; its refusals."""
    reports = [part.report for part in parts if part.report]
    shared = [note for note in reports[0].notes if all(note in other.notes for other in reports)] if reports else []
    if shared:
        yield f"- {'; '.join(shared)}"
    for part in parts:
        own = [note for note in part.report.notes if note not in shared] if part.report else [f"not scored: {part.reason}"]
        yield f"- **{part.slice.name}**: {'; '.join(own)}" if own else f"- **{part.slice.name}**"
        for score in part.report.predictors if part.report else []:
            if score.notes:
                yield f"  - {score.name}: {'; '.join(score.notes)}"


def as_dict(source: Source, parts: list[Scored]) -> dict[str, Any]:
    """JSON-able: the reports whole."""
    scores = [
        {"rows": part.slice.name, "report": part.report and part.report.to_dict(), "not_scored": part.reason} for part in parts
    ]
    table = None if source.table is None else source.table.to_dicts()
    return {"name": source.name, "facts": source.facts, "scores": scores, "table": table}


if __name__ == "__main__":
    run_app(app)
