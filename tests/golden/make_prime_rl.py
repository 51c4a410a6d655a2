"""Makes prime_rl.tar.gz: a run folder as prime-rl 0.8 writes it, with the episodes serialised by verifiers 0.4 itself.

Run in an environment with `verifiers`:
    python tests/golden/make_prime_rl.py

prime-rl needs a GPU, so the files are laid out here as `prime_rl/monitors/file.py` does (commit 559b447): `metrics.jsonl` has
one line a call, trainer and orchestrator apart; `rollouts/step_N/KIND/SUBSET/traces.jsonl` has one episode a line.
"""

import json
import tarfile
import tempfile
from pathlib import Path

import verifiers.v1 as vf

HERE = Path(__file__).parent
EVAL = {0: [[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]], 4: [[1, 1, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]]}
"""Step -> rewards of three problems in four rollouts each."""


def episode(problem: int, reward: float, step: int, kind: str) -> vf.Episode:
    task = vf.TraceTask(type="MathTask", data=vf.TaskData(idx=problem, prompt=f"problem {problem}"), key=f"math/{problem}")
    trace = vf.Trace(
        task=task, agent=vf.AgentInfo(config=vf.AgentConfig()), ok=True, is_completed=True,
        rewards={"correct": vf.Reward(score=reward)},
    )  # fmt: skip
    work = {"type": kind, "step": step}
    return vf.Episode(
        env=vf.EnvInfo(id="math-env", name="math"), task=task, group=vf.GroupInfo(id=f"{step}-{problem}"), ok=True,
        run={"type": "train", "id": "r1", "work": work}, traces=[trace],
    )  # fmt: skip


def write(folder: Path, episodes: list[vf.Episode]) -> None:
    folder.mkdir(parents=True)
    (folder / "traces.jsonl").write_text("".join(json.dumps(item.to_record(), default=str) + "\n" for item in episodes))


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "prime-run"
        for step, problems in EVAL.items():
            episodes = [episode(p, r, step, "eval") for p, rewards in enumerate(problems) for r in rewards]
            failed = episode(1, 0, step, "eval").model_copy(update={"ok": False, "traces": []})
            write(run / f"rollouts/step_{step}/eval/effective", episodes)
            write(run / f"rollouts/step_{step}/eval/all", [*episodes, failed])
        write(run / "rollouts/step_1/train/effective", [episode(p, p % 2, 1, "train") for p in (5, 5, 6, 6)])
        lines = []
        for step in range(1, 5):
            lines.append(
                {"step": step, "time": 1.7e9 + step, "train/agg/effective/agent/reward/mean": 0.2 * step, "time/step": 3.0}
            )
            lines.append({"step": step, "time": 1.7e9 + step, "optim/grad_norm": 0.5, "entropy/all/mean": 0.4})
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        with tarfile.open(HERE / "prime_rl.tar.gz", "w:gz") as archive:
            archive.add(run, "prime-run")


if __name__ == "__main__":
    main()
