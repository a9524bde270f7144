"""The one error of the command line: something a person can put right, said in one sentence."""


class CommandError(Exception):
    """Ends the command with exit code 1 and its message, without a traceback."""
