"""Budget forcing: exact rows of tokens, s1's metrics by hand, and whole runs on an embedded base model."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerFast

from curate import arithmetic
from curate.config import check_config
from curate.errors import InputError, UsageError
from predict import store
from train import budget, checkpoints, evaluate, rendering, tiny
from train.budget import PLAIN, Setting, control, s1_metrics, scaling
from train.cli import main
from train.configs import DELIMITERS, BudgetConfig, EvaluateConfig, ProblemSet
from train.forcing import Forcer, Marks, Row, cut, kept_open
from train.sampling import NativeSampler, Rollouts, TransformersSampler

ROOT = Path(__file__).parent.parent
BASE = ROOT / "studies/lab/bases/l4-behaved-s0"
PROBLEMS = {"set": "A", "problems": 12, "operations": [2, 4], "num_samples": 2}
SETTINGS = {
    "model": str(BASE),
    "problems": PROBLEMS,
    "budgets": [0, 8, 16, 1000],
    "waits": [0, 1],
    "answer_tokens": 6,
    "max_tokens": 60,
}
WORDS = tiny.tokenizer()
EMBEDDED = Marks(DELIMITERS["embedded"], WORDS)


def ids(text: str) -> list[int]:
    return [tiny.WORD_IDS[word] for word in text.split()]


def row(text: str, *, finished: bool = True) -> Row:
    return EMBEDDED.row(ids(text), finished)


def spelled(*pieces: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that knows these pieces, as Qwen's or SmolLM's: `</think>` is no token of its own."""
    vocabulary = {letter: number for number, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    merges = []
    for piece in pieces:
        text = piece.replace(" ", "Ġ").replace("\n", "Ċ")
        for end in range(2, len(text) + 1):
            merges.append((text[: end - 1], text[end - 1]))
            vocabulary.setdefault(text[:end], len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, list(dict.fromkeys(merges))))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


class Scripted:
    """A sampler whose model goes on with the words that the script has for the end of its prompt, up to the limit."""

    engine = "script"

    def __init__(self, script: dict[str, str]) -> None:
        self.script = {tuple(ids(end)): ids(words) for end, words in script.items()}
        self.prompts: list[list[int]] = []

    def sample(self, prompts, *, group_size, max_tokens, temperature, seed) -> Rollouts:
        assert group_size == 1
        self.prompts += prompts
        whole = [next(words for end, words in self.script.items() if tuple(prompt[-len(end) :]) == end) for prompt in prompts]
        rows = [words[:max_tokens] for words in whole]
        width = max(map(len, rows))
        tokens = torch.tensor([words + [tiny.PAD] * (width - len(words)) for words in rows])
        lengths = torch.tensor([len(words) for words in rows])
        finished = torch.tensor([words[-1] == tiny.EOS for words in rows])
        return Rollouts(tokens, lengths, finished, torch.zeros(tokens.shape), torch.zeros(len(rows)))


def forcer(script: dict[str, str], **settings) -> tuple[Forcer, Scripted]:
    sampler = Scripted(script)
    return Forcer(BudgetConfig(**{**SETTINGS, **settings}), sampler, WORDS), sampler


# --- rows


@pytest.mark.parametrize(
    ("text", "finished", "thinking", "closed"),
    [
        ("m 15 o 14 </think> ans 14 <eos>", True, 4, True),
        ("</think> ans 14 <eos>", True, 0, True),
        ("m 15 </think> ans </think>", False, 2, True),  # the first end counts; the answer was cut
        ("m 15 o", False, 3, False),  # cut while it was thinking
        ("m 15 o <eos>", True, 3, True),  # ended without an end of thinking
    ],
)
def test_thinking_ends_at_the_first_delimiter_or_with_the_row(text, finished, thinking, closed):
    assert row(text, finished=finished) == Row(ids(text), finished, thinking, closed)


