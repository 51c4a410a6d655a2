"""What trainers see of a dataset folder: held to the trainers' own code, published templates and TRL itself."""

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
import yaml
from golden.make_trainers import FAMILIES, ROWS, byte_tokenizer, messages, published_template
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.build import build
from curate.card import table
from curate.check import check_dataset, check_trainers
from curate.cli import app
from curate.commands import run_app
from curate.diff import compare
from curate.errors import CheckFailed, InputError, UsageError
from curate.examples import read_examples
from curate.recipe import load_recipe
from curate.seen import thinking_of
from curate.stubs import TEMPLATE_MARGIN, stated_length, trainer_files
from curate.templates import BUILT_IN, ChatTemplate, assistant, load_template, user, words
from curate.trainers import TRAINERS, Encoded

RECIPE = """
name: small
sources: [{task: arithmetic, size: 60, traces: 2}]
heldout: {examples: 10}
rl_prompts: {examples: 12}
variants:
  - {name: plain, budget: {examples: 20}}
  - {name: half, budget: {examples: 10}, epochs: 2}
  - {name: bridge, budget: {examples: 20}, inject: {reflection: 0.3, verification: 0.3}}
"""
GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "golden/trainers.jsonl").read_text().splitlines()]
PIECES = st.sampled_from(["<think>", "</think>", "\n", "\n\n", " ", "a", "b c", "42", "<|im_end|>"])
CONTENT = st.lists(PIECES, min_size=1, max_size=8).map("".join)


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def curate(monkeypatch, capsys) -> Iterator[Callable[..., Result]]:
    """Runs the command in this process as its console script would."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["curate", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_app(app)
        captured = capsys.readouterr()
        return Result(end.value.code or 0, captured.out, captured.err)

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    (folder / "recipe.yaml").write_text(RECIPE)
    build(load_recipe(folder / "recipe.yaml"), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory) -> Callable[[str], ChatTemplate]:
    """Our template of a family, with a tokenizer of which every byte is a token."""
    made: dict[str, ChatTemplate] = {}

    def of(family: str) -> ChatTemplate:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            byte_tokenizer(family).save_pretrained(folder)
            made[family] = load_template(family, str(folder))
        return made[family]

    return of


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def set_manifest(folder: Path, **facts) -> None:
    (folder / "manifest.json").write_text(json.dumps({**manifest(folder), **facts}))


def turns_of(example) -> list[dict[str, str]]:
    return [user(example.problem.prompt), assistant(example.completion)]


def as_recorded(kept: Encoded | None) -> dict:
    """In the words of the golden file."""
    if kept is None:
        return {"dropped": True}
    return {"raises": True} if kept.refused else {"tokens": len(kept.tokens), "text": kept.text, "trained": kept.trained}


@pytest.mark.parametrize("trainer", ["llamafactory", "verl", "axolotl", "open-instruct"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_trainer_is_followed_to_the_byte(trainer, family, bytewise):
    """Text, trained text and length are those that the trainer's own code gave under the published template."""
    ours, cases = TRAINERS[trainer], [case for case in GOLDEN if (case["trainer"], case["family"]) == (trainer, family)]
    assert len(cases) == 12
    for case in cases:
        encoded = ours.encode(messages(case["row"]), bytewise(family))
        expected = {key: case[key] for key in ("tokens", "text", "trained", "dropped") if key in case} or {"raises": True}
        assert as_recorded(ours.limited(encoded, case["limit"])) == expected, case


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> dict[str, tuple[ChatTemplate, ChatTemplate]]:
    """Ours and the published template of two families."""
    pairs = {}
    for family in ("qwen3", "r1-distill"):
        published = tmp_path_factory.mktemp("published") / f"{family}.jinja"
        special = "".join(f"{{%- set {name} = '{token}' %}}" for name, token in BUILT_IN[family].items())
        published.write_text(special + published_template(FAMILIES[family][0]), encoding="utf-8")
        pairs[family] = (load_template(family, "words"), load_template(str(published), "words"))
    return pairs


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["qwen3", "r1-distill"]), st.lists(CONTENT, max_size=5), st.booleans(), st.booleans())
def test_built_in_templates_render_as_the_published_ones(both, family, contents, system, add_generation_prompt):
    turns = [user("?"), *(role(content) for role, content in zip([assistant, user] * 3, contents, strict=False))]
    turns = [{"role": "system", "content": "be <think> brief"}, *turns] if system else turns
    ours, published = both[family]
    assert ours.render(turns, add_generation_prompt) == published.render(turns, add_generation_prompt)


