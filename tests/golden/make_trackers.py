"""Makes trackers.tar.gz: two short runs logged with Trackio 0.43 and MLflow 3.17 (SQLite and file store).

Run in an environment with `trackio mlflow`:
    python tests/golden/make_trackers.py
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONFIG = {"learning_rate": 1e-5, "num_generations": 8, "beta": 0.0}
NOBODY = {"mlflow.user": "someone", "mlflow.source.name": "train.py"}
"""In place of this machine's."""
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
        with mlflow.start_run(run_name=name, tags=NOBODY):
            mlflow.log_params(CONFIG)
            for step, row in enumerate(rows, start=1):
                mlflow.log_metrics(row, step=step)


def main() -> None:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        kept = Path(scratch) / "trackers"
        for name in ("trackio", "mlflow"):
            (kept / name).mkdir(parents=True)
        trackio_db(kept / "trackio")
        mlflow_store(f"sqlite:///{kept}/mlflow/mlflow.db")
        mlflow_store(f"file://{kept}/mlflow/mlruns")
        with tarfile.open(HERE / "trackers.tar.gz", "w:gz") as archive:
            archive.add(kept, "trackers")


if __name__ == "__main__":
    main()
