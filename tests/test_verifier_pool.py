"""The verifier's processes: hard limits, order, threads, forks, and nothing left behind."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from pathlib import Path

import pytest

from curate import answers
from curate.answers import Verdict, verify, verify_all
from curate.verifier_pool import POOL, Worker

ROOT = Path(__file__).parent.parent
PAIRS = [(f"\\boxed{{\\sqrt{{{4 * n}}}}}", f"2\\sqrt{{{n}}}") for n in range(10, 40)]
"""Equal, and only algebra can say so."""
BOMBS = [
    "9^{9^{9^9}}",
    "\\frac{9^{9^{9^{9}}}}{7}",
    "(10^{10})!",
    "10^{10^{10}}",
    "(" * 300 + "x" + ")" * 300,
    "\\sqrt{" * 200 + "2" + "}" * 200,
]


def fresh(pairs):
    """Verdicts with nothing remembered."""
    answers._decide.cache_clear()
    return list(verify_all(pairs))


@pytest.mark.parametrize("bomb", [*BOMBS[:2], *(pytest.param(bomb, marks=pytest.mark.slow) for bomb in BOMBS[2:])])
def test_a_hostile_expression_costs_about_a_second_and_the_next_answer_is_decided(bomb):
    verify("\\boxed{x+y}", ground_truth="y+xx")
    before, began = os.times(), time.monotonic()
    verdict = verify(f"\\boxed{{{bomb}}}", ground_truth="\\frac{\\sqrt{2}}{7}+x")
    assert verdict in (Verdict.TIMEOUT, Verdict.UNPARSABLE)
    assert time.monotonic() - began < 30  # the limit is a second of processor time, and machines that run tests are busy
    assert os.times().user - before.user < 0.5
    assert verify("\\boxed{\\sqrt{8}}", ground_truth="2\\sqrt{2}") is Verdict.CORRECT


def test_a_worker_that_sleeps_is_stopped_by_the_wall_clock(monkeypatch):
    monkeypatch.setattr("curate.verifier_pool.WALL_SECONDS", 0.5)
    worker = Worker()
    os.killpg(worker.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    assert worker.ask("x", "y") is None
    assert time.monotonic() - began < 5
    assert worker.process.returncode is not None


def test_a_worker_may_not_use_more_than_a_gigabyte():
    worker = Worker()
    limits = Path(f"/proc/{worker.process.pid}/limits").read_text().splitlines()
    assert next(line for line in limits if line.startswith("Max address space")).split()[3] == str(1 << 30)
    worker.stop()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("whom", ["child", pytest.param("both", marks=pytest.mark.slow)])
def test_a_worker_killed_while_idle_changes_no_verdict(whom):
    worker = Worker()
    assert worker.ask("\\sqrt{8}", "2\\sqrt{2}") is Verdict.CORRECT
    (child,) = children(worker.process.pid)
    os.kill(child, signal.SIGKILL)
    if whom == "both":
        worker.process.kill()
    deadline = time.monotonic() + 20
    while (children(worker.process.pid) == [child]) and time.monotonic() < deadline:
        time.sleep(0.05)
    POOL.close()
    POOL._idle.append(worker)
    time.sleep(0.2)
    assert POOL.decide("\\sqrt{8}", "2\\sqrt{2}") is Verdict.CORRECT
    assert POOL.decide("\\sqrt{8}", "2\\sqrt{3}") is Verdict.INCORRECT


def test_verdicts_come_in_order_whatever_takes_long():
    pairs = [
        PAIRS[0],
        ("\\boxed{9^{9^{9^9}}}", "\\sqrt2+x"),
        *PAIRS[1:],
        ("#### 4", "5"),
        ("", "5"),
        ("\\boxed{\\sqrt{12}}", "3\\sqrt3"),
    ]
    expected = ["correct", "timeout", *["correct"] * (len(PAIRS) - 1), "incorrect", "no_answer", "incorrect"]
    assert fresh(pairs) == expected
    assert list(verify_all(pairs, workers=1)) == expected
    assert [verify(completion, ground_truth=reference) for completion, reference in pairs] == expected


def test_an_endless_stream_is_read_only_as_far_as_needed():
    read = itertools.count()
    endless = ((f"\\boxed{{{next(read)}}}", "7") for _ in itertools.repeat(None))
    assert [verdict == "correct" for verdict in itertools.islice(verify_all(endless), 9)] == [False] * 7 + [True, False]
    assert next(read) == 9


def test_a_stream_behind_a_slow_answer_is_read_no_further_than_the_look_ahead():
    answers._decide.cache_clear()
    read = itertools.count()
    slow = [("\\boxed{9^{9^{9^9}}}", "\\sqrt5+x")]
    stream = itertools.chain(slow, ((f"\\boxed{{{next(read)}}}", "7") for _ in itertools.repeat(None)))
    verdicts = verify_all(stream)
    assert next(verdicts) == "timeout"
    assert next(read) <= answers.LOOKAHEAD + 1
    verdicts.close()


def test_a_stream_left_early_cancels_what_it_asked():
    answers._decide.cache_clear()
    hostile = ((f"\\boxed{{9^{{9^{{9^{n}}}}}}}", "\\sqrt2+x") for n in range(9, 60))
    verdicts = verify_all(itertools.chain([("#### 1", "1")], hostile), workers=2)
    assert next(verdicts) == "correct"
    began = time.monotonic()
    verdicts.close()
    assert time.monotonic() - began < 20


def test_an_error_in_the_stream_reaches_the_caller():
    def broken():
        yield PAIRS[0]
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        list(verify_all(broken()))


@pytest.mark.parametrize("text", ["\ud800", "a\x00b", '"', "\\", "\u2028", "\x1b[0m", "}{", "x" * 1500])
def test_odd_characters_reach_the_worker_and_do_no_harm(text):
    assert POOL.decide(text, "\\sqrt{2}") in (Verdict.INCORRECT, Verdict.UNPARSABLE, Verdict.TIMEOUT)
    assert POOL.decide("\\sqrt{8}", "2\\sqrt{2}") is Verdict.CORRECT


def test_many_threads_may_ask_at_once():
    answers._decide.cache_clear()
    found: dict[int, list[Verdict]] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: [verify(a, ground_truth=b) for a, b in PAIRS[n * 5 : n * 5 + 5]]}))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: ["correct"] * 5 for n in range(4)}


def ask_from_another_process(pair):
    answers._decide.cache_clear()
    return str(verify(pair[0], ground_truth=pair[1]))


@pytest.mark.parametrize("method", ["fork", *(pytest.param(name, marks=pytest.mark.slow) for name in ("forkserver", "spawn"))])
def test_processes_of_a_pool_have_workers_of_their_own(method):
    assert fresh(PAIRS[:2]) == ["correct"] * 2
    ours = [worker.process.pid for worker in POOL._idle]
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map(ask_from_another_process, PAIRS[:6]) == ["correct"] * 6
        pool.close()
        pool.join()
    assert [worker.process.pid for worker in POOL._idle] == ours
    assert fresh(PAIRS[:2]) == ["correct"] * 2


def marked(mark: str) -> list[int]:
    """Processes that were started with this mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