def test_a_tokenizer_folder_is_rendered_and_tokenized_by_transformers(tmp_path):
    tokenizer = byte_tokenizer("qwen3")
    tokenizer.save_pretrained(tmp_path)
    for name, counted_by in ((str(tmp_path), "words"), (None, str(tmp_path))):
        template = load_template(name, counted_by)
        for row in ROWS:
            ids = tokenizer.apply_chat_template(messages(row), tokenize=True, return_dict=True)["input_ids"]
            assert [token.id for token in template.tokens(messages(row))] == ids
        assert (template.unit, template.eos_id) == (str(tmp_path), tokenizer.eos_token_id)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_words_are_those_of_split_and_give_the_text_back(text):
    tokens = words(text)
    assert "".join(token.text for token in tokens) == (text if tokens else "")
    if "<|" not in text and "<｜" not in text:
        assert [token.id for token in tokens] == text.split()


def test_special_tokens_are_words_of_their_own():
    assert [token.id for token in words("<|im_start|>user\n3<4|>5<|im_end|>\n")] == [
        "<|im_start|>",
        "user",
        "3<4|>5",
        "<|im_end|>",
    ]


@pytest.mark.parametrize(
    ("completion", "thinking"),
    [
        ("<think>\na b\n</think>\n\nc", "a b"),
        ("a b </think> c", "a b"),
        ("<think> a </think> b </think> c", "a </think> b"),
        ("a <think> b", "a <think> b"),
        ("2+3=5\n#### 5", "2+3=5\n#### 5"),
    ],
)
def test_the_thinking_is_what_stands_before_the_last_end_tag_else_everything(completion, thinking):
    assert thinking_of(completion) == thinking


def test_check_counts_what_stands_in_the_folder_and_shows_every_trainer(curate, dataset):
    rows = [json.loads(line) for line in (dataset / "plain/train.jsonl").read_text().splitlines()]
    lengths = [sum(len(turn["content"].split()) for turn in row["messages"]) for row in rows]
    report = json.loads(curate("check", dataset / "plain", "--json").out)
    assert {name: report[name] for name in ("train", "heldout", "rl")} == {"train": 20, "heldout": 10, "rl": 12}
    assert [seen["trainer"] for seen in report["trainers"]] == list(TRAINERS)
    assert [seen["limit"] for seen in report["trainers"]] == [1024, 1024, 2048, 512, None]
    # ChatML writes three marks and two role names around the two turns, which are 6 words
    assert {seen["longest"] for seen in report["trainers"]} == {max(lengths) + 6}
    assert all(seen["lost"] == seen["thinking_untrained"] == 0 for seen in report["trainers"])
    assert report["warnings"] == []
    assert "reads 20 rows" in report["loads"]["datasets"] and "reads 20 rows" in report["loads"]["pandas"]


def test_a_length_that_was_asked_for_must_lose_nothing(curate, dataset):
    folder = dataset / "plain"
    longest = json.loads(curate("check", folder, "--json").out)["trainers"][0]["longest"]
    assert curate("check", folder, "--max-length", longest).code == 0
    end = curate("check", folder, "--max-length", longest - 1)
    assert end.code == 4
    assert "trl: of 20 rows" in end.err and f"Set max_length: {longest} in place of {longest - 1}" in end.err
    assert "verl" in end.err and "axolotl: of 20 rows" in end.err and "trainer           limit" in end.out
    only = curate("check", folder, "--max-length", longest - 1, "--trainer", "axolotl", "--json")
    assert (only.code, json.loads(only.out)["code"]) == (4, 4)
    assert "dropped" in json.loads(only.out)["message"] and "trl" not in json.loads(only.out)["message"]


def test_a_loss_under_a_default_is_a_warning_until_the_trainer_is_named(dataset, tmp_path, bytewise):
    """Every byte a token: rows of the bridge exceed what axolotl takes by default once they are made long."""
    folder = tmp_path / "long"
    shutil.copytree(dataset / "plain", folder)
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    lines[0]["messages"][1]["content"] = "<think> " + "1 " * 600 + "</think> ans 1"
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = check_trainers(folder)
    assert [(seen["trainer"], seen["dropped"]) for seen in report["trainers"] if seen["lost"]] == [("axolotl", 1)]
    assert report["failures"] == [] and any(warning.startswith("axolotl: of 20 rows 1 dropped") for warning in report["warnings"])
    assert len(check_trainers(folder, ["axolotl"])["failures"]) == 1
    assert check_trainers(folder, ["trl"])["failures"] == []


