"""What a study asks of the confirmation of its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a study asks of a confirmation."""

    num_seeds: int
    stress_octaves: float
    """0: no stress test."""


def asked_of(study: Mapping[str, Any]) -> Asked | None:
    """None where the study asks for no confirmation."""
    confirm: Mapping[str, Any] | None = study.get("confirm")
    if not confirm:
        return None
    octaves = confirm.get("stress_octaves")
    return Asked(
        num_seeds=int(confirm.get("seeds") or 5),
        stress_octaves=1.0 if octaves is None else float(octaves),
    )
