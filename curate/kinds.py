"""The kinds of sources a recipe may name, for people: `curate sources` lists them."""

KINDS: dict[str, dict[str, str]] = {
    "gsm8k": {
        "fields": "question; answer: worked, the reference after ####",
        "example": "{path: train.jsonl, format: gsm8k}",
    },
    "math": {
        "fields": "problem; solution with \\boxed{} (not for RL problems); answer, level, subject or type where known",
        "example": "{path: math.parquet, format: math, name: lighteval/MATH}",
    },
    "messages": {
        "fields": "messages: a user turn, then an assistant turn; ground_truth or answer, else it is read off the turn",
        "example": "{path: rows.jsonl.gz, format: messages, system: drop}",
    },
    "sharegpt": {
        "fields": "conversations: from human, then gpt, each with value; ground_truth or answer as above",
        "example": "{path: rows.json, format: sharegpt}",
    },
    "prompt_completion": {
        "fields": "prompt; completion (not for RL problems): texts or messages, as TRL has them; ground_truth or answer as above",
        "example": "{path: rows.csv, format: prompt_completion, columns: {prompt: instruction, completion: response}}",
    },
    "verl": {
        "fields": "prompt: messages; reward_model.ground_truth; data_source. Problems only: for rl_prompts",
        "example": "{path: rl.parquet, format: verl}",
    },
    "hf": {
        "fields": "any format above, of a data set of the Hugging Face Hub or of a local folder (needs datasets)",
        "example": "{hf: openai/gsm8k, config: main, split: train}",
    },
    "arithmetic": {
        "fields": "the embedded task: generated problems with exact traces in the styles short, long, full",
        "example": "{task: arithmetic, size: 5k, operations: [2, 6], traces: 2}",
    },
    "word_graph": {
        "fields": "English word problems on a dependency graph, after iGSM, with exact traces; split: ood has more operations",
        "example": "{task: word_graph, size: 5k, operations: [4, 8], options: {redundant: [0, 3]}}",
    },
    "reasoning-gym": {
        "fields": "any of its tasks by name: generated problems; the completion is the boxed answer (needs reasoning-gym)",
        "example": "{task: chain_sum, size: 5000, options: {max_terms: 4}}",
    },
}
"""For each kind: the fields its rows need, or what it draws, and an example."""
