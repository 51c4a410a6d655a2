"""Measuring a model that a server holds: a real server on this machine, that holds a real model and answers as vLLM does, or badly."""

import json
import shutil
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from completions_server import VERSION, CompletionsServer

from curate import arithmetic
from curate.errors import CheckFailed, InputError, UsageError
from train import checkpoints, evaluate, rendering, served
from train.configs import EvaluateConfig, ServedModel
from train.records import RunFolder
from train.sampling import make_sampler

BASE = Path(__file__).parent.parent / "studies/lab/bases/l4-behaved-s0"
OTHER = BASE.parent / "l4-plain-s0"
PROBLEMS = {"set": "A", "problems": 4, "num_samples": 6, "operations": (2, 4)}


@pytest.fixture(scope="module")
def base():
    model, tokenizer = checkpoints.load(BASE)
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def prompts(base) -> list[list[int]]:
    return [rendering.prompt_ids(base[1], problem) for problem in arithmetic.problems(size=4, operations=(2, 4), split="A")]


@pytest.fixture
def serve(base):
    servers = []

    def start(model=base[0], **settings) -> CompletionsServer:
        server = CompletionsServer(make_sampler("native", model, base[1]), **settings)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def settings_of(server: CompletionsServer, **settings) -> ServedModel:
    return ServedModel(url=server.url, **{"backoff_seconds": 0.01, "retries": 2, "samples_a_request": 4} | settings)


def sampler_of(server: CompletionsServer, tokenizer, *, answers: Path | None = None, **settings) -> served.ServedSampler:
    wanted = settings_of(server, **settings)
    ids = {"end": rendering.end_ids(tokenizer), "pad": rendering.pad_id(tokenizer)}
    return served.ServedSampler(wanted, served.look_up(wanted), **ids, answers=answers)


def sampled(sampler, prompts, **settings):
    return sampler.sample(prompts, **{"group_size": 6, "max_tokens": 24, "temperature": 1.0, "seed": 3} | settings)


def written(rollouts) -> list[list[int]]:
    return [row[:length].tolist() for row, length in zip(rollouts.tokens, rollouts.lengths, strict=True)]


def evaluation(home: Path, asked: ServedModel | None = None, **settings) -> RunFolder:
    """Evaluate through a server; returns the run folder."""
    config = {"model": str(BASE), "problems": PROBLEMS, "max_tokens": 24, "sampler": "server", "server": asked, **settings}
    return evaluate.main(EvaluateConfig(home=home, **config))