def test_thinking_beyond_the_budget_is_cut_and_other_thinking_is_not():
    long = row("m 15 o 14 </think> ans 14 <eos>")
    assert cut(long, 3) == ids("m 15 o")
    assert cut(long, 0) == []
    assert cut(long, 4) is None
    assert cut(row("m 15 o", finished=False), 3) is None
    assert EMBEDDED.forced_exit(ids("m 15 o")) == ids("</think> ans")


def test_the_wait_stands_where_the_end_of_thinking_stood():
    assert kept_open(row("m 15 </think> ans 15 <eos>"), EMBEDDED.wait) == ids("m 15 Wait")
    assert kept_open(row("m 15 <eos>"), EMBEDDED.wait) == ids("m 15 Wait")


THINK = Marks(DELIMITERS["think"], spelled("</", ".</", "think", ">\n\n", "Wait", "<think"))


@pytest.mark.parametrize("thought", ["", "7 + 5 = 12", "so 12.", "so 12.\n", "naïve – 12 €"])
@pytest.mark.parametrize("answer", ["\n\nThe answer is 12.", "", ">12"])
def test_a_delimiter_in_pieces_is_found_by_its_text(thought, answer):
    tokens = THINK.tokenizer(f"{thought}</think>{answer}")["input_ids"]
    length = THINK.thinking_length(tokens)
    before, with_next = THINK.decode(tokens[:length]), THINK.decode(tokens[: length + 1])
    assert f"{thought}</think>".startswith(before)
    assert len(with_next) > len(thought)  # the longest such prefix
    assert thought.removesuffix(".") in (before, before.removesuffix("."))  # `.</` is one token, and goes as one
    assert THINK.thinking_length(tokens[:length]) is None


def test_a_line_feed_before_the_forced_exit_is_not_doubled():
    read = THINK.tokenizer
    assert THINK.decode(THINK.forced_exit(read("so 12")["input_ids"])) == "\n</think>\n\nFinal Answer:"
    assert THINK.decode(THINK.forced_exit(read("so 12\n")["input_ids"])) == "</think>\n\nFinal Answer:"


def test_thinking_is_opened_once():
    read = THINK.tokenizer
    for prompt in ("Sum?<think>", "Sum?<think>\n"):
        assert THINK.opened(read(prompt)["input_ids"]) == read(prompt)["input_ids"]
    assert THINK.decode(THINK.opened(read("Sum?\n")["input_ids"])) == "Sum?\n<think>\n"
    closed = Marks(dataclasses.replace(DELIMITERS["think"], start=""), read)
    assert closed.opened([5, 6]) == [5, 6]


def test_a_model_that_cannot_write_the_delimiters_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a delimiter of budget forcing: the model's tokenizer cannot read .*Final Answer"):
        budget.main(BudgetConfig(**{**SETTINGS, "delimiters": "think"}, home=tmp_path))


# --- rounds, on a scripted model


def test_each_wait_suppresses_one_end_of_thinking():
    one, sampler = forcer({"m 15 Wait": "check 15 ok </think> ans 3 <eos>", "ok Wait": "</think> ans 4 <eos>"})
    prompts, rows = [ids("m ? <think>")] * 2, [row("m 15 </think> ans 15 <eos>"), row("m 15 o", finished=False)]
    once = one.wait(prompts, rows)
    assert once == [row("m 15 Wait check 15 ok </think> ans 3 <eos>"), rows[1]]  # cut rows never ended: nothing to suppress
    assert sampler.prompts == [ids("m ? <think> m 15 Wait")]
    assert one.wait(prompts, once)[0] == row("m 15 Wait check 15 ok Wait </think> ans 4 <eos>")


@pytest.mark.parametrize(
    ("most", "expected", "finished"),
    [(8, "m 15 Wait o 14 </think> ans 3", False), (5, "m 15 Wait o 14", False), (3, "m 15 Wait", False), (2, "m 15", False)],
)
def test_waiting_ends_at_the_limit_of_a_completion(most, expected, finished):
    one, _ = forcer({"m 15 Wait": "o 14 </think> ans 3 <eos>"}, max_tokens=most, budgets=[1])
    assert one.wait([ids("<think>")], [row("m 15 </think> ans 15 <eos>")]) == [row(expected, finished=finished)]


