"""Measure a checkpoint: sample completions, verify them, store counts per problem; held-out losses."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from curate.answers import VERIFIER, VERIFIER_VERSION, Verdict, verify_all
from curate.errors import InputError
from curate.examples import Problem
from curate.files import atomic_file, content_hash, read_json, read_jsonl
from train import checkpoints, heldout, rendering, served
from train.checkpoints import Checkpoint
from train.configs import BudgetConfig, EvaluateConfig, ServedModel
from train.datasets import Problems, open_dataset, problem_set
from train.records import RunFolder, commit, hardware, versions, workspace
from train.sampling import Rollouts, Sampler, make_sampler, sampling_seed

PROBLEMS_AT_ONCE = 128

Progress = Callable[[int, int, dict[str, float]], None]


def main(config: EvaluateConfig, progress: Progress = lambda *_: None) -> RunFolder:
    """Measure what the config asks for and the run folder does not have yet; returns the folder."""
    home = workspace(config.home)
    checkpoint = checkpoints.resolve(config.model, home)
    record = RunFolder.of(home, checkpoint.id.run_id)
    model, tokenizer = _loaded(config, checkpoint)
    for kind in config.heldout:
        assert config.dataset is not None  # checked by the config
        _measure_loss(kind, config, checkpoint, record, model, tokenizer)
    if config.problems is not None:
        _sample_set(config, checkpoint, record, model, tokenizer, progress)
    return record


def _loaded(config: EvaluateConfig, checkpoint: Checkpoint) -> tuple[Any, Any]:
    """Model and tokenizer; no model where a server holds it and no loss is asked for."""
    if config.sampler == "server" and not config.heldout:
        return None, checkpoints.load_tokenizer(checkpoint.folder)
    model, tokenizer = checkpoints.load(checkpoint.folder, config.device)
    return model.eval(), tokenizer


def _measure_loss(
    kind: str, config: EvaluateConfig, checkpoint: Checkpoint, record: RunFolder, model: Any, tokenizer: Any
) -> None:
    path, step = record.path / "losses.jsonl", checkpoint.id.step
    row = heldout.measure(kind, model, tokenizer, open_dataset(config.dataset))
    known = [old for _, old in read_jsonl(path, torn_tail=True)] if path.exists() else []
    if not any((old["step"], old["kind"], old["heldout_hash"]) == (step, kind, row["heldout_hash"]) for old in known):
        record.loss(step, row)


def evaluation_key(
    config: EvaluateConfig | BudgetConfig, problems: Problems, tokenizer: Any, budget: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What must be equal for two numbers to be comparable; `budget` says how the thinking was forced."""
    return {
        "benchmark": problems.name,
        "split": problems.split,
        "problem_set_hash": problems.hash,
        "prompt_template": content_hash(tokenizer.chat_template or "", 8),
        "verifier": VERIFIER,
        "verifier_version": VERIFIER_VERSION,
        "temperature": config.temperature,
        "top_p": 1.0,
        "max_tokens": config.max_tokens,
        "budget": budget,
    }


def sample_chunks(
    config: EvaluateConfig | BudgetConfig, sampler: Sampler, prompts: Sequence[list[int]]
) -> Iterator[tuple[int, Rollouts]]:
    """Completions of each PROBLEMS_AT_ONCE prompts, with the place of the first of them."""
    assert config.problems is not None
    for start in range(0, len(prompts), PROBLEMS_AT_ONCE):
        yield (
            start,
            sampler.sample(
                prompts[start : start + PROBLEMS_AT_ONCE],
                group_size=config.problems.num_samples,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                seed=sampling_seed("evaluate", config.seed, start),
            ),
        )


def provenance(config: EvaluateConfig | BudgetConfig, *, purpose: str, engine: str, **measured: Any) -> dict[str, Any]:
    """How an evaluation was made: recorded and shown, never a reason to call two numbers different."""
    assert config.problems is not None
    return {
        "num_samples": config.problems.num_samples,
        "seed": config.seed,
        "purpose": purpose,
        "engine": engine,
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(),
        **measured,
    }


