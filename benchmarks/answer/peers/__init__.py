"""Other tuners: each library's own searcher and pruner, at its defaults, asked as it asks itself.

A peer's trial reports once per evaluation, as a training script that follows the library's
tutorial does; its resource is the number of evaluations. What a peer returns is what the library
calls the best trial, by the rule of its own documentation.
"""
