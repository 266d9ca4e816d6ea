"""What a command says of a value that cannot be one of its arguments."""

from __future__ import annotations

from typing import Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from stabsearch.problems import broken_rule


class Commands(TyperGroup):
    """Commands whose complaints name the value, in the words of a study file's."""

    # Typed as Any: the context is click's in one version of typer, and typer's own in another.
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValidationError):
                error.message = _sentence(error.__cause__)
            raise


def _sentence(error: ValidationError) -> str:
    details = error.errors(include_url=False)[0]
    rule = broken_rule(details)
    value = repr(details["input"])
    return f"{rule if value in rule else f'{value} {rule}'}."
