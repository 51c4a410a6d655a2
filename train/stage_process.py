"""Stages of a study as processes: one torch thread each, forked from a server that has torch imported already."""

import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

from curate.errors import ForerunError, InputError


class StageProcesses:
    """Runs stages for several threads at once; `stop` ends them all, each leaving a state to go on from."""

    def __init__(self) -> None:
        self.context = _process_context()
        self.children: set[BaseProcess] = set()
        self.stopping = False

    def run(self, stage: str, settings: dict[str, Any]) -> float:
        """Run a stage to its end; returns seconds.

        Raises:
            InputError: it failed; what it said is in the message.
        """
        began = time.monotonic()
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(target=run_stage, args=(stage, settings, sender))
        process.start()
        sender.close()
        message = self._ended(process, receiver)
        if process.exitcode:
            raise InputError(f"train {stage} ended with code {process.exitcode}: {message or 'no message; was it killed?'}")
        return time.monotonic() - began

    def _ended(self, process: BaseProcess, receiver: Connection) -> str:
        """Wait for a stage's process and what it says; if this one is told to end, so is the stage."""
        self.children.add(process)
        try:
            if self.stopping:
                process.terminate()
            message = _received(receiver)
            process.join()
        except BaseException:
            process.terminate()
            raise
        finally:
            self.children.discard(process)
        return message

    def stop(self) -> None:
        """End the stages under way, and those that a worker is about to start; each leaves a state to go on from."""
        self.stopping = True
        for child in list(self.children):
            child.terminate()


def _process_context() -> ForkServerContext:
    """Processes forked from a server that has torch imported already: a stage starts at once, not after seconds.

    One thread each: on a shared CPU two threads of a small model run slower than one. PYTHONSAFEPATH keeps a
    user's own train.py in the current folder from shadowing this package.
    """
    os.environ.update(OMP_NUM_THREADS="1", PYTHONSAFEPATH="1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.sft", "train.grpo", "train.evaluate"])
    return context


def _received(receiver: Connection) -> str:
    """What a stage said before it ended; nothing if it went well or was killed."""
    try:
        return str(receiver.recv())
    except EOFError:
        return ""


def run_stage(stage: str, settings: dict[str, Any], sender: Connection) -> None:
    """The body of a stage's process: run it, send the message of an error that a person can act on."""
    from train.cli import run_config

    try:
        run_config(stage, settings)
    except ForerunError as error:
        sender.send(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")
        raise
