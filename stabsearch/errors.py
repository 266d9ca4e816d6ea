"""Errors that a person can act on.

    StabsearchError            something the user can mend; the CLI prints it and exits
     |- SpecError              a study file says something it may not say (exit code 2)
     |- EnvironmentProblem     the machine or cluster cannot do what was asked (exit code 2)
     |- ResultsError           a results folder is missing, incomplete or of another version (2)
     |- ClusterError           a Ray cluster could not be reached or refused (exit code 2)
     `- StudyAborted           the study began but could not go on (exit code 1)

Every message names what was found, the rule it breaks and the remedy. None needs a traceback.
"""

from __future__ import annotations


class StabsearchError(Exception):
    """Base of every error that is shown to a user as one message."""

    exit_code: int = 2


class SpecError(StabsearchError, ValueError):
    """A study file or object is not valid."""


class EnvironmentProblem(StabsearchError):
    """The machine cannot do what the study asks: no GPU, an unwritable path, ..."""


class ResultsError(StabsearchError):
    """A results folder cannot be read."""


class ClusterError(StabsearchError):
    """A Ray cluster cannot be reached, refused the token, or refused the job."""


class StudyAborted(StabsearchError):
    """The study started and could not finish. Finished trials are on disk."""

    exit_code = 1
