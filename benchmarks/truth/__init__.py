"""The analyzer against trials whose end is known.

    grids     -> generate   every trial trained to its end, stored as a study of the product's kind
    labels    what became of each, from raw losses and held-out losses alone
    replay    the stored reports again, before any judge
    score     who was right, and when

python -m benchmarks.truth            generate what is missing, replay, write the document
python -m benchmarks.truth --tune     thresholds and gauge on the tuning grids, printed only
"""