def test_the_limit_of_one_row_is_not_that_of_another():
    one, _ = forcer({"Wait": "o 14 </think> ans 3 <eos>"}, max_tokens=9, budgets=[1])
    rows = [row("m 15 </think> ans 15 <eos>"), row("m 15 k 2 l 3 </think> ans 3 <eos>")]
    assert one.wait([ids("<think>")] * 2, rows) == [
        row("m 15 Wait o 14 </think> ans 3 <eos>"),
        row("m 15 k 2 l 3 Wait o 14", finished=False),
    ]


def test_a_row_at_its_budget_is_asked_for_its_answer_and_others_stay_as_they_wrote_themselves():
    one, sampler = forcer({"</think> ans": "9 8 7 6 <eos>"}, answer_tokens=5)
    rows = [row("m 15 o 14 </think> ans 14 <eos>"), row("m 15 </think> ans 15 <eos>"), row("m 15 o 14", finished=False)]
    forced = Row(ids("m 15 o </think> ans 9 8 7 6 <eos>"), finished=True, thinking=3, closed=False, forced=True)
    assert one.cap([ids("m ? <think>")] * 3, rows, 3) == [forced, rows[1], forced]
    assert sampler.prompts == [ids("m ? <think> m 15 o </think> ans")] * 2
    short, _ = forcer({"</think> ans": "9 8 7 6 <eos>"}, answer_tokens=2)
    assert short.cap([ids("<think>")], rows[:1], 0)[0] == Row(ids("</think> ans 9 8"), False, 0, closed=False, forced=True)


def test_waits_count_within_the_budget():
    one, _ = forcer({"m 15 Wait": "o 14 </think> ans 3 <eos>", "</think> ans": "9 <eos>"})
    rows = one.wait([ids("<think>")], [row("m 15 </think> ans 15 <eos>")])
    written = {limit: one.cap([ids("<think>")], rows, limit)[0] for limit in (2, 3, 5)}
    assert written[2].tokens == ids("m 15 </think> ans 9 <eos>")
    assert written[3].tokens == ids("m 15 Wait </think> ans 9 <eos>")
    assert written[5] == rows[0]
    assert [one.thinking for one in written.values()] == [2, 3, 5]


# --- the procedure of s1, written out anew, on the real base


def by_rounds(sampler, prompt: list[int], limit: int, waits: int, answer: int) -> list[int]:
    """s1's decoding of one row, greedy, under one budget: stop at the end of thinking, wait, stop at the budget, answer."""

    def written(start: list[int], most: int) -> list[int]:
        if most < 1:
            return []
        rollouts = sampler.sample([start], group_size=1, max_tokens=most, temperature=0, seed=0)
        return rollouts.tokens[0, : rollouts.lengths[0]].tolist()

    end, wait, thinking = ids("</think>")[0], ids("Wait"), []
    for left in range(waits, -1, -1):
        more = written([*prompt, *thinking], limit - len(thinking) + 1)  # one for the end itself
        stopped = [place for place, token in enumerate(more) if token in (end, tiny.EOS)]
        thinking += more[: stopped[0]] if stopped else more
        if len(thinking) > limit or not stopped:
            break
        if left == 0:
            return [*thinking, *written([*prompt, *thinking], 99)]
        thinking += wait
    kept = [*thinking[:limit], *ids("</think> ans")]
    return [*kept, *written([*prompt, *kept], answer)]


@pytest.fixture(scope="module")
def base():
    model, tokenizer = checkpoints.load(BASE)
    return model.eval(), tokenizer


