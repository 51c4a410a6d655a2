"""Makes trl.tar.gz: SFT with an evaluation set, then GRPO with logged completions, by TRL 1.16 on a shipped base model.

Run from the repository root in an environment with `torch trl`:
    PYTHONPATH=. python tests/golden/make_trl.py
"""

import shutil
import tarfile
import tempfile
from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from curate.arithmetic import examples

HERE = Path(__file__).parent
MODEL = "studies/lab/bases/l4-behaved-s0"
QUIET = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True}
KEPT = ("README.md", "trainer_state.json", "config.json")


def accuracy_reward(completions, solution, **_) -> list[float]:
    """1 where the text ends in the right answer, else 0."""
    texts = [completion[0]["content"] for completion in completions]
    return [float(text.rpartition("ans ")[2].strip() == right) for text, right in zip(texts, solution, strict=True)]


def brevity_reward(completion_ids, **_) -> list[float]:
    """A shaped reward beside the verdict."""
    return [-0.001 * len(ids) for ids in completion_ids]


def sft(out: Path, rows: list) -> None:
    turns = [
        {"messages": [{"role": "user", "content": r.problem.prompt}, {"role": "assistant", "content": r.completion}]}
        for r in rows
    ]
    config = SFTConfig(
        str(out), max_steps=6, logging_steps=1, eval_strategy="steps", eval_steps=3, save_steps=3, seed=3,
        learning_rate=1e-4, per_device_train_batch_size=4, max_length=256, **QUIET,
    )  # fmt: skip
    SFTTrainer(MODEL, config, train_dataset=Dataset.from_list(turns[:24]), eval_dataset=Dataset.from_list(turns[24:])).train()


def grpo(out: Path, start: Path, rows: list) -> None:
    prompts = [{"prompt": [{"role": "user", "content": r.problem.prompt}], "solution": r.problem.ground_truth} for r in rows]
    config = GRPOConfig(
        str(out), max_steps=4, logging_steps=1, save_steps=2, seed=5, learning_rate=1e-4, num_generations=4,
        per_device_train_batch_size=8, max_completion_length=64, log_completions=True, **QUIET,
    )  # fmt: skip
    GRPOTrainer(
        str(start), [accuracy_reward, brevity_reward], config, train_dataset=Dataset.from_list(prompts),
        processing_class=AutoTokenizer.from_pretrained(MODEL),
    ).train()  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        work, kept = Path(scratch), Path(scratch) / "trl"
        rows = list(examples(size=32, operations=(3, 4), split="train"))
        sft(work / "sft-run", rows)
        grpo(work / "grpo-run", work / "sft-run" / "checkpoint-6", rows[:8])
        for file in [*work.glob("*-run/**/*")]:
            if file.name in KEPT or file.suffix == ".parquet":
                target = kept / file.relative_to(work)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
        with tarfile.open(HERE / "trl.tar.gz", "w:gz") as archive:
            archive.add(kept, "trl")


if __name__ == "__main__":
    main()
