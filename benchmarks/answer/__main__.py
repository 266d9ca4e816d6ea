"""Search every logged grid with every method, write the document.

python -m benchmarks.answer                       all grids that have a complete seed
python -m benchmarks.answer --print --grids sgd   one of them, printed only
python -m benchmarks.answer --kept                no search: what the last ones came to
python -m benchmarks.answer --kept --fresh 30     train the answers again for up to 30 minutes
python -m benchmarks.answer --kept --end-to-end 3 and some searches for real, on a free machine
"""

from __future__ import annotations

import argparse

from benchmarks.answer import document, end_to_end, fresh, replay
from benchmarks.answer.methods import METHODS
from benchmarks.truth.grids import GRIDS


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.answer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [grid.name for grid in GRIDS]
    parser.add_argument("--grids", nargs="+", choices=names, default=names, metavar="GRID")
    parser.add_argument(
        "--methods", nargs="+", default=[""], metavar="TEXT", help="whose names contain it"
    )
    parser.add_argument("--repetitions", type=int, default=replay.REPETITIONS)
    parser.add_argument("--kept", action="store_true", help="do not search again")
    parser.add_argument(
        "--fresh",
        type=float,
        default=0.0,
        metavar="MINUTES",
        help="train the answers again under fresh seeds, for so long at most",
    )
    parser.add_argument(
        "--end-to-end",
        type=int,
        default=0,
        metavar="REPETITIONS",
        help="search for real, with Ray, Ray Tune's way and ours; on a machine that is free",
    )
    parser.add_argument("--print", action="store_true", help="leave the document alone")
    arguments = parser.parse_args()
    if not arguments.kept:
        methods = [m for m in METHODS if any(text in m for text in arguments.methods)]
        for grid in arguments.grids:  # what is found is kept at once
            replay.keep(replay.replay([grid], methods, arguments.repetitions))
    if arguments.fresh:
        outcomes = {grid: replay.kept(grid) for grid in arguments.grids}
        fresh.train_answers(outcomes, arguments.fresh)
    if arguments.end_to_end:
        end_to_end.run(arguments.end_to_end)
    document.main(arguments.grids, is_written=not arguments.print)


if __name__ == "__main__":
    main()
