"""Exits worth trusting: what an exit says of its own choice, the chance that the full model agrees,
and the policies that keep a token or go on.

Plain Python values throughout, so that the edge and an evaluation over traces decide by the same
functions.
"""
