"""Exits worth trusting: what an exit says of its own choice, the chance that the full model agrees,
and the policies that keep a token or go on.

Plain Python values throughout: the edge decides by these functions. `benchmarks.exits` compares
policies over arrays, by rules of its own that a test holds against these.
"""
