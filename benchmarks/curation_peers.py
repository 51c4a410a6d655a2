"""The curation steps done by datatrove's blocks, and by an open-r1-style script with datasketch; run by curation.py.

    PEER_PYTHON benchmarks/curation_peers.py datatrove|datasketch ROWS.jsonl DATA WORKDIR

Needs an environment with `datatrove[processing]`, spacy and datasketch. Prints one JSON object: CPU seconds of each step, peak
memory, and which ids were dropped by which step. Both keep the field's own settings where they have one: datatrove's MinHash
is 14 buckets of 8 hashes and is not verified, its n-gram block drops for any hit; the script verifies LSH candidates by exact
Jaccard, compares numbers, and drops for any shared 8-gram as open-r1 does. Shingles are of 3 words in both.

What they leave out of what `curate build` does: words are split at white space by the script, without folding LaTeX, Unicode
and spelled numbers; no 13-grams, coverage, renumbered or short benchmark questions, and no evidence of a hit; no verdict on
near questions with different answers; no ledger, hashes, manifest, Parquet or prompt-completion file: one JSONL file is
written. The script's bands miss no pair to speak of at 0.8 (1 - (1 - 0.8^4)^32 = 1 - 5e-8).
"""

import json
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

from grown_rows import benchmark_questions

NEAR, SHINGLE, NGRAM = 0.8, 3, 8


def select_and_write(rows: list[dict[str, Any]], path: Path) -> None:
    """Lengths in words, the half of the tokens in the order of a hash of the id, messages as JSONL."""
    import hashlib

    lengths = {row["id"]: len(row["completion"].split()) for row in rows}
    budget = sum(lengths.values()) / 2
    with path.open("w", encoding="utf-8") as handle:
        for row in sorted(rows, key=lambda row: hashlib.sha256(row["id"].encode()).hexdigest()):
            budget -= lengths[row["id"]]
            if budget < 0:
                break
            turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
            handle.write(json.dumps({"id": row["id"], "messages": turns}, ensure_ascii=False) + "\n")


def folded(row: dict[str, Any]) -> str:
    """Question and completion without case and spacing."""
    return " ".join(f"{row['prompt']}\n{row['completion']}".lower().split())


def datasketch_script(rows_file: Path, data: Path, work: Path) -> dict[str, Any]:
    """Plain Python with datasketch, in the manner of open-r1's scripts."""
    clock = Clock()
    rows = [json.loads(line) for line in rows_file.open(encoding="utf-8")]
    clock.lap("read")
    seen: set[str] = set()
    left = [row for row in rows if not ((key := folded(row)) in seen or seen.add(key))]
    near = _near_by_datasketch(left)
    left = [row for row in left if row["id"] not in near]
    clock.lap("dedup")
    known = {gram for text in benchmark_questions(data) for gram in _grams(text, NGRAM)}
    hit = {row["id"] for row in left if not known.isdisjoint(_grams(row["prompt"], NGRAM))}
    clock.lap("decontaminate")
    kept = [row for row in left if row["id"] not in hit]
    select_and_write(kept, work / "datasketch.jsonl")
    clock.lap("select and write")
    exact = {row["id"] for row in rows} - {row["id"] for row in left} - near
    return clock.report({"exact": exact, "near": near, "contaminated": hit})


def _near_by_datasketch(rows: list[dict[str, Any]]) -> set[str]:
    from datasketch import MinHash, MinHashLSH

    index, first, near = MinHashLSH(threshold=NEAR, num_perm=128, params=(32, 4)), {}, set()
    sets: dict[str, tuple[set[str], list[str]]] = {}
    for row in sorted(rows, key=lambda row: row["id"]):
        question = " ".join(row["prompt"].lower().split())
        if first.setdefault(question, row["id"]) != row["id"]:
            if first[question] in near:
                near.add(row["id"])
            continue
        own, numbers = _grams(question, SHINGLE), re.findall(r"\d+(?:\.\d+)?", question)
        sketch = MinHash(num_perm=128)
        sketch.update_batch([gram.encode() for gram in own])
        found = [sets[name] for name in index.query(sketch)]
        if any(numbers == other[1] and len(own & other[0]) >= NEAR * len(own | other[0]) for other in found):
            near.add(row["id"])
        else:
            index.insert(row["id"], sketch)
            sets[row["id"]] = own, numbers
    return near


