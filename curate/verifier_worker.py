"""The verifier's worker: `python -m curate.verifier_worker` reads [answer, ground truth] lines and writes a verdict each.

A hostile expression must cost about a second and nothing else. So the lines are judged in a forked child that limits its
own memory and its processor time for a line; when it dies, this process says `timeout` and forks the next one, without
loading sympy again. Processor time, not wall time: a busy machine changes no verdict.
"""

import json
import logging
import os
import resource
import signal
import sys
from typing import TextIO

from curate import algebra
from curate.exact import Verdict

CPU_SECONDS = 1.0
MEMORY_BYTES = 1 << 30


def main() -> None:
    """Load, say `ready`, then judge lines until the input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no reply
    logging.disable(logging.CRITICAL)  # math-verify warns that its own time limit is off
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    algebra.judge("x^2+\\sqrt{2}", "\\sqrt{2}+xx")  # imports and first use take about a second: no answer pays for it
    print("ready", file=replies, flush=True)
    while child := os.fork():
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        print(Verdict.TIMEOUT, file=replies, flush=True)
    _judge_lines(replies)
    os._exit(0)


def _judge_lines(replies: TextIO) -> None:
    """Until the input ends, or SIGPROF ends the process because a line has used its time."""
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        verdict = _judge(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(verdict, file=replies, flush=True)


def _judge(answer: str, ground_truth: str) -> Verdict:
    """What sympy fails on cannot be decided; what exhausts the memory has used up its share."""
    try:
        return algebra.judge(answer, ground_truth)
    except MemoryError:
        return Verdict.TIMEOUT
    except Exception:  # sympy raises whatever it likes
        return Verdict.UNPARSABLE


if __name__ == "__main__":
    main()
