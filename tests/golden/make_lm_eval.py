"""Makes lm_eval.tar.gz by running lm-evaluation-harness 0.4.13 on a shipped base model and eight problems of its own task.

Run from the repository root in an environment with `torch lm-eval[hf]`:
    PYTHONPATH=. python tests/golden/make_lm_eval.py

Two tasks: `graph_repeats` asks four samples a problem and scores the first one (lm-eval's default `take_first`);
`graph_greedy` asks one and scores it under two filters.
"""

import json
import tarfile
import tempfile
from pathlib import Path

import lm_eval
from lm_eval.loggers import EvaluationTracker

from curate.arithmetic import problems

HERE = Path(__file__).parent
MODEL = "studies/lab/bases/l4-behaved-s0"
EXACT = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
FINAL = {"function": "regex", "regex_pattern": r"ans (.*)$", "fallback": "[invalid]"}
FIRST = {"function": "take_first"}


def task(name: str, data: Path, repeats: int, sampling: dict, filters: list) -> dict:
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["<eos>"], "max_gen_toks": 96, **sampling},
        "repeats": repeats,
        "filter_list": filters,
        "metric_list": [EXACT],
        "metadata": {"version": 1.0},
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        data, out = Path(scratch) / "problems.jsonl", Path(scratch) / "lm_eval"
        chosen = problems(size=8, operations=(3, 4), split="A")
        data.write_text("".join(json.dumps({"question": p.prompt, "answer": p.ground_truth}) + "\n" for p in chosen))
        sampled = {"do_sample": True, "temperature": 1.0}
        strict, flexible = {"name": "strict", "filter": [FINAL, FIRST]}, {"name": "flexible", "filter": [FIRST]}
        tasks = [
            task("graph_repeats", data, 4, sampled, [strict]),
            task("graph_greedy", data, 1, {"do_sample": False, "temperature": 0.0}, [strict, flexible]),
        ]
        tracker = EvaluationTracker(output_path=str(out))
        results = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": MODEL, "device": "cpu", "dtype": "float32"},
            tasks=tasks,
            batch_size=8,
            apply_chat_template=True,
            log_samples=True,
            evaluation_tracker=tracker,
            bootstrap_iters=0,
        )
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for name in results["configs"]:
            tracker.save_results_samples(task_name=name, samples=samples[name])
        with tarfile.open(HERE / "lm_eval.tar.gz", "w:gz") as archive:
            archive.add(out, "lm_eval")


if __name__ == "__main__":
    main()
