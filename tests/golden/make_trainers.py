"""Makes trainers.jsonl: what four trainers' own code gives for a few rows, under published chat templates.

    python tests/golden/make_trainers.py TRAINER FOLDER trainers.jsonl

FOLDER holds the unpacked package of one of: llamafactory 0.9.5, verl 0.9.1, axolotl 0.21.0 (wheels of PyPI),
open-instruct e6c3044 (a checkout). What they import and the code used here does not need is stood in for. The chat
templates are the published ones that TRL 1.16.0 keeps in `trl/chat_templates`, so that neither side is ours.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import json
import os
import sys
import types
from pathlib import Path
from unittest.mock import MagicMock

ABSENT = [
    "addict",
    "av",
    "axolotl_contribs_lgpl",
    "axolotl_contribs_mit",
    "beaker",
    "codetiming",
    "colorama",
    "deepspeed",
    "fire",
    "hydra",
    "immutabledict",
    "langdetect",
    "librosa",
    "matplotlib",
    "modelscope",
    "nltk",
    "numba",
    "olmo_core",
    "omegaconf",
    "peft",
    "posthog",
    "pylatexenc",
    "qwen_vl_utils",
    "ray",
    "tensordict",
    "torchaudio",
    "torchdata",
    "torchvision",
    "vllm",
    "wandb",
]
MARKS = ("<|im_start|>", "<|im_end|>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
FAMILIES = {
    "chatml": (None, "", "<|im_end|>", "chatml"),
    "qwen3": ("qwen3", "", "<|im_end|>", "qwen3"),
    "r1-distill": ("deepseek_r1_distill", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "deepseekr1"),
}
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ROWS = {
    "thinking": (
        "What is 3 + 4?",
        "<think>\n3 and 4 together make 7 – 中.\nCheck: 7 - 4 = 3.\n</think>\n\nThe answer is \\boxed{7}.",
    ),
    "one line": ("k 6 m = k + 9 ? m", "<think> m = 6 + 9 m 15 </think> ans 15"),
    "no thinking": ("Tom has 2 apples and buys 3. How many?", "2+3=<<2+3=5>>5 apples.\n#### 5"),
}
LIMITS = (30, 60, 90, 4096)


class Stand(types.ModuleType):
    """A module of any name that holds a class or a mock of any name."""

    __path__: list[str] = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = type(name, (), {"__init__": lambda self, *a, **k: None}) if name[:1].isupper() else MagicMock()
        setattr(self, name, value)
        return value


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in ABSENT else None

    def create_module(self, spec):
        return Stand(spec.name)

    def exec_module(self, module):
        pass


def published_template(name):
    """The text of a template in TRL's collection, read without importing TRL."""
    folder = importlib.util.find_spec("trl").submodule_search_locations[0]
    return (Path(folder) / f"chat_templates/{name}.jinja").read_text(encoding="utf-8")


def byte_tokenizer(family):
    """A token a byte, and one for each mark: no training, hence the same everywhere."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    published, bos, eos, _ = FAMILIES[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: place for place, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(MARKS))
    source = published_template(published) if published else CHATML
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos or None, eos_token=eos, pad_token=MARKS[3], chat_template=source
    )


def messages(row):
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), ROWS[row], strict=True)]


def llamafactory(tokenizer, family, row, limit):
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams.data_args import DataArguments

    arguments = DataArguments(template=FAMILIES[family][3], cutoff_len=limit)
    template = get_template_and_fix_tokenizer(tokenizer, arguments)
    processor = SupervisedDatasetProcessor(template=template, tokenizer=tokenizer, processor=None, data_args=arguments)
    turns = messages(row)
    ids, labels = processor._encode_data_example(turns[:1], turns[1:], None, None, [], [], [])
    return ids, [label != -100 for label in labels]


def verl(tokenizer, family, row, limit):
    for name in ("verl.models.transformers.qwen2_vl", "verl.utils.dataset.vision_utils"):
        sys.modules.setdefault(name, Stand(name))
    import pandas as pd
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    file = Path("row.parquet")
    pd.DataFrame({"messages": [messages(row)]}).to_parquet(file)
    settings = {"pad_mode": "no_padding", "max_length": limit, "truncation": "error"}
    made = MultiTurnSFTDataset([str(file)], tokenizer, settings)[0]
    return made["input_ids"].tolist(), [bool(value) for value in made["loss_mask"].tolist()]


def axolotl(tokenizer, family, row, limit):
    from axolotl.prompt_strategies.chat_template import ChatTemplatePrompter, ChatTemplateStrategy
    from axolotl.utils.data.utils import filter_sequences_by_length

    prompter = ChatTemplatePrompter(tokenizer, tokenizer.chat_template)
    strategy = ChatTemplateStrategy(prompter, tokenizer, False, limit, roles_to_train=["assistant"], train_on_eos="turn")
    made = strategy.tokenize_prompt({"messages": messages(row)})
    if not filter_sequences_by_length({"input_ids": made["input_ids"]}, sequence_len=limit):
        return None
    return made["input_ids"], [label != -100 for label in made["labels"]]


def open_instruct(tokenizer, family, row, limit):
    from open_instruct.dataset_transformation import sft_tulu_filter_v1, sft_tulu_tokenize_and_truncate_v1

    made = sft_tulu_tokenize_and_truncate_v1({"messages": messages(row)}, tokenizer, limit)
    if not sft_tulu_filter_v1(made, tokenizer):
        return None
    return made["input_ids"].tolist(), [label != -100 for label in made["labels"].tolist()]


def result_of(run, family, row, limit):
    tokenizer = byte_tokenizer(family)
    try:
        made = run(tokenizer, family, row, limit)
    except (ValueError, AssertionError) as error:
        return {"raises": type(error).__name__}
    if made is None:
        return {"dropped": True}
    ids, losses = made
    trained = [token for token, loss in zip(ids, losses, strict=True) if loss]
    return {"tokens": len(ids), "text": tokenizer.decode(ids), "trained": tokenizer.decode(trained)}


def main(trainer, folder, output):
    import transformers.processing_utils  # noqa: F401  before the stand-ins, which it would take for installed packages
    from transformers import AutoTokenizer, HfArgumentParser, PreTrainedTokenizerFast  # noqa: F401
    from transformers.image_utils import load_image  # noqa: F401

    os.environ["DISABLE_VERSION_CHECK"] = "1"  # of LLaMA-Factory, which has not met this transformers yet
    sys.path.insert(0, folder)
    sys.meta_path.append(Finder())
    run = {"llamafactory": llamafactory, "verl": verl, "axolotl": axolotl, "open-instruct": open_instruct}[trainer]
    with Path(output).open("a", encoding="utf-8") as file:
        for family, row, limit in itertools.product(FAMILIES, ROWS, LIMITS):
            case = {"trainer": trainer, "family": family, "row": row, "limit": limit}
            file.write(json.dumps({**case, **result_of(run, family, row, limit)}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
