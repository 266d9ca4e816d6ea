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

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended, for a shell and for the cluster that ran it."""

    DONE = 0
    """For ``run``: a stable setting was found, as precisely as the study asks."""
    ABORTED = 1
    """The study began and could not go on, or a mistake of stabsearch's own."""
    USER_ERROR = 2
    """Something that the user can mend: one message, no traceback."""
    NO_STABLE_SETTING = 3
    """The study is complete and no setting was stable."""
    NOT_PRECISE = 4
    """The budget is spent, and the answer is not as precise as ``stop_when`` asks, or the
    recommended setting did not hold in its confirmation."""
    SAMPLER_WRONG = 5
    """For ``check-sampler``: the samples are not those of the model."""
    INTERRUPTED = 130
    """Finished trials are on disk."""


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
