"""Keeps docs/benchmarks.md: every benchmark owns one section and rewrites it."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Every section is written by the command that it names; run it again to measure it again.
"""


def machine() -> str:
    """The machine in words: processor, cores, versions."""
    import os

    import torch

    processor = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        processor = names[0].split(":")[1].strip() if names else processor
    return (
        f"{datetime.date.today().isoformat()}, {processor}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def write_section(name: str, title: str, body: str) -> None:
    """Print a section, and put it in its place in the document."""
    section = f"## {title}\n\n{body.strip()}\n"
    print(section)
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    text = DOCUMENT.read_text() if DOCUMENT.exists() else HEAD
    if begin in text:
        before, rest = text.split(begin)
        text = before + begin + section + end + rest.split(end)[1]
    else:
        text = text.rstrip() + "\n\n" + begin + section + end
    DOCUMENT.write_text(text)
