"""Reward functions: a completion and the reference answer in, a float out (torch-free)."""

from curate.answers import Verdict, verify


def accuracy_reward(completion: str, *, ground_truth: str, finished: bool = True) -> float:
    """1.0 if the verifier finds the final answer correct and the completion ended by itself, else 0.0.

    Args:
        finished: False for a completion cut at the token limit, which earns nothing: its answer, if any, is not final.
    """
    return float(finished and verify(completion, ground_truth=ground_truth) is Verdict.CORRECT)