def test_one_sample_cut_at_every_budget_is_what_each_budget_would_have_written(base):
    model, tokenizer = base
    sampler = NativeSampler(model, end=[tiny.EOS], pad=tiny.PAD)
    problems = arithmetic.problems(size=3, operations=(2, 4), split="A")
    prompts = [rendering.prompt_ids(tokenizer, problem) for problem in problems]
    one = Forcer(BudgetConfig(**{**SETTINGS, "temperature": 0, "max_tokens": 140}), sampler, tokenizer)
    rollouts = sampler.sample(prompts, group_size=1, max_tokens=140, temperature=0, seed=0)
    rows, seen = one.marks.rows(rollouts), set()
    for waits in (0, 1, 2):
        rows = one.wait(prompts, rows, waits) if waits else rows
        for limit in (0, 13, 24, 60):
            for prompt, forced in zip(prompts, one.cap(prompts, rows, limit), strict=True):
                seen.add((waits, forced.forced))
                assert forced.tokens == by_rounds(sampler, prompt, limit, waits, 6)
                assert forced.thinking <= limit
    assert seen == {(waits, forced) for waits in (0, 1, 2) for forced in (True, False)}


# --- s1's metrics


def test_control_scaling_and_performance_by_hand():
    assert control([4.0, 8.0, 9.0, 1.0], [4, 8, 8, 2]) == 0.75
    assert control([4.0, 8.0], [9, 9], least=5) == 0.5
    # (10, .2), (20, .4), (40, .3): slopes .02, -.005 and .1 / 30
    assert scaling([20, 10, 40], [0.4, 0.2, 0.3]) == pytest.approx((0.02 - 0.005 + 0.1 / 30) / 3)
    assert scaling([20, 20], [0.4, 0.2]) is None
    assert scaling([20, 20, 30], [0.4, 0.2, 0.5]) == pytest.approx((0.01 + 0.03) / 2)


def test_the_metrics_are_taken_over_budgets_and_over_waits():
    def run(limit, waits, tokens, accuracy):
        return {"budget": limit, "waits": waits, "thinking_tokens": tokens, "accuracy": accuracy}

    runs = [run(10, 0, 10.0, 0.1), run(30, 0, 20.0, 0.5), run(10, 2, 11.0, 0.1), run(30, 2, 30.0, 0.3)]
    assert s1_metrics(runs) == [
        {"waits": 0, "budget": None, "runs": 2, "control": 1.0, "scaling": pytest.approx(0.04), "performance": 0.5},
        {"waits": 2, "budget": None, "runs": 2, "control": 0.5, "scaling": pytest.approx(0.2 / 19), "performance": 0.3},
        {"waits": None, "budget": 10, "runs": 2, "control": 0.5, "scaling": 0.0, "performance": 0.1},
        {"waits": None, "budget": 30, "runs": 2, "control": 1.0, "scaling": pytest.approx(-0.02), "performance": 0.5},
    ]
    assert s1_metrics(runs[:1]) == []


# --- whole runs


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def measured(home) -> dict:
    return budget.main(BudgetConfig(**SETTINGS, home=home))


def evaluation(home: Path, document: dict, setting: Setting) -> tuple[dict, dict]:
    """Counts by column, and key with provenance, of one setting."""
    [name] = [run["evaluation"] for run in document["runs"] if (run["budget"], run["waits"]) == setting]
    file = home / "runs" / document["run_id"] / "evaluations" / name
    return pq.read_table(file).to_pydict(), json.loads(file.with_suffix(".json").read_text())


def test_without_a_budget_that_binds_the_counts_are_those_of_train_evaluate(measured, home, tmp_path):
    settings = {name: SETTINGS[name] for name in ("model", "problems", "max_tokens")}
    record = evaluate.main(EvaluateConfig(**settings, home=tmp_path))
    [file] = record.path.glob("evaluations/*.parquet")
    plain = pq.read_table(file).to_pydict()
    assert 0 < sum(plain["num_correct"]) < sum(plain["num_samples"])
    for setting in (PLAIN, Setting(1000, 0)):
        assert evaluation(home, measured, setting)[0] == plain
    assert measured["notes"] == ["budget 1000 never binds: completions end at max_tokens 60; raise that, or leave the budget out"]