@pytest.mark.parametrize(
    ("template", "kept"),
    [
        ("chatml", {"trl", "verl", "llamafactory", "axolotl", "open-instruct"}),
        ("qwen3", {"trl", "llamafactory", "axolotl", "open-instruct"}),
        ("r1-distill", {"llamafactory"}),
    ],
)
def test_which_trainers_keep_the_thinking_under_a_template(dataset, template, kept):
    """verl renders the assistant turn alone, where Qwen3's template drops its thinking; R1's template always does."""
    report = check_trainers(dataset / "bridge", list(TRAINERS), template=template)
    assert {seen["trainer"] for seen in report["trainers"] if not seen["lost"]} == kept
    assert {sentence.partition(":")[0] for sentence in report["failures"]} == set(TRAINERS) - kept
    verl = next(seen for seen in report["trainers"] if seen["trainer"] == "verl")
    assert sum(verl["refused"].values()) == (20 if template == "qwen3" else 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"names": ["trlx"]}, UsageError, "--trainer trlx: expected one of trl, verl, llamafactory, axolotl, open-instruct"),
        ({"template": "none/here"}, InputError, "expected a Hugging Face tokenizer folder, a .jinja file, or one of chatml"),
        ({"template": "none.jinja"}, InputError, "template none.jinja: no such file"),
    ],
)
def test_a_trainer_or_a_template_that_is_not_there_is_one_clear_error(dataset, arguments, error, message):
    with pytest.raises(error, match=message):
        check_trainers(dataset / "plain", **arguments)


@pytest.mark.parametrize("source", ["{% for x in %}", "{{ raise_exception('no') }}", "{{ messages[5].content }}"])
def test_a_template_that_cannot_be_used_says_so(tmp_path, source):
    (tmp_path / "own.jinja").write_text(source)
    with pytest.raises(InputError, match=r"own\.jinja: (not a template that jinja2 can read|cannot render)"):
        load_template(str(tmp_path / "own.jinja"), "words")