SCRIPTS = {
    "ends": "",
    "forks": """
        import multiprocessing
        children = [multiprocessing.get_context("fork").Process(target=run) for _ in range(2)]
        [child.start() for child in children], [child.join() for child in children]
    """,
    "is killed while a worker is busy": """
        import threading, signal, os, time
        threading.Thread(target=lambda: verify("\\\\boxed{9^{9^{9^9}}}", ground_truth="\\\\sqrt{2}+x"), daemon=True).start()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    """,
}


@pytest.mark.slow
@pytest.mark.parametrize("way", SCRIPTS)
def test_no_process_outlives_its_user(way):
    script = textwrap.dedent("""
        import os
        from curate.answers import verify
        def run():
            assert verify("\\\\boxed{\\\\sqrt{8}}", ground_truth="2\\\\sqrt{2}") == "correct"
            assert verify("\\\\boxed{9^{9^{9^7}}}", ground_truth="\\\\sqrt{2}+x") == "timeout"
        run()
    """)
    mark = f"FORERUN_MARK={uuid.uuid4()}"
    name, value = mark.split("=")
    environment = {**os.environ, name: value, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", script + textwrap.dedent(SCRIPTS[way])], env=environment, timeout=120)
    assert result.returncode == (-signal.SIGKILL if "killed" in way else 0)
    deadline = time.monotonic() + 20
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert marked(mark) == []


def test_no_zombie_is_left_here():
    POOL.close()
    states = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] for child in children(os.getpid())]
    assert "Z" not in states