def _grams(text: str, n: int) -> set[str]:
    words = text.lower().split()
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


def datatrove_pipeline(rows_file: Path, data: Path, work: Path) -> dict[str, Any]:
    """Datatrove's own blocks, one task each."""
    import numpy as np
    from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
    from datatrove.pipeline.dedup import exact_dedup as exact
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.text import TextNormConfig, ngrams, simplify_text

    def whole(document: Any) -> str:
        return folded({"prompt": document.text, "completion": document.metadata["completion"]})

    def reader(folder: Path) -> JsonlReader:
        return JsonlReader(str(folder), glob_pattern="*.jsonl", text_key="text" if folder != work / "in" else "prompt")

    def writer(name: str) -> JsonlWriter:
        return JsonlWriter(str(work / name), output_filename="${rank}.jsonl", compression=None)

    clock = Clock()
    (work / "in").mkdir()
    (work / "in/rows.jsonl").symlink_to(rows_file.resolve())
    same = exact.ExactDedupConfig(content_getter=whole)
    signatures, found = str(work / "exact"), str(work / "found")
    _run([reader(work / "in"), exact.ExactDedupSignature(signatures, same)])
    _run([exact.ExactFindDedups(signatures, found, same)])
    _run([reader(work / "in"), exact.ExactDedupFilter(found, same, writer("out_exact")), writer("unique")])
    plain = TextNormConfig(norm_numbers=False)
    near = minhash.MinhashConfig(n_grams=SHINGLE, norm_config=plain)
    parts = [str(work / name) for name in ("signatures", "buckets", "remove")]
    _run([reader(work / "unique"), minhash.MinhashDedupSignature(parts[0], near)])
    for bucket in range(near.num_buckets):
        minhash.MinhashDedupBuckets(parts[0], parts[1], config=near).run(rank=bucket, world_size=near.num_buckets)
    _run([minhash.MinhashDedupCluster(parts[1], parts[2], near)])
    _run([reader(work / "unique"), minhash.MinhashDedupFilter(parts[2], writer("out_near")), writer("apart")])
    clock.lap("read and dedup")
    config = NGramsDecontConfig(n_grams=NGRAM, norm_config=plain)
    block = NGramsDecontFilter(str(work / "index"), config, writer("out_contaminated"))
    words = [block.tokenizer.word_tokenize(simplify_text(text, plain)) for text in benchmark_questions(data)]
    hashes = {block.hash_func(" ".join(gram)) for text in words for gram in ngrams(text, NGRAM)}
    (work / "index").mkdir()  # its own indexer reads tasks through lighteval
    np.array(list(hashes), config.hash_config.np_descr).tofile(work / "index/benchmarks.index.hashes")
    _run([reader(work / "apart"), block, writer("clean")])
    clock.lap("decontaminate")
    kept = [json.loads(line) for line in (work / "clean/00000.jsonl").open(encoding="utf-8")]
    rows = [{"id": row["id"], "prompt": row["text"], "completion": row["metadata"]["completion"]} for row in kept]
    select_and_write(rows, work / "datatrove.jsonl")
    clock.lap("select and write")
    return clock.report({name: _ids(work / f"out_{name}") for name in ("exact", "near", "contaminated")})


def _run(steps: list[Any]) -> None:
    """One task in this process, as datatrove's executors run it: each step reads what the one before yields."""
    from collections import deque

    stream = None
    for step in steps:
        stream = step(stream, 0, 1)
    if stream is not None:
        deque(stream, maxlen=0)


def _ids(folder: Path) -> set[str]:
    return {json.loads(line)["id"] for path in folder.glob("*.jsonl") for line in path.open(encoding="utf-8")}


class Clock:
    """CPU seconds of all threads by step: the machine may be busy with other things."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.process_time()

    def lap(self, name: str) -> None:
        """End a step."""
        now = time.process_time()
        self.seconds[name], self.last = now - self.last, now

    def report(self, dropped: dict[str, set[str]]) -> dict[str, Any]:
        """What curation.py reads."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        return {"seconds": self.seconds, "peak_gb": peak, "dropped": {name: sorted(ids) for name, ids in dropped.items()}}


if __name__ == "__main__":
    run = {"datatrove": datatrove_pipeline, "datasketch": datasketch_script}[sys.argv[1]]
    print(json.dumps(run(*map(Path, sys.argv[2:5]))))
