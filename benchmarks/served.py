"""Hold a served model to the same weights sampled here: pass@1 of both, and the server's log-probabilities to a forward pass.

    python benchmarks/served.py --write FOLDER          # an embedded model with heads wide enough for vLLM on a CPU
    (serve FOLDER: docs/serving.md)
    python benchmarks/served.py --url http://127.0.0.1:8000/v1 --model FOLDER --set dev --problems 64 --num-samples 16

vLLM's attention on a CPU takes heads of 32 dimensions and more, the embedded models have 16: `--write` spreads each over twice
as many, the others zero, so that it computes the same.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch

from train import checkpoints, rendering, served
from train.configs import ProblemSet, ServedModel
from train.datasets import problem_set
from train.evaluate import counts
from train.passk import fixed_set_variance, mean_pass_at_k
from train.sampling import make_sampler


def main() -> None:
    """Write the wide model, or print the comparison as one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--base", default="l4-behaved-s0")
    parser.add_argument("--url")
    parser.add_argument("--model")
    parser.add_argument("--set", default="dev")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--num-samples", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=120)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samplers", nargs="+", default=["native", "server"])
    arguments = parser.parse_args()
    if arguments.write:
        write_wide(arguments.base, arguments.write)
    else:
        print(json.dumps(compared(arguments), indent=1))


@torch.no_grad()
def write_wide(base: str, folder: Path) -> None:
    """The same model with heads of twice the dimensions, the new ones zero."""
    model, tokenizer = checkpoints.load(checkpoints.model_folder(base))
    old, config = model.config.head_dim, type(model.config)(**{**model.config.to_dict(), "head_dim": 2 * model.config.head_dim})
    wide = type(model)(config)
    state = model.state_dict()
    for name, weight in state.items():
        if name.endswith(tuple(f"{part}_proj.weight" for part in "qkv")):
            state[name] = _spread(weight, old, scale=math.sqrt(2) if "q_proj" in name else 1.0, rotated="v_proj" not in name)
        elif name.endswith("o_proj.weight"):
            state[name] = _spread(weight.T, old, scale=1.0, rotated=False).T.contiguous()
    wide.load_state_dict(state)
    checkpoints.save(wide, tokenizer, folder)


def _spread(weight: torch.Tensor, size: int, *, scale: float, rotated: bool) -> torch.Tensor:
    """(heads x size, D) -> (heads x 2 size, D). Rotation frequency j of `size` dimensions is frequency 2j of twice as many."""
    heads = weight.view(-1, size, weight.shape[1]) * scale
    wide = torch.zeros(len(heads), 2 * size, weight.shape[1])
    wide[:, ::2] = heads if rotated else 0
    wide[:, :size] = wide[:, :size] if rotated else heads
    return wide.flatten(0, 1)


def compared(arguments: argparse.Namespace) -> dict:
    """What each sampler measured, and how far the server's log-probabilities are from a forward pass."""
    wanted = ProblemSet(set=arguments.set, problems=arguments.problems, num_samples=arguments.num_samples)
    folder, problems = checkpoints.model_folder(arguments.model), problem_set(wanted).rows
    model, tokenizer = checkpoints.load(folder)
    prompts = [rendering.prompt_ids(tokenizer, problem) for problem in problems]
    report = {}
    for name in arguments.samplers:
        sampler = _sampler(name, arguments, model.eval(), tokenizer)
        began = time.perf_counter()
        rollouts = sampler.sample(
            prompts,
            group_size=arguments.num_samples,
            max_tokens=arguments.max_tokens,
            temperature=arguments.temperature,
            seed=arguments.seed,
        )
        seconds = time.perf_counter() - began
        texts = tokenizer.batch_decode(rollouts.tokens, skip_special_tokens=True)
        rows = counts(problems, texts, rollouts.lengths, rollouts.finished, arguments.num_samples)
        report[name] = {"engine": sampler.engine, **_measured(rows, rollouts, seconds)}
        if rollouts.logprobs is not None and name == "server":
            report[name] |= _against_forward(model, prompts, rollouts, arguments.num_samples)
    return report


def _sampler(name: str, arguments: argparse.Namespace, model, tokenizer):
    if name != "server":
        return make_sampler(name, model, tokenizer)
    server = ServedModel(url=arguments.url)
    found = served.look_up(server)
    return served.ServedSampler(server, found, end=rendering.end_ids(tokenizer), pad=rendering.pad_id(tokenizer))


def _measured(rows: list[dict], rollouts, seconds: float) -> dict:
    n, c = [row["num_samples"] for row in rows], [row["num_correct"] for row in rows]
    largest = min(n) // 2
    tokens = int(rollouts.lengths.sum())
    return {
        "pass_at_1": mean_pass_at_k(n, c, 1)[0],
        "se_of_samples": math.sqrt(fixed_set_variance(n, c, 1)),
        f"pass_at_{largest}": mean_pass_at_k(n, c, largest)[0],
        f"se_of_samples_{largest}": math.sqrt(max(0.0, fixed_set_variance(n, c, largest))),
        "mean_tokens": tokens / len(rollouts.lengths),
        "truncated_share": 1 - float(rollouts.finished.float().mean()),
        "tokens_a_second": tokens / seconds,
    }


def _against_forward(model, prompts: list[list[int]], rollouts, group_size: int) -> dict:
    """Mean log-probability of the sampled tokens, by the server and by a forward pass of the checkpoint."""
    ours = [
        served.own_logprobs(model, prompts[row // group_size], rollouts.tokens[row, :length])
        for row, length in enumerate(rollouts.lengths.tolist())
    ]
    theirs = [rollouts.logprobs[row, : len(own)] for row, own in enumerate(ours)]
    gaps = (torch.cat(ours) - torch.cat(theirs)).abs()
    return {
        "logprob_server": float(torch.cat(theirs).mean()),
        "logprob_forward": float(torch.cat(ours).mean()),
        "mean_difference": float(gaps.mean()),
        "largest_difference": float(gaps.max()),
    }


if __name__ == "__main__":
    main()