def test_at_budget_0_there_are_forced_answers_only(measured, home):
    counts, facts = evaluation(home, measured, Setting(0, 0))
    assert facts["provenance"]["forced"] == sum(counts["num_samples"]) == 24
    assert facts["provenance"]["thinking_tokens"] == 0
    assert max(counts["mean_tokens"]) <= 2 + SETTINGS["answer_tokens"]  # `</think> ans` and the answer


def test_the_report_is_what_the_stored_counts_say(measured, home):
    for run in measured["runs"]:
        counts, facts = evaluation(home, measured, Setting(run["budget"], run["waits"]))
        shares = torch.tensor(
            [c / n for c, n in zip(counts["num_correct"], counts["num_samples"], strict=True)], dtype=torch.float64
        )
        assert run["accuracy"] == pytest.approx(float(shares.mean()))
        assert run["se"] == pytest.approx(float(shares.std() / 12**0.5))
        assert run["tokens"] == pytest.approx(sum(counts["mean_tokens"]) / 12)
        assert run["thinking_tokens"] == facts["provenance"]["thinking_tokens"] / 24
        assert run["thinking_tokens"] <= (run["budget"] or 1000)
    assert [(run["budget"], run["waits"]) for run in measured["runs"]] == [
        (None, 0), *[(limit, waits) for waits in (0, 1) for limit in (0, 8, 16, 1000)]
    ]  # fmt: skip
    assert {one["control"] for one in measured["metrics"]} == {1.0}


def test_equal_seeds_write_equal_files_and_files_are_never_written_again(measured, home, tmp_path):
    files = sorted((home / "runs" / measured["run_id"] / "evaluations").glob("*.parquet"))
    before = {file: file.read_bytes() for file in files}
    part = budget.main(BudgetConfig(**{**SETTINGS, "budgets": [8], "waits": [1]}, home=tmp_path))
    for setting in (PLAIN, Setting(8, 1)):  # whatever else is measured beside it
        assert evaluation(tmp_path, part, setting)[0] == evaluation(home, measured, setting)[0]
    assert budget.main(BudgetConfig(**SETTINGS, home=home)) == measured
    assert {file: file.read_bytes() for file in files} == before
    with pytest.raises(InputError, match=r"holds 2 samples.*immutable.*another seed"):
        budget.main(BudgetConfig(**{**SETTINGS, "problems": {**PROBLEMS, "num_samples": 3}}, home=home))


def test_both_samplers_give_the_same_greedy_result(tmp_path):
    greedy = {**SETTINGS, "temperature": 0, "problems": {**PROBLEMS, "problems": 5, "num_samples": 1}, "budgets": [0, 9]}
    found = {}
    for sampler in ("native", "transformers"):
        document = budget.main(BudgetConfig(**greedy, sampler=sampler, home=tmp_path / sampler))
        found[sampler] = [evaluation(tmp_path / sampler, document, (run["budget"], run["waits"]))[0] for run in document["runs"]]
    assert found["native"] == found["transformers"]
    assert len({json.dumps(counts["mean_tokens"]) for counts in found["native"]}) > 2


def test_the_rows_of_both_samplers_are_equal_token_by_token(base):
    model, tokenizer = base
    prompts = [rendering.prompt_ids(tokenizer, p) for p in arithmetic.problems(size=3, operations=(2, 3), split="A")]
    rows = []
    for kind in (NativeSampler, TransformersSampler):
        one = Forcer(BudgetConfig(**{**SETTINGS, "temperature": 0}), kind(model, end=[tiny.EOS], pad=tiny.PAD), tokenizer)
        plain = one.marks.rows(one.sampler.sample(prompts, group_size=1, max_tokens=60, temperature=0, seed=0))
        rows.append(one.cap(prompts, one.wait(prompts, plain), 32))
    assert rows[0] == rows[1]
    assert {one.forced for one in rows[0]} == {True, False}


