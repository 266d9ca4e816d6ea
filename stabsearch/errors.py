"""Errors that a person can act on.

    StabsearchError            something the user can mend; the CLI prints it and exits
     |- SpecError              a study file says something it may not say (exit code 2)
     |- EnvironmentProblem     the machine or cluster cannot do what was asked (exit code 2)
     |- ResultsError           a results folder is missing, incomplete or of another version (2)
     |- ClusterError           a Ray could not be started or reached, or refused (exit code 2)
     `- StudyAborted           the study began but could not go on (exit code 1)

Every message names what was found, the rule it breaks and the remedy. None needs a traceback.
"""

from __future__ import annotations

import textwrap
from enum import IntEnum

MAX_MESSAGE = 400
"""Characters of somebody else's exception that are shown."""


class ExitCode(IntEnum):
    """How a command ended, for a shell and for the cluster that ran it."""

    DONE = 0
    """For ``run``: a stable setting was found, and nothing speaks against it."""
    ABORTED = 1
    """The study began and could not go on, or a mistake of stabsearch's own."""
    USER_ERROR = 2
    """Something that the user can mend: one message, no traceback."""
    NO_STABLE_SETTING = 3
    """The study is complete and no setting was stable."""
    NOT_PRECISE = 4
    """A stable setting was found, and something speaks against it: the edge is not as precise as
    ``stop_when`` asks, it did not hold in its confirmation, it is likely to fail within the
    study's margin, or combinations of words were not compared."""
    SAMPLER_WRONG = 5
    """For ``check-sampler``: the samples are not those of the model."""
    INTERRUPTED = 130
    """By Ctrl-C or SIGTERM; finished trials are on disk."""


class StabsearchError(Exception):
    """Base of every error that is shown to a user as one message."""

    exit_code = ExitCode.USER_ERROR


class SpecError(StabsearchError, ValueError):
    """A study file or object is not valid."""


class EnvironmentProblem(StabsearchError):
    """The machine cannot do what the study asks: no GPU, an unwritable path, ..."""


class ResultsError(StabsearchError):
    """A results folder cannot be read."""


class ClusterError(StabsearchError):
    """A Ray cannot be started or reached, refused the token, or refused the job."""


class StudyAborted(StabsearchError):
    """The study started and could not finish. Finished trials are on disk."""

    exit_code = ExitCode.ABORTED


def exception_text(error: BaseException) -> str:
    """``KeyError: 'images'``: the exception of somebody else's code in one line."""
    message = textwrap.shorten(str(error), MAX_MESSAGE, placeholder=" ...")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def exception_line(text: str) -> str:
    """Of a traceback the line that says what was raised; of any other text the first line."""
    lines = text.splitlines()
    last_frame = max(
        (i for i, line in enumerate(lines) if line.startswith('  File "')), default=-1
    )
    # Below the frame come its source, indented, and then the exception: its message may go on.
    after = [line for line in lines[last_frame + 1 :] if line and not line[0].isspace()]
    return after[0] if after else text.strip()
