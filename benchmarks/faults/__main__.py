"""Train every case, judge it, follow the advice, write the section of docs/benchmarks.md.

python -m benchmarks.faults [NAME ...]     only these cases, printed and not written
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from multiprocessing.pool import Pool

from benchmarks.document import machine, table, write_section
from benchmarks.faults.cases import HEALTHY, Case
from benchmarks.faults.suite import (
    CASES,
    NEAR,
    SEEDS,
    Outcome,
    Study,
    healthy_study,
    run_case,
    train_healthy,
)
from stabsearch.records import Severity, Verdict
from stabsearch.stability.baselines import BASELINES
from stabsearch.stability.judges import make_judge

PROCESSES = 2


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names
    if unknown := sorted(set(names) - set(CASES)):
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    cases = [case for case in CASES.values() if not names or case.name in names]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        studies = healthy_studies(pool)
        work = [(case.name, seed, studies[seed]) for case in cases for seed in SEEDS]
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


def healthy_studies(pool: Pool) -> dict[int, Study]:
    """By seed, what the healthy cases' trainings tell the other trials."""
    work = [(case.name, seed) for seed in SEEDS for case in HEALTHY]
    trained = dict(zip(work, pool.map(train_healthy, work, 1), strict=True))
    return {
        seed: healthy_study({case.name: trained[case.name, seed] for case in HEALTHY})
        for seed in SEEDS
    }


def line(outcome: Outcome) -> str:
    said = [f"{v.rule} {v.symptom} {v.severity.name} {v.step}" for v in outcome.run.verdicts]
    wrong = sorted({v.symptom for v in outcome.wrong_words()})
    end = f"score ratio {outcome.score_ratio}, cured {outcome.is_cured}" if outcome.path else ""
    return (
        f"{outcome.name} {outcome.seed}: {'; '.join(said)}; wrong {wrong} -> {outcome.path} {end}"
    )


def body(cases: Sequence[Case], by_case: dict[str, list[Outcome]]) -> Iterable[str]:
    healthy = [case for case in cases if not case.symptoms]
    faults = [case for case in cases if case.symptoms]
    runs = [o for case in healthy for o in by_case[case.name]]
    faulty = [o for case in faults for o in by_case[case.name]]
    total = len(faulty)
    alarmed = sum(bool(o.run.alarms()) for o in runs)
    alone = {f"`{o.name}`" for o in faulty if o.path and o.score_ratio is None}
    yield (
        f"`make faults`; {machine()}.\n\n{len(healthy)} healthy and {len(faults)} faulty runs, "
        f"{len(SEEDS)} seeds each, trained to the end.\n\n"
        "* *Named*: a verdict has one of the symptoms that mean the fault, until a prune at the "
        "latest. *Wrong words*: symptoms said of the run until then, of any severity, that are "
        "neither the fault's nor true of it besides (`Case.also`). "
        "`noisy_timesteps_amplified`, which is true of every epsilon model, counts as neither an "
        "alarm nor a wrong word.\n"
        "* *Cured*: the advice was followed by a machine, up to five rounds; then none of the "
        "fault's symptoms is said, nothing is penalised, and the score is at most "
        f"{NEAR:g} times that of the healthy run of the same kind (model, noise schedule, "
        "prediction, weighting, optimizer) and seed, after as many steps. That is the slack that "
        "the rules themselves give a trial beside its peers; a healthy run's score differs from "
        "seed to seed by nearly as much. What has no healthy run of its kind is not compared "
        f"({', '.join(sorted(alone)) or 'none'}).\n"
        "* **What stands for reading the advice** (`benchmarks/faults/cures.py`): a number or a "
        "setting that the advice names is applied. A mistake in the code is taken out only if the "
        "advice holds words that point to it, which each case names (`Case.mistake`): that the "
        "advice points there is checked, that a reader would then find the mistake is assumed.\n\n"
        f"**Named: {sum(map(is_named, faulty))} of {total}. "
        f"Cured: {sum(o.is_cured for o in faulty)} of {total}. "
        f"False alarms: {alarmed} of {len(runs)} healthy runs. "
        f"Wrong words: {sum(bool(o.wrong_words()) for o in faulty)} of {total} faulty runs.**"
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
        [
            *("fault", "what is wrong", "named", "as", "at step", "wrong words"),
            *("what the advice did", "cured", "score / healthy"),
        ],
        [fault_row(case, by_case[case.name]) for case in faults],
    )
    yield (
        "**Other judges on the same runs.** Noticed: any verdict of severity warn or worse; none "
        "of them has words for a fault that is no divergence."
    )
    yield table(
        ["judge", "healthy runs with an alarm", "faulty runs noticed", "of those pruned"],
        [judge_row(name, runs, faulty) for name in JUDGES],
    )


JUDGES = ("rules", *BASELINES)


def judge_row(name: str, healthy: Sequence[Outcome], faulty: Sequence[Outcome]) -> list[str]:
    def noticed(outcome: Outcome, bar: Severity) -> bool:
        if name == "rules":
            return any(v.severity >= bar for v in outcome.run.alarms())
        judge = make_judge({"name": name}, outcome.run.training.facts)
        found = [
            v for report in outcome.run.training.reports for v in judge.judge(report).verdicts
        ]
        return any(v.severity >= bar for v in found)

    return [
        name,
        f"{sum(noticed(o, Severity.WARN) for o in healthy)} of {len(healthy)}",
        f"{sum(noticed(o, Severity.STEER) for o in faulty)} of {len(faulty)}",
        str(sum(noticed(o, Severity.PRUNE) for o in faulty)),
    ]


def is_named(outcome: Outcome) -> bool:
    return named_by(outcome) is not None


def named_by(outcome: Outcome) -> Verdict | None:
    symptoms = CASES[outcome.name].symptoms
    return next((v for v in outcome.run.heard if v.symptom in symptoms), None)


def fault_row(case: Case, outcomes: Sequence[Outcome]) -> list[str]:
    verdicts = [named_by(o) for o in outcomes]
    found = [v for v in verdicts if v is not None]
    wrong = Counter(s for o in outcomes for s in {v.symptom for v in o.wrong_words()})
    paths = sorted({", then ".join(o.path) or "nothing: it names no remedy" for o in outcomes})
    return [
        f"`{case.name}`",
        case.words,
        f"{len(found)} of {len(outcomes)}",
        ", ".join(sorted({f"{v.rule} `{v.symptom}`" for v in found})),
        span([v.step for v in found]),
        ", ".join(f"`{symptom}` {count} of {len(outcomes)}" for symptom, count in wrong.items()),
        "; or ".join(paths),
        f"{sum(o.is_cured for o in outcomes)} of {len(outcomes)}",
        scores(o.score_ratio for o in outcomes if o.score_ratio is not None),
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
