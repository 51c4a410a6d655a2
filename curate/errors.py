"""The errors a person may meet, and the exit code each one ends a command with.

    ForerunError     1   unexpected, disk full
    ├── UsageError   2   the command line or a config file is wrong
    ├── InputError   3   the data that came in is wrong
    ├── CheckFailed  4   the work was done, but a check on it failed
    └── OutputExists 5   the output is there already and --force was not given

A message says what was expected, what came, and what to do. To add an error, subclass the one whose
exit code fits and also the built-in it stands for, so that `except ValueError` keeps working.
"""


class ForerunError(Exception):
    """Base of every error that is reported as one clear message instead of a traceback."""

    exit_code = 1


class UsageError(ForerunError, ValueError):
    """A command line or a config file that cannot be carried out as written."""

    exit_code = 2


class InputError(ForerunError, ValueError):
    """Input data of a wrong shape, range or kind."""

    exit_code = 3


class CheckFailed(ForerunError):
    """The work was done, but what it must hold does not (budget not met, NaN loss, ...)."""

    exit_code = 4


class OutputExists(ForerunError, FileExistsError):
    """The output is there already; nothing was touched."""

    exit_code = 5
