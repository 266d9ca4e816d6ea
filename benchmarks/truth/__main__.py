"""Generate what is missing, replay every judge, write the document.

python -m benchmarks.truth                 hours of training at first, then minutes
python -m benchmarks.truth --replay        what is there, without training
python -m benchmarks.truth --splits unseen only the grids that were added last
python -m benchmarks.truth --tune [R1 ..]  the tuning grids only, printed only: the gauge, and
                                           every threshold whose name begins so, at other values
"""

from __future__ import annotations

import argparse

from benchmarks.truth import document, generate, tune
from benchmarks.truth.grids import GRIDS, Split


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.truth", description=__doc__)
    parser.add_argument("--replay", action="store_true", help="do not train what is missing")
    parser.add_argument("--tune", nargs="*", metavar="PREFIX", help="thresholds to vary")
    parser.add_argument("--splits", nargs="+", type=Split, choices=list(Split), default=[*Split])
    arguments = parser.parse_args()
    if arguments.tune is not None:
        tune.main(arguments.tune)
        return
    if not arguments.replay:
        generate.generate([grid for grid in GRIDS if grid.split in arguments.splits])
    document.main(arguments.splits)


if __name__ == "__main__":
    main()
