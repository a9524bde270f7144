"""The real services in one process and in virtual time: what they would take, to the microsecond,
whatever else this machine is doing.

The code of both sides runs unchanged but for three things: the clock is the event loop's own and
jumps to the next event, a step of an engine takes what the price list says, and the network is
arithmetic. Nothing here measures software overhead; `benchmarks.suite` does.
"""
