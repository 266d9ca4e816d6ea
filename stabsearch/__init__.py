"""Stability search for diffusion training.

    results = stabsearch.run("search_spaces/digits_lr_clip.yaml")   # search, or resume
    results = stabsearch.load("results/digits_lr_clip")             # read, also while it runs
    results.trials                                                  # a pandas DataFrame
    monitor = stabsearch.Monitor(images, ...)                       # in a loop of your own

Importing the package is light: torch and Ray are imported when a search runs, pandas when
results are read, torch with ``Monitor``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stabsearch.monitor import Monitor
    from stabsearch.results.frames import Results
    from stabsearch.search.observer import StudyObserver
    from stabsearch.spec import StudySpec

__all__ = ["Monitor", "__version__", "load", "run"]

try:
    __version__ = version("stabsearch")
except PackageNotFoundError:  # the bare package, as a Ray job ships it
    __version__ = "0+unknown"


def run(
    study: StudySpec | Mapping[str, Any] | str | Path,
    *,
    address: str | None = None,
    observer: StudyObserver | None = None,
) -> Results:
    """Run or resume a study, as ``stabsearch run`` does, and return its results.

    ``study`` is a StudySpec, what a study file would say as a mapping, or the file's path.
    ``address`` is a Ray cluster to join; None uses the Ray of this process, or starts one.

    Raises StabsearchError with a message that names the cause and the remedy.
    """
    from stabsearch.references import check_references
    from stabsearch.search.study import run_study
    from stabsearch.spec import StudySpec
    from stabsearch.spec_file import load_study, parse_study

    if isinstance(study, (str, Path)):
        spec = load_study(study)
    elif isinstance(study, StudySpec):
        spec = study
    else:
        spec = parse_study(study)
    check_references(spec)
    return run_study(spec, address=address, observer=observer).results


def load(path: str | Path) -> Results:
    """Read a study's folder: ``.trials``, ``.reports``, ``.timesteps``, ``.verdicts``.

    Works while the study runs, and needs neither torch nor Ray. Raises ResultsError.
    """
    from stabsearch.results.frames import load as load_results

    return load_results(Path(path))


def __getattr__(name: str) -> Any:
    """``Monitor``, with the torch that it needs, at its first use."""
    if name == "Monitor":
        from stabsearch.monitor import Monitor

        return Monitor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
