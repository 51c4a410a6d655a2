"""Everything but the marked files of `train` can be imported where torch, transformers and vllm are not installed."""

import pkgutil
import subprocess
import sys

import pytest

import curate
import predict

TORCH_FREE_TRAIN = (
    "records",
    "passk",
    "rewards",
    "study",
    "cli",
    "completions",
    "configs",
    "datasets",
    "identity",
    "checkpoints",
)
MODULES = [
    *(f"curate.{module.name}" for module in pkgutil.iter_modules(curate.__path__)),
    *(f"predict.{module.name}" for module in pkgutil.iter_modules(predict.__path__)),
    *(f"train.{name}" for name in TORCH_FREE_TRAIN),
]
BLOCKED = """
import importlib, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "vllm"):
            raise ModuleNotFoundError(f"{name} is not installed here")
sys.meta_path.insert(0, Absent())
for name in sys.argv[1:]:
    importlib.import_module(name)
import predict
for name in predict.__all__:
    getattr(predict, name)
"""


def imported_without_torch(*modules: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", BLOCKED, *modules], capture_output=True, text=True)


def test_the_torch_free_modules_and_the_public_names_of_predict_need_no_torch():
    assert len(MODULES) > 30
    together = imported_without_torch(*MODULES)
    if together.returncode:
        failing = [name for name in MODULES if imported_without_torch(name).returncode]
        pytest.fail(f"not torch-free: {', '.join(failing) or 'together'}\n{together.stderr}")


@pytest.mark.parametrize("module", ["train.sft", "train.loss"])
def test_the_block_works_on_a_module_that_needs_torch(module):
    ended = imported_without_torch(module)
    assert ended.returncode != 0
    assert "torch is not installed here" in ended.stderr
