"""``module:function`` in a study file becomes the function: how a user's own code is named.

Modules are looked up where Python finds installed packages and, after those, in the current
directory, so that a file where stabsearch is started needs no packaging. Where the study file lies
does not matter.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from stabsearch.errors import SpecError


class NamesReferences(Protocol):
    """A study: what is needed of it here."""

    def references(self) -> Mapping[str, str]:
        """Field path -> ``module:function``."""


def check_references(spec: NamesReferences, source: str | None = None) -> None:
    """Import every reference of a study. Raises one SpecError that names all that fail."""
    prefix = f"{source}: " if source else ""
    complaints = []
    for field, reference in spec.references().items():
        try:
            resolve(reference, field)
        except SpecError as error:
            complaints.append(f"{prefix}{error}")
    if complaints:
        raise SpecError("\n".join(complaints))


def resolve(reference: str, field: str = "reference") -> Callable[..., Any]:
    """The callable that ``module:function`` names (``module:Class.method`` works too).

    Raises SpecError with the reason if there is none.
    """
    module_name, colon, attributes = reference.partition(":")
    if not (colon and module_name and attributes):
        raise SpecError(
            f"{field}: {reference} — must be module:function. Write for example my_models:unet."
        )
    _search_current_directory()
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SpecError(f"{field}: {reference} — {_not_found(module_name, error)}") from error
    except SystemExit as error:
        raise SpecError(
            f"{field}: {reference} — importing {module_name} ended the program (sys.exit: "
            f'{error.code}). Put what it does as a script below `if __name__ == "__main__":`.'
        ) from error
    except Exception as error:
        raise SpecError(
            f"{field}: {reference} — importing {module_name} raised "
            f"{type(error).__name__}: {error}. Mend the module; "
            f'python -c "import {module_name}" shows where.'
        ) from error
    holder = f"module {module_name}"
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise SpecError(
                f"{field}: {reference} — {holder} has no attribute {attribute}. "
                f"Define it there ({getattr(found, '__file__', None) or module_name}), "
                "or correct the name."
            )
        found = getattr(found, attribute)
        holder = attribute
    if not callable(found):
        raise SpecError(
            f"{field}: {reference} — is a {type(found).__name__}, which cannot be called. "
            "Name a function or a class."
        )
    return found  # type: ignore[no-any-return]


def _not_found(module_name: str, error: ModuleNotFoundError) -> str:
    missing = error.name or module_name
    is_module_itself = module_name == missing or module_name.startswith(f"{missing}.")
    if not is_module_itself:
        return (
            f"module {module_name} imports {missing}, which is not installed. "
            f"Install {missing} in this environment."
        )
    return (
        f"no module named {missing}. Correct the name, install its package, or start stabsearch "
        f"in the folder that holds {missing.partition('.')[0]}.py (the current directory, "
        f"{os.getcwd()}, is searched)."
    )


def _search_current_directory() -> None:
    """At the end of the path: a stray file must not shadow an installed package."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()  # the module may be younger than Python's listing of the folder
