"""The verifier's worker processes: started when first needed, killed and replaced when an answer takes too long.

A worker limits itself to about a second of processor time and a gigabyte of memory an answer (curate/verifier_worker.py); the
limit here is of wall time and holds whatever the worker does. Any thread of any process may ask: each takes an idle
worker or starts one, and a forked child starts its own.
"""

import contextlib
import json
import multiprocessing.util
import os
import select
import signal
import subprocess
import sys
import threading
import time

from curate.errors import ForerunError
from curate.exact import Verdict

WALL_SECONDS = 5.0
START_SECONDS = 60.0


class Worker:
    """One process of curate.verifier_worker: a line asked, a line answered."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "curate.verifier_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            env={**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        if self._line(START_SECONDS) != "ready":
            self.stop()
            raise ForerunError(
                "the verifier's worker process did not start; expected `python -m curate.verifier_worker` to print ready: "
                "run it to see why (is math-verify installed?)"
            )

    def ask(self, answer: str, ground_truth: str) -> Verdict | None:
        """The verdict; None if the process died or took longer than WALL_SECONDS, and is then stopped."""
        assert self.process.stdin is not None
        self._line(0)  # what is there before a question answers none: a child that was killed while idle
        try:
            self.process.stdin.write(json.dumps([answer, ground_truth]).encode() + b"\n")
        except BrokenPipeError:
            line = ""
        else:
            line = self._line(WALL_SECONDS)
        if not line:
            self.stop()
            return None
        return Verdict(line)

    def _line(self, seconds: float) -> str:
        """One line of its output, empty after a time-out or at its end."""
        assert self.process.stdout is not None
        poll, deadline, line = select.poll(), time.monotonic() + seconds, b""
        poll.register(self.process.stdout, select.POLLIN | select.POLLHUP)
        while not line.endswith(b"\n"):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000) or not (part := self.process.stdout.read(4096)):
                return ""
            line += part
        return line.decode().strip()

    def stop(self) -> None:
        """Kill the process and its child, and wait for it, so that no zombie is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.let_go()

    def let_go(self) -> None:
        """Close this side of the pipes: the process ends when every copy of them is closed."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


class VerifierPool:
    """As many workers as there are threads that ask at the same time."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        self._closes_at_exit = False

    def decide(self, answer: str, ground_truth: str) -> Verdict:
        """The verdict of algebra, `timeout` where a worker had to be killed."""
        worker = self._take()
        verdict = worker.ask(answer, ground_truth)
        if verdict is None:
            return Verdict.TIMEOUT
        with self._lock:
            self._idle.append(worker)
        return verdict

    def _take(self) -> Worker:
        with self._lock:
            if not self._closes_at_exit:
                # not atexit: processes of multiprocessing skip that, but run these
                multiprocessing.util.Finalize(None, self.close, exitpriority=0)
                self._closes_at_exit = True
            while self._idle:
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    return worker
                worker.stop()
        return Worker()

    def close(self) -> None:
        """Stop the idle workers; later questions start new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.stop()

    def forget(self) -> None:
        """In a forked child: the workers, the lock and the exit hook are the parent's."""
        for worker in self._idle:
            worker.let_go()
        self.__init__()  # type: ignore[misc]


POOL = VerifierPool()
os.register_at_fork(after_in_child=POOL.forget)
