"""What the three command lines share: exit codes, `--json` on success and on failure, progress on stderr."""

import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from typer import TyperException

from curate.errors import ForerunError

SCHEMA_VERSION = 1
INTERRUPTED, TERMINATED = 130, 143


class Terminated(BaseException):
    """SIGTERM arrived: unwinds like Ctrl-C so that partial files are removed."""


def finish(document: dict[str, Any], *, as_json: bool, text: Callable[[], None]) -> None:
    """Print a command's result: exactly one JSON document on stdout, or `text()` for a person."""
    if as_json:
        print(json.dumps({"schema_version": SCHEMA_VERSION, "ok": True, **document}, allow_nan=False))
    else:
        text()


def run_app(app: Callable[..., Any]) -> NoReturn:
    """Run a Typer app; every failure ends as one message (one JSON document under --json) and its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    code = None
    try:
        code = _called(app)
    except TyperException as error:
        _fail(f"{error.format_message().rstrip('.')}; see --help", error.exit_code)
    except ForerunError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(_os_message(error), 1)
    except (Exception, KeyboardInterrupt, Terminated) as error:
        _fail_on_signal(error)
        traceback.print_exc()
        _fail(f"unexpected {type(error).__name__}: {error}", 1)
    if code == INTERRUPTED:
        _fail("interrupted", INTERRUPTED)
    sys.exit(code)


def _fail_on_signal(error: BaseException | None) -> None:
    """Fail by the signal that raised `error`, or that a library's clean-up ran into and hid (torch.save does)."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            _fail("interrupted", INTERRUPTED)
        if isinstance(error, Terminated):
            _fail("terminated", TERMINATED)
        error = error.__context__


def _called(app: Callable[..., Any]) -> Any:
    """The app's exit code, once all that it printed has left."""
    try:
        code = app(standalone_mode=not _as_json())
    except SystemExit as end:  # standalone, Typer itself prints wrong usage, in colours, and exits
        code = end.code
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        _drop_stdout()
        return 1
    return code


def _drop_stdout() -> None:
    """Stdout is full or closed: what is still to be written goes nowhere, so that Python's exit does not fail on it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _as_json() -> bool:
    return "--json" in sys.argv[1:]


def _terminate(*_: Any) -> NoReturn:
    raise Terminated


def _os_message(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{_place(error)}: nothing half-written was kept; free some room and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"not allowed to write or read{_place(error)}: {error.strerror}"
    return f"{error.strerror or error}{_place(error)}"


def _place(error: OSError) -> str:
    return f" at {error.filename}" if error.filename else ""


def _fail(message: str, code: int) -> NoReturn:
    try:
        if _as_json():
            print(json.dumps({"schema_version": SCHEMA_VERSION, "ok": False, "code": code, "message": message}))
        sys.stdout.flush()
    except OSError:
        _drop_stdout()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