def test_check_finds_another_own_heldout_set(dataset, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(dataset / "plain", folder)
    own = pl.read_parquet(folder / "heldout_own.parquet")
    own.reverse().write_parquet(folder / "heldout_own.parquet")
    with pytest.raises(CheckFailed, match=r"heldout_own\.parquet is not the file that the manifest describes"):
        check_dataset(folder)
    shutil.copy(dataset / "plain/train.parquet", folder / "heldout_own.parquet")
    from curate.examples import example_row
    from curate.files import content_hash

    strays = read_examples(folder / "heldout_own.parquet")
    set_manifest(folder, heldout_own_hash=content_hash([example_row(example) for example in strays]))
    with pytest.raises(CheckFailed, match=r"20 problems of heldout_own\.parquet are not held out"):
        check_dataset(folder)


def test_stubs_state_a_length_that_loses_nothing_their_epochs_and_the_file_they_point_at(dataset):
    for variant, epochs in {"plain": 1, "half": 2, "bridge": 1}.items():
        trainers = dataset / variant / "trainers"
        stubs = {path.stem: yaml.safe_load(path.read_text()) for path in trainers.glob("*.yaml")}
        info = json.loads((trainers / "dataset_info.json").read_text())[stubs["llamafactory"]["dataset"]]
        pointed = (stubs["trl"]["datasets"][0]["data_files"], stubs["verl"]["data"]["train_files"], info["file_name"])
        assert all((trainers / path).is_file() for path in (*pointed, stubs["axolotl"]["datasets"][0]["path"]))
        stated = [stubs["trl"]["num_train_epochs"], stubs["verl"]["trainer"]["total_epochs"], stubs["axolotl"]["num_epochs"]]
        assert [*stated, stubs["llamafactory"]["num_train_epochs"]] == [epochs] * 4
        assert f"--num_train_epochs {epochs} " in (trainers / "open-instruct.sh").read_text()
        for trainer in TRAINERS.values():
            length = stated_length(dataset / variant, trainer)
            assert check_trainers(dataset / variant, [trainer.name], length)["failures"] == []


def test_a_stub_states_the_longest_row_in_bytes_where_the_recipe_counts_words(dataset):
    """So that no byte-level tokenizer can make a row longer than the limit."""
    facts = manifest(dataset / "plain")
    facts["longest"] = {"prompt": 5, "completion": 9, "row": 12, "row_bytes": 77}
    assert yaml.safe_load(trainer_files(facts)["trl.yaml"])["max_length"] == 77 + TEMPLATE_MARGIN
    facts["recipe"]["tokenizer"] = "some/folder"
    assert yaml.safe_load(trainer_files(facts)["trl.yaml"])["max_length"] == 12 + TEMPLATE_MARGIN


def test_a_stub_too_short_for_a_template_is_a_warning(dataset, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(dataset / "plain", folder)
    stub = folder / "trainers/axolotl.yaml"
    stub.write_text(stub.read_text().replace(f"sequence_len: {stated_length(folder, TRAINERS['axolotl'])}", "sequence_len: 30"))
    warnings = check_trainers(folder)["warnings"]
    assert [warning.partition(":")[0] for warning in warnings] == ["trainers/axolotl"]
    assert "states sequence_len 30" in warnings[0]


def test_diff_says_which_settings_rows_and_texts_differ_and_why(dataset):
    report = compare(dataset / "half", dataset / "plain")
    assert report["settings"] == {
        "variant.budget.examples": [10, 20],
        "variant.epochs": [2, 1],
        "variant.name": ["half", "plain"],
    }
    assert report["sets"] == {"heldout": True, "rl": True} and report["sources"] == {} and not report["same"]
    half, plain = (
        {row["id"] for row in pl.read_parquet(dataset / f"{name}/train.parquet").to_dicts()} for name in ("half", "plain")
    )
    assert (report["common"], report["only_a"]["rows"]) == (len(half & plain), len(half - plain))
    assert report["only_b"]["ids"] == sorted(plain - half)[:5]
    assert report["only_b"]["why"] == {"select.over_budget": len(plain - half)}
    lengths = report["lengths"]
    assert lengths["a"]["tokens_seen"] == 2 * manifest(dataset / "half")["tokens"]["train"]
    assert lengths["b"]["tokens"] == manifest(dataset / "plain")["tokens"]["train"]


def test_diff_shows_where_the_texts_of_one_row_part_and_the_behaviours(dataset):
    report = compare(dataset / "plain", dataset / "bridge")
    texts = [
        dict(pl.read_parquet(dataset / f"{name}/train.parquet").select("id", "messages").iter_rows())
        for name in ("plain", "bridge")
    ]
    changed = sorted(identity for identity in texts[0] if texts[0][identity] != texts[1][identity])
    assert changed and (report["changed"]["rows"], report["changed"]["ids"]) == (len(changed), changed[:5])
    before, after = report["changed"]["first"]
    assert before in f"{texts[0][changed[0]][0]['content']}\n{texts[0][changed[0]][1]['content']}"
    assert after in f"{texts[1][changed[0]][0]['content']}\n{texts[1][changed[0]][1]['content']}" and before != after
    rates = manifest(dataset / "bridge")["behavior_rates"]
    assert report["behaviors"] == {name: [None, rate["share"]] for name, rate in rates.items()}


def test_diff_of_a_folder_with_itself_finds_nothing(curate, dataset):
    report = json.loads(curate("diff", dataset / "plain", dataset / "plain", "--json").out)
    assert report["same"] and not any(report[part] for part in ("settings", "sources", "behaviors"))
    assert report["only_a"]["rows"] == report["only_b"]["rows"] == report["changed"]["rows"] == 0
    assert (report["lengths"]["wasserstein_tokens"], report["lengths"]["kolmogorov_smirnov"]) == (0, 0)
    shown = curate("diff", dataset / "plain", dataset / "half").out
    assert "variant.epochs: 1 -> 2" in shown and "in b: select.over_budget" in shown


def test_diff_tells_rows_that_the_other_held_out_or_never_read(dataset, tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("size: 60", "size: 48"))
    build(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out")
    report = compare(dataset / "plain", tmp_path / "out/plain")
    assert report["sources"] == {"0.size": [60, 48]}
    here = {row["id"]: row["messages"][0]["content"] for row in pl.read_parquet(dataset / "plain/train.parquet").to_dicts()}
    there = {name: pl.read_parquet(tmp_path / f"out/plain/{name}.parquet") for name in ("train", "heldout", "rl", "ledger")}
    known = {name: set(table["id"]) for name, table in there.items() if "id" in table.columns}
    prompts = {row["prompt"][0]["content"] for row in there["rl"].to_dicts()}
    unread = [i for i, prompt in here.items() if not any(i in ids for ids in known.values()) and prompt not in prompts]
    assert unread and report["only_a"]["why"].get("not among the rows read") == len(unread)
    assert sum(report["only_a"]["why"].values()) == report["only_a"]["rows"] == len(here.keys() - known["train"])


def test_the_card_is_what_the_hub_and_the_datasets_library_read(curate, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "copy"
    shutil.copytree(dataset / "bridge", folder)
    text = curate("card", folder).out
    assert text == (folder / "README.md").read_text() == json.loads(curate("card", folder, "--json").out)["card"]
    front = yaml.safe_load(text.split("---")[1])
    assert [config["config_name"] for config in front["configs"]] == ["default", "heldout", "rl"]
    for config, rows in (("default", 20), ("heldout", 10), ("rl", 12)):
        read = datasets.load_dataset(str(folder), config, cache_dir=str(tmp_path / "cache"))["train"]
        assert read.num_rows == rows
    facts = manifest(folder)
    assert all(f"| {count} |" in text for count in facts["drop_reasons"].values())
    counts = [int(line.split()[-1]) for line in text.split("```")[1].strip().splitlines()]
    assert counts == facts["lengths"]["counts"]


def test_the_card_names_licence_files_by_hash_and_contamination(curate, dataset, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(dataset / "plain", folder)
    facts = manifest(folder)
    recipe = {**facts["recipe"], "license": "apache-2.0", "decontaminate": {"ngram": 8}}
    hit = {"benchmark": "gsm8k|test", "part": "question", "kind": "verbatim", "rows": 3, "dropped": 2}
    set_manifest(folder, recipe=recipe, contamination=[hit], sources=[{"path": "/data/me/rows.jsonl", "sha256": "ab" * 32}])
    assert curate("card", folder, "--write").code == 0
    text = (folder / "README.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["license"] == "apache-2.0"
    assert f"| rows.jsonl | `{'ab' * 32}` |" in text and "/data/me" not in text
    assert r"| gsm8k\|test | question | verbatim | 3 | 2 |" in text


def test_a_table_has_every_column_that_some_row_has():
    assert table([{"a": 1}, {"b": 0.12345}]) == "| a | b |\n| --- | --- |\n| 1 |  |\n|  | 0.123 |"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cut", [False, True])
def test_trl_itself_trains_on_what_the_check_says(dataset, bytewise, tmp_path, monkeypatch, family, cut):
    """TRL parses the stub, loads the file it names, tokenizes, masks and cuts it, and takes a step on a tiny model."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, SFTTrainer, TrlParser, get_dataset

    monkeypatch.chdir(dataset / "bridge/trainers")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    arguments = ["--config", "trl.yaml", "--output_dir", str(tmp_path), "--max_steps", "1", "--use_cpu", "--report_to", "none"]
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig))
    parsed = parser.parse_args_and_config([*arguments, "--save_strategy", "no", "--bf16", "False"], fail_with_unknown_args=True)
    config, rows = parsed[1], get_dataset(parsed[3])["train"]
    ours = TRAINERS["trl"]
    seen = [ours.encode(turns_of(example), bytewise(family)) for example in read_examples(dataset / "bridge/train.jsonl")]
    lengths = sorted(len(encoded.tokens) for encoded in seen)
    config.max_length = lengths[10] if cut else lengths[-1]
    tokenizer = byte_tokenizer(family)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes))
    trainer = SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
    assert trainer.train().training_loss > 0

    kept = [row for encoded in seen if (row := ours.limited(encoded, config.max_length))]
    assert (sum(len(row.tokens) for row in kept) < sum(lengths)) == cut
    expected = [
        (
            [token.id for token in row.tokens],
            [token.id if loss else -100 for token, loss in zip(row.tokens, row.loss, strict=True)],
        )
        for row in kept
    ]
    assert [(row["input_ids"], row["labels"]) for row in trainer.train_dataset] == expected
