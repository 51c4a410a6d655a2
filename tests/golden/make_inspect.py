"""Makes inspect.eval and inspect.json.gz by running Inspect 0.3.285 on a shipped base model: six problems, four epochs.

Run from the repository root in an environment with `torch transformers accelerate inspect-ai`:
    PYTHONPATH=. python tests/golden/make_inspect.py

One sample of one epoch fails on purpose: an error is not a wrong answer.
"""

import gzip
import shutil
import sys
import tempfile
from pathlib import Path

from inspect_ai import Epochs, Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog, read_eval_log, write_eval_log
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import match
from inspect_ai.solver import generate, solver

from curate.arithmetic import problems

HERE = Path(__file__).parent
MODEL = "studies/lab/bases/l4-behaved-s0"


@solver
def fails_once():
    async def solve(state, generate):
        if (state.sample_id, state.epoch) == ("p2", 3):
            raise RuntimeError("made to fail")
        return state

    return solve


def hide_places(file: Path) -> None:
    """Take this machine's folders out of the traceback of the sample that failed."""
    log = read_eval_log(str(file))
    text = log.model_dump_json().replace(sys.prefix, "/venv").replace(str(Path.cwd()), "/forerun")
    write_eval_log(EvalLog.model_validate_json(text), str(file))


def main() -> None:
    rows = problems(size=6, operations=(3, 4), split="A")
    task = Task(
        name="graph",
        dataset=[Sample(id=f"p{index}", input=row.prompt, target=row.ground_truth) for index, row in enumerate(rows)],
        solver=[fails_once(), generate()],
        scorer=match(location="end"),
        epochs=Epochs(4, ["mean", "pass_at_2"]),
        config=GenerateConfig(temperature=1.0, max_tokens=96, seed=7),
    )
    with tempfile.TemporaryDirectory() as logs:
        model = get_model("hf/local", model_path=MODEL, device="cpu")
        log = eval(task, model=model, log_dir=logs, fail_on_error=False, display="none")[0]
        shutil.copy(log.location.removeprefix("file://"), HERE / "inspect.eval")
        hide_places(HERE / "inspect.eval")
        plain = Path(logs) / "inspect.json"
        write_eval_log(read_eval_log(str(HERE / "inspect.eval")), str(plain), format="json")
        (HERE / "inspect.json.gz").write_bytes(gzip.compress(plain.read_bytes(), mtime=0))


if __name__ == "__main__":
    main()
