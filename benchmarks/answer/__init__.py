"""The answers of stabsearch and of its peers: what each cost, and what it is worth.

    grids      -> blackbox   a logged grid of benchmarks/truth as a trainer, and its oracle
    blackbox   -> virtual    two workers whose clock is optimizer steps run one search
    peers, ours              the methods: every library's own classes, driven without a cluster
    virtual    -> replay     every method on every grid, 20 times each
    replay     -> fresh      what was answered, trained again under seeds that no search has seen
    replay, fresh -> document   the section of docs/benchmarks.md

python -m benchmarks.answer                     replay what is logged, write the document
python -m benchmarks.answer --kept --fresh 30   train the answers again, for up to 30 minutes
"""