def _sample_set(
    config: EvaluateConfig, checkpoint: Checkpoint, record: RunFolder, model: Any, tokenizer: Any, progress: Progress
) -> None:
    wanted = config.problems
    assert wanted is not None
    problems = problem_set(wanted)
    key = evaluation_key(config, problems, tokenizer)
    path = record.evaluation_path(checkpoint.id.step, key, config.seed)
    if path.exists():
        check_same(path, wanted.num_samples)
        return
    prompts = [rendering.prompt_ids(tokenizer, problem) for problem in problems.rows]
    sampler, facts = _sampler(config, checkpoint, path, model, tokenizer, prompts)
    began, rows, entropies, tokens = time.perf_counter(), [], None, 0
    for start, rollouts in sample_chunks(config, sampler, prompts):
        chunk = problems.rows[start : start + PROBLEMS_AT_ONCE]
        texts = tokenizer.batch_decode(rollouts.tokens, skip_special_tokens=True)
        rows += counts(chunk, texts, rollouts.lengths, rollouts.finished, wanted.num_samples)
        entropies = _with_entropies(entropies, rollouts)
        tokens += int(rollouts.lengths.sum())
        if config.rollouts:
            _keep_rollouts(record, f"{path.stem}-{start}", chunk, rollouts, texts, wanted.num_samples)
        progress(min(start + PROBLEMS_AT_ONCE, len(problems.rows)), len(problems.rows), {})
    seconds = time.perf_counter() - began
    if config.purpose == "signals" and config.temperature == 1 and entropies is not None:
        method = f"mean over sampled tokens, {problems.name}, n = {wanted.num_samples}, seed {config.seed}"
        record.signal(checkpoint.id.step, "entropy_t1", entropies / tokens, method)
    made = provenance(config, purpose=config.purpose, engine=sampler.engine, tokens=tokens, seconds=seconds, **facts)
    record.evaluation(checkpoint.id.step, key, made, rows)
    shutil.rmtree(_answers(path), ignore_errors=True)


def _sampler(
    config: EvaluateConfig, checkpoint: Checkpoint, path: Path, model: Any, tokenizer: Any, prompts: Sequence[list[int]]
) -> tuple[Sampler, dict[str, Any]]:
    """The sampler asked for, and what its provenance says beside."""
    if config.sampler != "server":
        return make_sampler(config.sampler, model, tokenizer), {}
    server, ids = config.server or ServedModel(), {"end": rendering.end_ids(tokenizer), "pad": rendering.pad_id(tokenizer)}
    found = served.look_up(server)
    served.check_folder(found, checkpoint.folder)
    sampler = served.ServedSampler(server, found, answers=_answers(path), **ids)
    facts: dict[str, Any] = {"model": found.model}
    if model is not None:
        facts["logprob_difference"] = served.check_weights(sampler, model, prompts)
    return sampler, {"served": facts}


def _answers(path: Path) -> Path:
    """Where a server's answers are kept until an evaluation is whole, to go on with after a failure."""
    return path.with_name(f".{path.stem}.answers")


def _with_entropies(nats: float | None, rollouts: Rollouts) -> float | None:
    """The entropies of all tokens so far, summed; None of a sampler that does not tell."""
    if rollouts.entropies is None:
        return None
    return (nats or 0.0) + float((rollouts.entropies * rollouts.lengths).sum())


def check_same(path: Any, num_samples: int) -> None:
    """Refuse an evaluation that would have to change a stored one.

    Raises:
        InputError: the file holds another number of samples a problem.
    """
    stored = read_json(path.with_suffix(".json"))["provenance"]["num_samples"]
    if stored != num_samples:
        raise InputError(
            f"{path} holds {stored} samples a problem of this seed and is immutable; to add samples to it, "
            f"ask for {num_samples} with another seed"
        )


def counts(
    chunk: Sequence[Problem], texts: Sequence[str], lengths: Tensor, complete: Tensor, group_size: int
) -> list[dict[str, Any]]:
    """Counts per problem of `group_size` completions each; one cut at the limit is truncated and never correct.

    Args:
        lengths: (B,) tokens of each completion.
        complete: (B,) whether it wrote the end token itself.
    """
    rows = []
    ended = complete.tolist()
    answers = (chunk[row // group_size].ground_truth for row in range(len(texts)))
    graded = verify_all((text, answer) for text, answer, whole in zip(texts, answers, ended, strict=True) if whole)
    judged = [next(graded) if whole else Verdict.NO_ANSWER for whole in ended]
    for index, problem in enumerate(chunk):
        span = slice(index * group_size, (index + 1) * group_size)
        verdicts, finished = judged[span], ended[span]
        rows.append(
            {
                "problem_id": problem.id,
                "num_samples": group_size,
                "num_correct": verdicts.count(Verdict.CORRECT),
                "num_no_answer": verdicts.count(Verdict.NO_ANSWER),
                "num_unparsable": verdicts.count(Verdict.UNPARSABLE),
                "num_truncated": finished.count(False),
                "mean_tokens": float(lengths[span].float().mean()),
            }
        )
    return rows


def _keep_rollouts(record: RunFolder, name: str, chunk: list[Any], rollouts: Rollouts, texts: list[str], group_size: int) -> None:
    """Write the completions of a chunk to rollouts/."""
    logprobs = [None] * len(texts) if rollouts.logprobs is None else rollouts.logprobs.sum(1).tolist()
    table = pa.table(
        {
            "problem_id": [problem.id for problem in chunk for _ in range(group_size)],
            "completion": texts,
            "tokens": rollouts.lengths.tolist(),
            "finished": rollouts.finished.tolist(),
            "logprob": pa.array(logprobs, pa.float64()),
        }
    )
    with atomic_file(record.path / "rollouts" / f"{name}.parquet") as partial:
        pq.write_table(table, partial, compression="zstd")
