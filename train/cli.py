"""The `train` command: base, sft, grpo, dense-path, evaluate, budget, influence, study. Torch is imported only once work begins."""

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curate.commands import finish, run_app

if TYPE_CHECKING:
    from train.configs import StageConfig

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="Settings of the run, as YAML.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; a.b reaches into a.")
]
Home = Annotated[Path | None, typer.Option(help="Workspace folder; default $FORERUN_HOME, else ./forerun.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]
SECONDS_BETWEEN_LINES = 10.0


class Reporter:
    """Progress on stderr: one line on a terminal, redrawn; silent elsewhere unless something takes long."""

    def __init__(self, label: str, *, silent: bool) -> None:
        self.label, self.silent = label, silent
        self.began = self.shown = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int, metrics: dict[str, float]) -> None:
        """Show how far the work is and how long is left."""
        now = time.monotonic()
        last = done >= total
        if self.silent or not self.terminal or (now - self.shown < 0.2 and not last):
            return
        self.shown = now
        left = (now - self.began) / done * (total - done)
        shown = "  ".join(f"{name} {metrics[name]:.3f}" for name in ("loss", "reward_mean", "frac_mixed") if name in metrics)
        print(f"\r{self.label}  {done}/{total}  {shown}  {left:.0f} s left   ", end="\n" if last else "", file=sys.stderr)


@app.callback()
def _root() -> None:
    """Train SFT and GRPO models, measure them, run whole studies of them."""


def _config(stage: str, file: Path, overrides: list[str] | None, home: Path | None) -> "StageConfig":
    from curate.config import load_config
    from train.configs import CONFIGS

    return load_config(file, CONFIGS[stage], [*(overrides or []), *_home(home)])


def _home(home: Path | None) -> list[str]:
    return [f"home={json.dumps(str(home))}"] if home else []


def run_config(stage: str, settings: dict[str, Any]) -> None:
    """Run one stage from a mapping of settings, without progress: what a study's processes do."""
    from importlib import import_module

    from curate.config import check_config
    from train.configs import CONFIGS

    config = check_config(settings, CONFIGS[stage], origin=stage)
    _quiet_libraries()
    import_module(f"train.{stage}").main(config)


def _run(stage: str, file: Path, overrides: list[str] | None, home: Path | None, as_json: bool) -> None:
    from importlib import import_module

    config = _config(stage, file, overrides, home)
    _quiet_libraries()
    record = import_module(f"train.{stage}").main(config, Reporter(stage, silent=as_json))
    if os.environ.get("RANK", "0") != "0":
        return  # torchrun and accelerate launch start this command several times; the main process speaks
    run = record.run
    document = {"run_id": run.run_id, "step": run.steps, "stage": run.stage, "status": run.status, "folder": str(record.path)}
    finish(document, as_json=as_json, text=lambda: print(f"{run.stage} {run.run_id}@{run.steps} {run.status}: {record.path}"))


def _quiet_libraries() -> None:
    """Turn off the progress bars of transformers; ours is enough."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


@app.command()
def base(config: ConfigFile, overrides: Overrides = None, home: Home = None, as_json: AsJson = False) -> None:
    """Pre-train an embedded base model on the generated task."""
    _run("base", config, overrides, home, as_json)


@app.command()
def sft(config: ConfigFile, overrides: Overrides = None, home: Home = None, as_json: AsJson = False) -> None:
    """Fine-tune a model on a dataset folder."""
    _run("sft", config, overrides, home, as_json)


@app.command()
def grpo(config: ConfigFile, overrides: Overrides = None, home: Home = None, as_json: AsJson = False) -> None:
    """Train a checkpoint by GRPO against the verifier."""
    _run("grpo", config, overrides, home, as_json)


@app.command("dense-path")
def dense_path(config: ConfigFile, overrides: Overrides = None, home: Home = None, as_json: AsJson = False) -> None:
    """Train a checkpoint on the token rewards that its own SFT left behind."""
    _run("dense_path", config, overrides, home, as_json)


@app.command()
def evaluate(config: ConfigFile, overrides: Overrides = None, home: Home = None, as_json: AsJson = False) -> None:
    """Measure a checkpoint: counts for pass@k, held-out losses."""
    _run("evaluate", config, overrides, home, as_json)


@app.command()
def budget(config: ConfigFile, overrides: Overrides = None, home: Home = None, as_json: AsJson = False) -> None:
    """Force a checkpoint's thinking to budgets: accuracy and tokens against each."""
    _run_measure("budget", config, overrides, home, as_json)


@app.command()
def influence(config: ConfigFile, overrides: Overrides = None, home: Home = None, as_json: AsJson = False) -> None:
    """Measure how much an RL step on one problem helps another (BRIDGE), from gradients of a checkpoint's rollouts."""
    _run_measure("influence", config, overrides, home, as_json)


def _run_measure(stage: str, file: Path, overrides: list[str] | None, home: Path | None, as_json: bool) -> None:
    """Run what returns a document, not a run."""
    from importlib import import_module

    settings = _config(stage, file, overrides, home)
    _quiet_libraries()
    module = import_module(f"train.{stage}")
    document = module.main(settings, Reporter(stage, silent=as_json))
    finish(document, as_json=as_json, text=lambda: print(module.table(document)))


@app.command()
def study(
    config: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The grid of runs, as YAML.")],
    stages: Annotated[str | None, typer.Option(help="Comma-separated; default: those of the file.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Stages run at once, one thread each.")] = 1,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Only every N-th checkpoint, from the I-th (0-based).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print cells, counts and the time expected; run nothing.")] = False,
    overrides: Overrides = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Run a grid of SFT-then-RL runs; what is done is skipped."""
    from curate.config import load_config
    from train.study import run_study
    from train.study_plan import StudyConfig

    settings = load_config(config, StudyConfig, [*(overrides or []), *_home(home)])
    summary = run_study(settings, stages=stages, workers=workers, shard=shard, dry_run=dry_run, silent=as_json)
    finish(summary, as_json=as_json, text=lambda: None)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
