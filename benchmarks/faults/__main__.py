"""Train every case, judge it, follow the advice, write the section of docs/benchmarks.md.

python -m benchmarks.faults [NAME ...]     only these cases, printed and not written
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterable, Sequence

from benchmarks.document import machine, table, write_section
from benchmarks.faults.cases import FAULTS, HEALTHY, Case
from benchmarks.faults.suite import CASES, SEEDS, Outcome, healthy_peers, run_case
from stabsearch.records import Severity
from stabsearch.stability.baselines import BASELINES
from stabsearch.stability.judges import make_judge

PROCESSES = 2


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names
    cases = [case for case in (*HEALTHY, *FAULTS) if not names or case.name in names]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        peers = dict(zip(SEEDS, pool.map(healthy_peers, SEEDS, 1), strict=True))
        work = [(case.name, seed, peers[seed]) for case in cases for seed in SEEDS]
        outcomes = []
        for outcome in pool.imap(run_case, work, 1):
            outcomes.append(outcome)
            print(f"[{len(outcomes)}/{len(work)}] {line(outcome)}", file=sys.stderr, flush=True)
    by_case = {case.name: [o for o in outcomes if o.name == case.name] for case in cases}
    text = "\n\n".join(body(cases, by_case))
    if names:
        print(text)
    else:
        write_section("faults", "Faults put in on purpose", text)


def line(outcome: Outcome) -> str:
    said = [f"{v.rule} {v.symptom} {v.severity.name} {v.step}" for v in outcome.run.alarms()]
    return f"{outcome.name} {outcome.seed}: {'; '.join(said)} -> {outcome.path}"


def body(cases: Sequence[Case], by_case: dict[str, list[Outcome]]) -> Iterable[str]:
    healthy = [case for case in cases if not case.symptoms]
    faults = [case for case in cases if case.symptoms]
    runs = [o for case in healthy for o in by_case[case.name]]
    named = [o for case in faults for o in by_case[case.name] if is_named(o)]
    cured = [o for case in faults for o in by_case[case.name] if o.is_cured]
    total = sum(len(by_case[case.name]) for case in faults)
    alarmed = sum(bool(o.run.alarms()) for o in runs)
    yield (
        f"`make faults`; {machine()}.\n\n{len(healthy)} healthy and {len(faults)} faulty runs, "
        f"{len(SEEDS)} seeds each, trained to the end. A fault is *named* if a verdict has one of "
        "the symptoms that mean it. The advice of the symptom is then followed by a machine "
        "(`benchmarks/faults/cures.py`), up to five rounds; *cured*: the symptom is gone, and "
        "nothing is penalised. `noisy_timesteps_amplified`, which is true of every epsilon model, "
        "is no alarm.\n\n"
        f"**Named: {len(named)} of {total}. Cured: {len(cured)} of {total}. "
        f"False alarms: {alarmed} of {len(runs)} healthy runs.**"
    )
    yield table(
        ["healthy run", "what it is", "alarms", "score"],
        [
            [
                f"`{case.name}`",
                case.words,
                ", ".join(sorted({v.symptom for o in by_case[case.name] for v in o.run.alarms()})),
                scores(o.run.score for o in by_case[case.name]),
            ]
            for case in healthy
        ],
    )
    yield table(
        ["fault", "what is wrong", "named", "as", "at step", "what the advice did", "cured"],
        [fault_row(case, by_case[case.name]) for case in faults],
    )
    yield (
        "**Other judges on the same runs.** Noticed: any verdict of severity warn or worse; none "
        "of them has words for a fault that is no divergence."
    )
    yield table(
        ["judge", "healthy runs with an alarm", "faulty runs noticed", "of those pruned"],
        [judge_row(name, runs, [o for c in faults for o in by_case[c.name]]) for name in JUDGES],
    )


JUDGES = ("rules", *BASELINES)


def judge_row(name: str, healthy: Sequence[Outcome], faulty: Sequence[Outcome]) -> list[str]:
    def noticed(outcome: Outcome, bar: Severity) -> bool:
        if name == "rules":
            return any(v.severity >= bar for v in outcome.run.alarms())
        judge = make_judge({"name": name}, outcome.run.facts)
        found = [v for report in outcome.run.reports for v in judge.judge(report).verdicts]
        return any(v.severity >= bar for v in found)

    return [
        name,
        f"{sum(noticed(o, Severity.WARN) for o in healthy)} of {len(healthy)}",
        f"{sum(noticed(o, Severity.STEER) for o in faulty)} of {len(faulty)}",
        str(sum(noticed(o, Severity.PRUNE) for o in faulty)),
    ]


def is_named(outcome: Outcome) -> bool:
    return outcome.run.naming(CASES[outcome.name].symptoms) is not None


def fault_row(case: Case, outcomes: Sequence[Outcome]) -> list[str]:
    verdicts = [o.run.naming(case.symptoms) for o in outcomes]
    found = [v for v in verdicts if v is not None]
    paths = sorted({", then ".join(o.path) for o in outcomes if o.path})
    return [
        f"`{case.name}`",
        case.words,
        f"{len(found)} of {len(outcomes)}",
        ", ".join(sorted({f"{v.rule} `{v.symptom}`" for v in found})),
        span([v.step for v in found]),
        "; or ".join(paths),
        f"{sum(o.is_cured for o in outcomes)} of {len(outcomes)}",
    ]


def span(numbers: Sequence[int]) -> str:
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}-{high}"


def scores(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