def test_each_budget_has_a_key_of_its_own_that_says_what_was_forced(measured, home):
    keys = [evaluation(home, measured, (run["budget"], run["waits"]))[1]["key"]["budget"] for run in measured["runs"]]
    opened = {"start": "<think>", "end": "</think>"}
    assert keys[0] == {"thinking_tokens": None, "waits": 0, **opened}
    assert keys[2] == {"thinking_tokens": 8, "waits": 0, **opened, "forced_exit": "</think> ans", "answer_tokens": 6}
    assert keys[6] == {**keys[2], "waits": 1, "wait": "Wait"}


def test_the_store_shows_accuracy_and_tokens_against_the_budget_and_no_signal_is_mixed_with_them(measured, home):
    evaluate.main(EvaluateConfig(model=str(BASE), problems=ProblemSet(**PROBLEMS), max_tokens=60, purpose="signals", home=home))
    store.ingest(home)
    [query] = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/budget.md").read_text(), re.DOTALL)
    rows = {(row["budget"], row["waits"]): row for row in store.query(home, query).to_dicts()}
    assert len(rows) == len(measured["runs"])
    for run in measured["runs"]:
        row = rows[run["budget"], run["waits"]]
        for name in ("accuracy", "se", "thinking_tokens", "tokens", "forced_share"):
            assert row[name] == pytest.approx(run[name])
    [signals] = store.query(home, "SELECT pass_at_1, mean_tokens, signal_keys FROM checkpoint_signals").to_dicts()
    assert signals["pass_at_1"] == pytest.approx(measured["runs"][0]["accuracy"])
    assert signals["mean_tokens"] == pytest.approx(measured["runs"][0]["tokens"])
    sizes = "SELECT key_id, sum(num_samples)::INT AS rows FROM counts GROUP BY key_id, purpose"
    assert set(store.query(home, sizes)["rows"]) == {24}
    assert len(store.query(home, sizes)) == 1 + len(measured["runs"])


# --- the command


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run `train budget` within this process: exit code, stdout, stderr."""

    def call(settings: dict, *options: str) -> tuple[int, str, str]:
        (tmp_path / "config.yaml").write_text(json.dumps(settings))
        monkeypatch.setattr(sys, "argv", ["train", "budget", str(tmp_path / "config.yaml"), *options])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capfd.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return call


def test_the_command_prints_a_table_or_one_json_document(measured, home, run):
    code, out, _ = run(SETTINGS, "--home", str(home), "--json")
    assert code == 0
    assert json.loads(out) == {"schema_version": 1, "ok": True, **measured}
    code, out, _ = run(SETTINGS, "--home", str(home))
    assert code == 0
    first = measured["runs"][0]
    assert f"| none | 0 | {first['accuracy']:.3f} | {first['se']:.3f} | {first['thinking_tokens']:.1f} |" in out
    assert "| waits 1, all budgets | 100% |" in out
    assert "note: budget 1000 never binds" in out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budgets": []}, "budgets: .*at least 1 item"),
        ({"budgets": [4, 4]}, "budgets: expected each value once, came .4, 4."),
        ({"budgets": [-1]}, "budgets.0: .*greater than or equal to 0, came -1"),
        ({"waits": [1, 1]}, "waits: expected each value once"),
        ({"forced_exit": "ans"}, "forced_exit: expected a text that holds the end of thinking '</think>'"),
        ({"wait": ""}, "wait: .*at least 1 character"),
        ({"delimiters": "s2"}, "delimiters: .*'embedded' or 'think', came 's2'"),
        ({"budget": [4]}, "budget: unknown key; did you mean 'budgets'"),
        ({"problems": None}, "problems: "),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        check_config({**SETTINGS, **settings}, BudgetConfig, origin="test")


def test_parts_of_a_preset_can_be_replaced():
    config = BudgetConfig(**{**SETTINGS, "delimiters": "think", "wait": "Hmm", "start": ""})
    assert config.texts == dataclasses.replace(DELIMITERS["think"], wait="Hmm", start="")


def test_a_wrong_setting_ends_the_command_with_code_2(run, tmp_path):
    code, out, err = run({**SETTINGS, "budgets": [4, 4]}, "--home", str(tmp_path))
    assert (code, out) == (2, "")
    assert "budgets: expected each value once" in err
