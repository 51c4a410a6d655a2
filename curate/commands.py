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
INTERRUPTED = 130


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
        code = app(standalone_mode=not _as_json())  # standalone, Typer itself prints wrong usage, in colours, and exits
        sys.stdout.flush()
    except TyperException as error:
        _fail(f"{error.format_message().rstrip('.')}; see --help", error.exit_code)
    except ForerunError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(_os_message(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except Terminated:
        _fail("terminated", 143)
    except Exception as error:
        traceback.print_exc()
        _fail(f"unexpected {type(error).__name__}: {error}", 1)
    if code == INTERRUPTED:
        _fail("interrupted", INTERRUPTED)
    sys.exit(code)


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
    except OSError:  # stdout itself is full or closed: let nothing more be written there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
