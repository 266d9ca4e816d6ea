"""Runs with a fault put in: is it named, does the advice cure it, are healthy runs left alone?

    cases        healthy runs, and faults: a setting, or a mistake put into a new Trainer
    injections   those mistakes
    suite        a case trained to its end, judged, and its advice followed
    cures        what a verdict advises, done by a machine

python -m benchmarks.faults [NAME ...]
"""
