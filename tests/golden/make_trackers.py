"""Makes trackers.tar.gz: two short runs logged with Trackio 0.43, MLflow 3.17 (SQLite and file store) and W&B 0.31 (offline).

Run from the repository root in an environment with `trackio mlflow wandb pandas`:
    python tests/golden/make_trackers.py

`wandb/history.csv` is what the W&B API's `run.scan_history()` yields, as a data frame saved as CSV; the API needs a server,
so that one file is written here after the published format. The folder `wandb/run` is W&B's own.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CONFIG = {"learning_rate": 1e-5, "num_generations": 8, "beta": 0.0}
CURVES = {
    "grpo-a": [{"loss": 0.01 * step, "train/reward": 0.2 + 0.05 * step, "kl": 0.001 * step} for step in range(1, 7)],
    "grpo-b": [{"loss": 0.02 * step, "train/reward": 0.1 + 0.05 * step, "kl": float("nan")} for step in range(1, 4)],
}


def trackio_db(out: Path) -> None:
    code = f"""
import trackio
for name, rows in {CURVES!r}.items():
    trackio.init(project="lab", name=name, config={CONFIG!r})
    for step, row in enumerate(rows, start=1):
        trackio.log(row, step=step)
    trackio.finish()
""".replace("nan", "float('nan')")
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "TRACKIO_DIR": str(out)})


def mlflow_store(uri: str) -> None:
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("lab")
    for name, rows in CURVES.items():
        with mlflow.start_run(run_name=name):
            mlflow.log_params(CONFIG)
            for step, row in enumerate(rows, start=1):
                mlflow.log_metrics(row, step=step)


def wandb_run(out: Path) -> None:
    import pandas as pd
    import wandb

    rows = CURVES["grpo-a"]
    run = wandb.init(project="lab", name="grpo-a", config=CONFIG, mode="offline", dir=str(out))
    for step, row in enumerate(rows, start=1):
        run.log(row, step=step)
    run.finish()
    history = [{"_step": step, "_timestamp": 1.7e9 + step, "_runtime": float(step), **row} for step, row in enumerate(rows, start=1)]
    pd.DataFrame(history).to_csv(out / "history.csv", index=False)
    files = next(out.glob("wandb/offline-run-*"))
    shutil.move(files, out / "run")
    shutil.rmtree(out / "wandb")


def main() -> None:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    with tempfile.TemporaryDirectory() as scratch:
        kept = Path(scratch) / "trackers"
        for name in ("trackio", "mlflow", "wandb"):
            (kept / name).mkdir(parents=True)
        trackio_db(kept / "trackio")
        mlflow_store(f"sqlite:///{kept}/mlflow/mlflow.db")
        mlflow_store(f"file://{kept}/mlflow/mlruns")
        wandb_run(kept / "wandb")
        with tarfile.open(HERE / "trackers.tar.gz", "w:gz") as archive:
            archive.add(kept, "trackers")


if __name__ == "__main__":
    main()
