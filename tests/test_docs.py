"""What the documents promise exists: config files load, commands and options are real, nothing names a machine's folders."""

import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import typer

from curate.config import load_config
from curate.recipe import load_recipe
from train.configs import CONFIGS
from train.study_plan import StudyConfig

ROOT = Path(__file__).parent.parent
COMMAND = re.compile(r"^(curate|train|predict) ([a-z][a-z-]*)(.*)$", re.MULTILINE)


@pytest.mark.parametrize("name", ["base", "sft", "grpo", "dense_path", "evaluate", "budget"])
def test_each_stage_has_a_config_file_that_loads(name):
    path = ROOT / ("studies/lab/base.yaml" if name == "base" else f"configs/{name.replace('_', '-')}.yaml")
    assert load_config(path, CONFIGS[name])


def test_recipes_and_studies_load():
    assert load_recipe(ROOT / "configs/gsm8k.yaml").variants
    assert load_recipe(ROOT / "studies/lab/recipe.yaml").variants
    assert (
        load_config(ROOT / "configs/demo.yaml", StudyConfig).grpo
        == load_config(ROOT / "studies/lab/study.yaml", StudyConfig).grpo
    )


def commands_in(text: str) -> list[tuple[str, str, str]]:
    """(program, command, rest) of fenced blocks and of inline code."""
    blocks = [*re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE), *re.findall(r"`([^`]+)`", text)]
    return [match for block in blocks for match in COMMAND.findall(block)]


DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("studies/*/*.md")]
)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_exists_with_its_options(document):
    for program, name, rest in commands_in((ROOT / document).read_text()):
        group = typer.main.get_command(import_module(f"{program}.cli").app)
        assert name in group.commands, f"{program} {name}"
        known = {option for parameter in group.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<= )--?[a-z-]+", rest.partition("#")[0])) <= known, f"{program} {name}{rest}"


def test_the_readme_has_commands_for_all_three_programs():
    assert {program for program, _, _ in commands_in((ROOT / "README.md").read_text())} == {"curate", "train", "predict"}


def test_no_tracked_text_names_a_folder_of_some_machine():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = [ROOT / name for name in tracked if Path(name).suffix in {".py", ".md", ".yaml", ".toml", ".sh", ".json"}]
    assert len(texts) > 30
    machine = re.compile("|".join(("/ho" + "me/", "/ro" + "ot/", "/wo" + "rk/")))
    assert [path.name for path in texts if machine.search(path.read_text())] == []