def forward_logprobs(model, prompt: list[int], completion: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return torch.distributions.Categorical(logits=logits).log_prob(torch.tensor(completion))


def test_served_rollouts_are_the_models_own_with_the_logprobs_of_a_forward_pass(serve, base, prompts):
    model, tokenizer = base
    rollouts = sampled(sampler_of(serve(), tokenizer), prompts)
    assert len(rollouts.tokens) == 24
    assert rollouts.entropies is None
    assert 0 < rollouts.finished.sum() < 24
    for row, completion in enumerate(written(rollouts)):
        assert torch.allclose(
            rollouts.logprobs[row, : len(completion)], forward_logprobs(model, prompts[row // 6], completion), atol=1e-4
        )
        assert bool(rollouts.finished[row]) == (completion[-1] == tokenizer.eos_token_id)
        assert tokenizer.eos_token_id not in completion[:-1]
        assert rollouts.finished[row] or len(completion) == 24
    padding = ~rollouts.mask.bool()
    assert (rollouts.tokens[padding] == tokenizer.pad_token_id).all()
    assert not rollouts.logprobs[padding].any()


def test_greedy_completions_are_the_native_samplers_and_asked_for_once(serve, base, prompts):
    server = serve()
    rollouts = sampled(sampler_of(server, base[1]), prompts, temperature=0)
    ours = sampled(make_sampler("native", *base), prompts, temperature=0)
    assert written(rollouts) == written(ours)
    assert torch.equal(rollouts.finished, ours.finished)
    assert torch.allclose(rollouts.logprobs, ours.logprobs, atol=1e-4)
    assert [body["n"] for body in server.bodies] == [1] * 4


def test_completions_depend_on_the_seed_and_not_on_how_they_are_asked_for(serve, base, prompts):
    ways = {"plain": {}, "one by one": {"samples_a_request": 1, "parallel": 1}, "at once": {"samples_a_request": 64}}
    first, *others = (written(sampled(sampler_of(serve(), base[1], **way), prompts)) for way in ways.values())
    assert others == [first, first]
    assert written(sampled(sampler_of(serve(), base[1]), prompts, seed=4)) != first
    assert len({tuple(row) for row in first}) > 12


def test_no_two_samples_share_a_seed_and_nothing_is_left_to_the_servers_defaults(serve, base, prompts):
    server = serve()
    sampled(sampler_of(server, base[1]), prompts)
    seeds = [body["seed"] + choice for body in server.bodies for choice in range(body["n"])]
    assert len(set(seeds)) == 24
    assert sorted(body["n"] for body in server.bodies) == [2] * 4 + [4] * 4
    neutral = {"top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
    for body in server.bodies:
        assert body["prompt"] in prompts
        assert neutral.items() <= body.items()
        assert (body["stop_token_ids"], body["ignore_eos"]) == ([base[1].eos_token_id], True)


def test_at_other_temperatures_logprobs_are_left_out_rather_than_wrong(serve, base, prompts):
    server = serve()
    rollouts = sampled(sampler_of(server, base[1]), prompts, temperature=0.7)
    assert rollouts.logprobs is None
    assert server.bodies[0]["logprobs"] is None
    assert written(rollouts) != written(sampled(sampler_of(serve(), base[1]), prompts))


def test_an_evaluation_counts_what_the_server_wrote_and_claims_no_entropy(serve, base, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "load", lambda *_: pytest.fail("the weights were loaded"))
    server = serve()
    record = evaluation(tmp_path, settings_of(server), purpose="signals", rollouts=True)
    [file] = record.path.glob("evaluations/*.parquet")
    counts, kept = pq.read_table(file).to_pydict(), pq.read_table(next(record.path.glob("rollouts/*.parquet"))).to_pydict()
    answers = [problem.ground_truth for problem in arithmetic.problems(size=4, operations=(2, 4), split="A") for _ in range(6)]
    right = [
        ended and text.split("ans ")[-1].split() == answer.split()
        for text, ended, answer in zip(kept["completion"], kept["finished"], answers, strict=True)
    ]
    assert counts["num_correct"] == [sum(right[row : row + 6]) for row in range(0, 24, 6)]
    assert 0 < sum(right) < 24
    assert counts["num_truncated"] == [6 - sum(kept["finished"][row : row + 6]) for row in range(0, 24, 6)]
    assert not (record.path / "signals.jsonl").exists()
    provenance = json.loads(file.with_suffix(".json").read_text())["provenance"]
    assert provenance["engine"] == f"vllm {VERSION} (server)"
    assert provenance["served"] == {"model": "tiny"}
    assert {path.name for path in file.parent.iterdir()} == {file.name, file.with_suffix(".json").name}


def test_where_it_is_asked_is_no_part_of_the_key_nor_are_counts_asked_for_twice(serve, tmp_path):
    server = serve()
    record = evaluation(tmp_path, settings_of(server))
    asked = len(server.bodies)
    evaluation(tmp_path, sampler="native")
    assert len(list(record.path.glob("evaluations/*.parquet"))) == 1
    assert len(server.bodies) == asked
    here, there = EvaluateConfig(model="m", problems=PROBLEMS), EvaluateConfig(model="m", problems=PROBLEMS, sampler="server")
    assert here.science() == there.science()


def test_a_server_that_dies_half_way_leaves_no_evaluation_and_is_not_asked_again_for_what_it_answered(serve, base, tmp_path):
    server = serve()
    server.spoil = lambda body, answer: answer if len(server.bodies) <= 3 else (500, "oops")
    with pytest.raises(
        CheckFailed, match=r"no answer after 3 tries \(HTTP 500\); 3 answers are kept in .*: run the same command again"
    ):
        evaluation(tmp_path, settings_of(server, parallel=1))
    folder = next(tmp_path.glob("runs/*/evaluations"))
    assert not [*folder.glob("*.parquet"), *folder.glob("*.json")]
    begun = len(server.bodies)
    server.spoil = lambda body, answer: answer
    record = evaluation(tmp_path, settings_of(server))
    assert len(server.bodies) - begun == 5
    again = evaluation(tmp_path / "at once", settings_of(serve()))
    cut, whole = (pq.read_table(next(run.path.glob("evaluations/*.parquet"))).to_pydict() for run in (record, again))
    assert cut == whole
    assert len(list(folder.iterdir())) == 2


def test_answers_of_other_weights_are_never_gone_on_with(serve, base, prompts, tmp_path):
    first, other = serve(root="/some/folder"), serve(root="/some/other")
    for server in (first, other, first):
        sampled(sampler_of(server, base[1], answers=tmp_path), prompts)
    assert [len(server.bodies) for server in (first, other)] == [8, 8]


def test_passing_failures_are_tried_again(serve, base, prompts):
    server, failures = serve(), [(503, ""), (200, "<html>"), (200, '{"choices": []}'), (429, "slow down")]
    server.spoil = lambda body, answer: failures.pop() if failures else answer
    rollouts = sampled(sampler_of(server, base[1], retries=6), prompts)
    assert written(rollouts) == written(sampled(sampler_of(serve(), base[1]), prompts))
    assert len(server.bodies) == 8 + 4


def test_a_failure_does_not_wait_for_requests_under_way(serve, base, prompts):
    server, released = serve(), threading.Event()
    server.spoil = lambda body, answer: released.wait(60) and answer if body["prompt"] == prompts[0] else (400, "no")
    began = time.monotonic()
    with pytest.raises(UsageError, match="HTTP 400: no"):
        sampled(sampler_of(server, base[1]), prompts)
    assert time.monotonic() - began < 40
    released.set()


def with_choices(change):
    """Spoil an answer's list of choices."""
    return lambda body, answer: answer | {"choices": change(answer["choices"])}


def each(**values):
    return with_choices(lambda choices: [choice | values for choice in choices])


FAULTS = {
    "n ignored": (with_choices(lambda choices: choices[:1]), UsageError, r"4 choices were asked for, 1 came; set server.samples_a_request=1"),
    "text alone": (each(token_ids=None), UsageError, r"it gives no token ids; a server that honours `return_token_ids`"),
    "other prompt": (each(prompt_token_ids=[1, 1]), UsageError, r"read other tokens than it was sent"),
    "other end": (each(token_ids=[5, 6], finish_reason="stop"), UsageError, r"after token 6, the tokenizer's end is \[2\].*--generation-config vllm"),
    "end overrun": (each(token_ids=[5, 2, 6], finish_reason="stop"), UsageError, r"writes on past the end token \[2\]"),
    "capped": (each(token_ids=[5, 6], finish_reason="length"), UsageError, r"cut a completion at 2 tokens, max_tokens was 24"),
    "no tokens": (each(token_ids=[]), CheckFailed, r"a completion without tokens"),
    "aborted": (each(finish_reason="abort"), CheckFailed, r"a completion ended by 'abort'"),
    "short logprobs": (each(logprobs={"token_logprobs": [-1.0]}), CheckFailed, r"tokens came with log-probabilities"),
    "no choices": (with_choices(lambda choices: []), CheckFailed, r"an answer without choices"),
    "refused": (lambda body, answer: (400, '{"error": "too long"}'), UsageError, r"does not take a prompt of \d+ token ids: HTTP 400.*too long"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "error", "message"), FAULTS.values(), ids=FAULTS)
def test_an_answer_that_is_not_what_was_asked_for_ends_the_evaluation_with_its_reason(serve, tmp_path, spoil, error, message):
    faulty = serve(spoil=lambda body, answer: spoil(body, answer) if body["n"] == 4 else answer)
    with pytest.raises(error, match=message):
        evaluation(tmp_path, settings_of(faulty, parallel=1))
    assert not list(tmp_path.glob("runs/*/evaluations/*.parquet"))


def test_a_wrong_name_of_the_model_is_answered_with_the_right_ones(serve, tmp_path):
    server = serve()
    with pytest.raises(UsageError, match=r"server.model 'smol': http://.*/v1/models has tiny"):
        evaluation(tmp_path, settings_of(server, model="smol"))
    assert server.bodies == []


def test_several_models_need_one_to_be_named(serve, base):
    server = serve()
    cards = server.models()["data"]
    server.models = lambda: {"data": [cards[0], cards[0] | {"id": "huge"}]}
    with pytest.raises(UsageError, match=r"it has 2 models; set server.model to one of tiny, huge"):
        sampler_of(server, base[1])
    assert sampler_of(server, base[1], model="huge").served.model == "huge"


def test_another_server_than_vllm_is_called_what_it_is(serve, base):
    assert sampler_of(serve(owner="someone"), base[1]).engine == "openai server"


def test_a_server_that_is_not_there_is_named_at_once(tmp_path, monkeypatch):
    with pytest.raises(CheckFailed, match=r"http://127.0.0.1:9/v1/models: expected a list of models, came .*is the server up"):
        evaluation(tmp_path, ServedModel(url="http://127.0.0.1:9/v1"))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UsageError, match=r"server.url \(or \$OPENAI_BASE_URL\)"):
        evaluation(tmp_path)


def test_a_context_too_short_is_told_before_anything_is_sampled(serve, base, prompts, tmp_path):
    longest = max(map(len, prompts))
    server = serve(max_model_len=longest + 23)
    with pytest.raises(UsageError, match=rf"--max-model-len {longest + 24}, or set max_tokens=23"):
        evaluation(tmp_path, settings_of(server))
    assert server.bodies == []
    sampled(sampler_of(server, base[1]), prompts, max_tokens=23)


def test_a_server_with_the_weights_of_another_folder_is_refused(serve, tmp_path):
    with pytest.raises(InputError, match=r"'tiny' was loaded from .*l4-plain-s0, whose weights are not those of .*l4-behaved-s0"):
        evaluation(tmp_path, settings_of(serve(root=str(OTHER))))
    (tmp_path / "adapter").mkdir()
    with pytest.raises(InputError, match="weights are not those"):
        evaluation(tmp_path, settings_of(serve(root=str(tmp_path / "adapter"))))


@pytest.mark.parametrize("root", ["here", "a copy", "org/name", "/not/on/this/machine"])
def test_a_server_of_the_same_weights_or_of_a_place_unseen_is_taken(serve, tmp_path, root):
    if root == "a copy":
        shutil.copytree(BASE, tmp_path / "copy")
    place = {"here": str(BASE), "a copy": str(tmp_path / "copy")}.get(root, root)
    found = served.look_up(settings_of(serve(root=place)))
    assert found.root == place
    served.check_folder(found, BASE)  # raises nothing


def test_where_the_weights_are_loaded_for_a_loss_the_servers_logprobs_are_held_to_them(serve, base, prompts, tmp_path):
    same = served.check_weights(sampler_of(serve(), base[1]), base[0], prompts)
    assert same < 1e-4
    other, _ = checkpoints.load(OTHER)
    with pytest.raises(CheckFailed, match=r"'tiny' differ from the checkpoint's by \d\.\d+ nats a token"):
        served.check_weights(sampler_of(serve(other.eval()), base[1]), base[0], prompts)


def test_server_settings_without_its_sampler_are_refused():
    with pytest.raises(ValueError, match="are for sampler: server, came sampler: native"):
        EvaluateConfig(model="m", problems=PROBLEMS, server={"url": "http://x/v1"})
