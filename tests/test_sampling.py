"""The samplers held to transformers: same logits, same greedy text, right log-probabilities, right frequencies."""

import collections
import dataclasses
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from curate import arithmetic
from curate.errors import UsageError
from train import attention, checkpoints, rendering, sampling
from train.llama import LlamaDecoder
from train.sampling import NativeSampler, Rollouts, TransformersSampler, make_sampler

BASE = Path(__file__).parent.parent / "studies/lab/bases/l4-behaved-s0"
VOCABULARY, PAD, END = 40, 0, 2
SHAPES = {
    "grouped queries, own head": {"num_attention_heads": 8, "num_key_value_heads": 2},
    "grouped queries, tied head": {"num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "one key head": {"num_attention_heads": 4, "num_key_value_heads": 1},
    "a key head each": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "wide heads": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24},
    "two vectors a head": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32},
    "Llama 3 rotation": {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "biases": {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    "another activation": {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "gelu"},
}


def random_llama(**shape) -> LlamaForCausalLM:
    """A Llama of random weights, spread wide enough that its next-token distributions are far from uniform."""
    settings = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    config = LlamaConfig(**settings, max_position_embeddings=256, pad_token_id=PAD, bos_token_id=1, eos_token_id=END, **shape)
    torch.manual_seed(5)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(1.0 if weight.ndim == 1 else 0.0, 0.1)
    return model


def random_prompts(count: int, longest: int = 20) -> list[list[int]]:
    generator = torch.Generator().manual_seed(9)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def engine(request, monkeypatch) -> str:
    """Every test runs on both engines of a decode step's attention."""
    if request.param == "torch":
        monkeypatch.setattr(attention, "compiled_library", lambda: None)
    elif attention.compiled_library() is None:
        pytest.skip("no C compiler here: install one (cc), or set CC")
    return request.param


@pytest.fixture(scope="module")
def base() -> tuple[PreTrainedModel, object]:
    model, tokenizer = checkpoints.load(BASE)
    return model.eval(), tokenizer


def base_prompts(tokenizer, count: int, operations: tuple[int, int] = (1, 7)) -> list[list[int]]:
    problems = arithmetic.problems(size=count, operations=operations, split="dev")
    return [rendering.prompt_ids(tokenizer, problem) for problem in problems]


@torch.no_grad()
def teacher_forced(model, prompt: list[int], completion: list[int], temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each completion token and entropy before it, by one transformers pass over this row alone."""
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / temperature
    distribution = torch.distributions.Categorical(logits=logits)
    return distribution.log_prob(torch.tensor(completion)), distribution.entropy()


def check_records(model, prompts: list[list[int]], group_size: int, rollouts: Rollouts, temperature: float = 1.0) -> None:
    """Every log-probability and every entropy is the one that transformers gives."""
    for row, length in enumerate(rollouts.lengths.tolist()):
        completion = rollouts.tokens[row, :length].tolist()
        logprobs, entropies = teacher_forced(model, prompts[row // group_size], completion, temperature)
        assert torch.allclose(rollouts.logprobs[row, :length], logprobs, atol=1e-4)
        assert float(rollouts.entropies[row]) == pytest.approx(float(entropies.mean()), abs=1e-4)
        assert not rollouts.logprobs[row, length:].any()


def greedy_by_transformers(model, prompts: list[list[int]], max_tokens: int, end: int) -> list[list[int]]:
    """Completions by `model.generate` on left-padded prompts, cut after the end token."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    attended = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    rows = model.generate(ids, attention_mask=attended, do_sample=False, max_new_tokens=max_tokens)[:, width:].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def written(rollouts: Rollouts) -> list[list[int]]:
    return [row[:length].tolist() for row, length in zip(rollouts.tokens, rollouts.lengths, strict=True)]


def check_frequencies(seen: collections.Counter, expected: torch.Tensor) -> None:
    """Chi-square of how often each token came against how often it should have; the rarest share one bin."""
    order = expected.argsort(descending=True).tolist()
    common = [token for token in order if expected[token] >= 10]
    rare = order[len(common) - 1 :]
    observed = [*(seen[token] for token in common[:-1]), sum(seen[token] for token in rare)]
    theory = [*expected[common[:-1]].tolist(), float(expected[rare].sum())]
    assert len(theory) > 5
    assert chisquare(observed, theory).pvalue > 0.001


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_next_token_logits_are_those_of_transformers(shape):
    model, prompts = random_llama(**shape), random_prompts(12)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    padded = torch.tensor([prompt + [PAD] * (20 - len(prompt)) for prompt in prompts])
    with torch.no_grad():
        logits, _ = LlamaDecoder(model, 20).prefill(padded, lengths)
        for prompt, ours in zip(prompts, logits, strict=True):
            theirs = model(torch.tensor([prompt])).logits[0, -1]
            assert theirs.std() > 0.3
            assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_sampled_logprobs_and_entropies_are_those_of_a_teacher_forced_pass(shape):
    model, prompts = random_llama(**shape), random_prompts(7)
    sampler = NativeSampler(model, end=[END], pad=PAD)
    rollouts = sampler.sample(prompts, group_size=3, max_tokens=40, temperature=1.0, seed=1)
    assert rollouts.tokens.shape[0] == 21
    assert rollouts.lengths.max() > 20
    check_records(model, prompts, 3, rollouts)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_records_hold_at_every_temperature(base, temperature):
    model, tokenizer = base
    prompts = base_prompts(tokenizer, 10)
    rollouts = make_sampler("native", model, tokenizer).sample(
        prompts, group_size=4, max_tokens=90, temperature=temperature, seed=3
    )
    check_records(model, prompts, 4, rollouts, temperature)


def test_greedy_completions_are_those_of_generate(base):
    model, tokenizer = base
    prompts = base_prompts(tokenizer, 60)
    assert len({len(prompt) for prompt in prompts}) > 10
    rollouts = make_sampler("native", model, tokenizer).sample(prompts, group_size=1, max_tokens=50, temperature=0, seed=0)
    assert written(rollouts) == greedy_by_transformers(model, prompts, 50, tokenizer.eos_token_id)


def test_greedy_members_of_a_group_are_equal_and_seeds_do_not_matter(base):
    model, tokenizer = base
    sampler, prompts = make_sampler("native", model, tokenizer), base_prompts(tokenizer, 4)
    first, second = (
        sampler.sample(prompts, group_size=3, max_tokens=60, temperature=0, seed=seed).tokens.view(4, 3, -1) for seed in (0, 1)
    )
    assert torch.equal(first, second)
    assert torch.equal(first, first[:, :1].expand_as(first))


def test_dropping_finished_rows_changes_nothing(base, monkeypatch):
    model, tokenizer = base
    sampler, prompts = make_sampler("native", model, tokenizer), base_prompts(tokenizer, 24)
    results = []
    for threshold in (0.0, 1.0):  # never drop; drop at every step where a row has finished
        monkeypatch.setattr(sampling, "COMPACT_BELOW", dict.fromkeys(sampling.COMPACT_BELOW, threshold))
        results.append(sampler.sample(prompts, group_size=2, max_tokens=70, temperature=0, seed=0))
    never, always = results
    assert never.lengths.min() * 3 < never.lengths.max()
    assert torch.equal(never.tokens, always.tokens)
    assert torch.equal(never.lengths, always.lengths)
    assert torch.equal(never.finished, always.finished)
    assert torch.allclose(never.logprobs, always.logprobs, atol=1e-5)
    assert torch.allclose(never.entropies, always.entropies, atol=1e-5)


def test_records_of_sampled_rows_stay_right_while_others_are_dropped(base, monkeypatch):
    model, tokenizer = base
    monkeypatch.setattr(sampling, "COMPACT_BELOW", dict.fromkeys(sampling.COMPACT_BELOW, 1.0))
    prompts = base_prompts(tokenizer, 8)
    rollouts = make_sampler("native", model, tokenizer).sample(prompts, group_size=5, max_tokens=90, temperature=1.0, seed=2)
    assert len(rollouts.lengths.unique()) > 10
    check_records(model, prompts, 5, rollouts)


def test_rollouts_come_back_in_prompt_order_across_chunks(base, monkeypatch):
    model, tokenizer = base
    monkeypatch.setattr(sampling, "ROWS_AT_ONCE", 12)  # six prompts of two rows a chunk, sorted by length
    sampler, prompts = make_sampler("native", model, tokenizer), base_prompts(tokenizer, 10)
    assert [len(prompt) for prompt in prompts] != sorted(len(prompt) for prompt in prompts)
    together = sampler.sample(prompts, group_size=2, max_tokens=40, temperature=0, seed=0)
    alone = [sampler.sample([prompt], group_size=2, max_tokens=40, temperature=0, seed=0) for prompt in prompts]
    assert written(together) == [row for rollouts in alone for row in written(rollouts)]
    padding = ~together.mask.bool()
    assert (together.tokens[padding] == tokenizer.pad_token_id).all()


def test_more_rows_than_fit_at_once_are_sampled_right(base):
    model, tokenizer = base
    group = sampling.ROWS_AT_ONCE // 2
    prompts = base_prompts(tokenizer, 3, operations=(1, 2))
    rollouts = make_sampler("native", model, tokenizer).sample(prompts, group_size=group, max_tokens=6, temperature=1.0, seed=4)
    assert len(rollouts.tokens) == 3 * group > sampling.ROWS_AT_ONCE
    every = range(0, 3 * group, 50)
    part = Rollouts(*(getattr(rollouts, field.name)[every] for field in dataclasses.fields(Rollouts)))
    check_records(model, [prompts[row // group] for row in every], 1, part)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_first_tokens_come_as_often_as_the_softmax_says(temperature):
    model, prompt, draws = random_llama(num_attention_heads=4, num_key_value_heads=2), [7, 21, 4], 6000
    rollouts = NativeSampler(model, end=[END], pad=PAD).sample(
        [prompt], group_size=draws, max_tokens=1, temperature=temperature, seed=11
    )
    with torch.no_grad():
        expected = (model(torch.tensor([prompt])).logits[0, -1] / temperature).double().softmax(-1) * draws
    check_frequencies(collections.Counter(rollouts.tokens[:, 0].tolist()), expected)


def test_second_tokens_come_as_often_as_the_softmax_says():
    """The second token is drawn by the cached step, after whatever first token its row drew."""
    model, prompt, draws = random_llama(num_attention_heads=4, num_key_value_heads=2), [7, 21, 4], 6000
    rollouts = NativeSampler(model, end=[END], pad=PAD).sample([prompt], group_size=draws, max_tokens=2, temperature=1.0, seed=12)
    pairs = rollouts.tokens[rollouts.lengths == 2].tolist()
    first, count = collections.Counter(first for first, _ in pairs).most_common(1)[0]
    with torch.no_grad():
        expected = model(torch.tensor([[*prompt, first]])).logits[0, -1].double().softmax(-1) * count
    check_frequencies(collections.Counter(second for start, second in pairs if start == first), expected)


@pytest.mark.parametrize("kind", ["native", "transformers"])
def test_the_same_seed_gives_the_same_rollouts_and_another_seed_others(base, kind):
    model, tokenizer = base
    sampler, prompts = make_sampler(kind, model, tokenizer), base_prompts(tokenizer, 5)
    state = torch.get_rng_state()
    first, again, other = (sampler.sample(prompts, group_size=4, max_tokens=30, temperature=1.0, seed=seed) for seed in (6, 6, 7))
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.logprobs, again.logprobs)
    assert written(first) != written(other)
    assert torch.equal(state, torch.get_rng_state())  # a caller's own random numbers are left alone


@pytest.mark.parametrize("kind", ["native", "transformers"])
def test_a_row_is_finished_exactly_if_it_wrote_the_end_token(base, kind):
    model, tokenizer = base
    sampler, prompts = make_sampler(kind, model, tokenizer), base_prompts(tokenizer, 12)
    rollouts = sampler.sample(prompts, group_size=4, max_tokens=25, temperature=1.0, seed=8)
    assert 0 < rollouts.finished.sum() < len(rollouts.finished)
    for completion, finished in zip(written(rollouts), rollouts.finished.tolist(), strict=True):
        assert finished == (completion[-1] == tokenizer.eos_token_id)
        assert tokenizer.eos_token_id not in completion[:-1]
        assert finished or len(completion) == 25


def test_mask_is_one_at_written_tokens():
    lengths = torch.tensor([3, 1])
    rollouts = Rollouts(torch.zeros(2, 4), lengths, lengths > 2, torch.zeros(2, 4), torch.zeros(2))
    assert rollouts.mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def test_both_samplers_write_and_record_the_same_greedy_rollouts(base):
    model, tokenizer = base
    prompts = base_prompts(tokenizer, 12)
    ours, theirs = (
        make_sampler(kind, model, tokenizer).sample(prompts, group_size=2, max_tokens=40, temperature=0, seed=0)
        for kind in ("native", "transformers")
    )
    assert written(ours) == written(theirs)
    assert torch.equal(ours.finished, theirs.finished)
    assert torch.allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
    assert torch.allclose(ours.entropies, theirs.entropies, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_records_of_the_transformers_sampler_are_those_of_a_teacher_forced_pass(base, temperature):
    model, tokenizer = base
    prompts = base_prompts(tokenizer, 6)
    rollouts = make_sampler("transformers", model, tokenizer).sample(
        prompts, group_size=3, max_tokens=60, temperature=temperature, seed=5
    )
    check_records(model, prompts, 3, rollouts, temperature)


def test_generation_settings_shipped_with_a_model_do_not_bend_the_distribution():
    """Model folders come with a repetition penalty, top-k and so on; rollouts are drawn from the model itself."""
    model, prompts = random_llama(num_attention_heads=4, num_key_value_heads=2), random_prompts(6)
    sampler = TransformersSampler(model, end=[END], pad=PAD)
    plain = sampler.sample(prompts, group_size=2, max_tokens=12, temperature=1.0, seed=5)
    for name, value in {"repetition_penalty": 3.0, "min_p": 0.3, "top_k": 2, "top_p": 0.2, "no_repeat_ngram_size": 1}.items():
        setattr(model.generation_config, name, value)
    shipped = sampler.sample(prompts, group_size=2, max_tokens=12, temperature=1.0, seed=5)
    assert written(shipped) == written(plain)


def test_a_model_that_is_no_llama_is_refused_with_the_way_out():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=VOCABULARY))
    with pytest.raises(UsageError, match=r"Llama models, came GPT2LMHeadModel; set sampler: transformers"):
        NativeSampler(model, end=[END], pad=PAD)


def test_the_transformers_sampler_takes_a_model_that_is_no_llama():
    torch.manual_seed(2)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=VOCABULARY, eos_token_id=END)).eval()
    prompts = random_prompts(3)
    rollouts = TransformersSampler(model, end=[END], pad=PAD).sample(prompts, group_size=2, max_tokens=9, temperature=1.0, seed=0)
    check_records(model, prompts, 2, rollouts)


def test_sampling_follows_weights_that_go_on_training(base):
    """A sampler made before an update samples the weights as they are after it."""
    model, tokenizer = checkpoints.load(BASE)
    sampler, prompts = make_sampler("native", model.eval(), tokenizer), base_prompts(tokenizer, 3)
    sampler.sample(prompts, group_size=2, max_tokens=5, temperature=1.0, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.9)
    rollouts = sampler.sample(prompts, group_size=2, max_tokens=20, temperature=1.0, seed=0)
    check_records(model, prompts, 2, rollouts)


def test_caches_too_large_for_memory_make_smaller_batches_and_the_same_text(base, monkeypatch):
    model, tokenizer = base
    sampler, prompts = make_sampler("native", model, tokenizer), base_prompts(tokenizer, 9)
    together = sampler.sample(prompts, group_size=2, max_tokens=40, temperature=0, seed=0)
    row_bytes = 2 * 4 * (2 * 16) * 40 * 4  # keys and values, layers, key heads x dimensions, positions, bytes
    monkeypatch.setattr(sampling, "CACHE_BYTES", 4 * row_bytes)
    sizes, decode = [], NativeSampler._decode
    monkeypatch.setattr(
        NativeSampler,
        "_decode",
        lambda self, decoder, chunk, *rest: sizes.append(len(chunk)) or decode(self, decoder, chunk, *rest),
    )
    apart = sampler.sample(prompts, group_size=2, max_tokens=40, temperature=0, seed=0)
    assert sizes == [2, 2, 2, 2, 1]
    assert torch.equal(together.tokens, apart.tokens)


def test_both_engines_write_the_same_greedy_text(base, engine, monkeypatch):
    model, tokenizer = base
    sampler, prompts = make_sampler("native", model, tokenizer), base_prompts(tokenizer, 16)
    here = sampler.sample(prompts, group_size=3, max_tokens=90, temperature=0, seed=0)
    monkeypatch.setattr(attention, "compiled_library", lambda: None)
    in_torch = sampler.sample(prompts, group_size=3, max_tokens=90, temperature=0, seed=0)
    assert torch.equal(here.tokens, in_torch.tokens)
    assert torch.allclose(here.logprobs, in_torch.logprobs, atol=1e-4)
    assert torch.equal(here.logprobs, in_torch.logprobs) == (engine == "torch")


def test_extreme_attention_scores_do_not_overflow(engine):
    """Attention scores in the tens of thousands, beside softmax in double precision."""
    generator = torch.Generator().manual_seed(3)
    keys, values = (torch.randn(2, 1, 21, 16, generator=generator) for _ in range(2))
    prompts = attention.PromptCache([keys * 100], [values], torch.tensor([21, 17]))
    rotation = attention.Rotation(torch.ones(64, 16), torch.zeros(64, 16))
    rows = attention.row_attention(prompts, torch.tensor([0, 0, 1]), 8, 2, rotation)
    assert rows.engine == engine
    projected = torch.randn(3, 64, generator=generator)
    projected[:, :32] *= 50
    mixed = rows.step(0, projected, 0)
    for row, (prompt, length) in enumerate([(0, 21), (0, 21), (1, 17)]):
        own_key, own_value = projected[row, 32:48], projected[row, 48:]
        all_keys = torch.cat((keys[prompt, 0, :length] * 100, own_key[None])).double()
        all_values = torch.cat((values[prompt, 0, :length], own_value[None])).double()
        for head in range(2):
            query = projected[row, 16 * head : 16 * (head + 1)].double()
            expected = (all_keys @ query / 4).softmax(0) @ all_values
            ours = mixed[row, 16 * head : 16 * (head + 1)].double()
            assert torch.allclose(ours, expected, atol=5e-3)  # scores of 10^4 are rounded to 10^-3


def test_without_a_compiler_torch_takes_over(monkeypatch, tmp_path):
    build = attention.build_library
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for setting, value in (("CC", "no-such-compiler"), ("CC", "false"), ("FORERUN_COMPILED", "0")):
        monkeypatch.setenv(setting, value)
        assert build() is None
        monkeypatch.delenv(setting)
    assert not list(tmp_path.rglob("*.so"))


def test_heads_that_fill_no_vectors_are_left_to_torch():
    """`attention.c` takes whole vectors of positions and dimensions: 6 dimensions fill none, on any processor."""
    weight = torch.zeros(1)
    assert attention.library_for(weight, 6) is None
    assert attention.library_for(weight, 16) is attention.compiled_library()
    assert attention.library_for(weight.double(), 16) is None
