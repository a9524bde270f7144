"""Which of the processor's instructions a process that trains may use: all of them.

Serving holds oneDNN to those before AMX, so that a row is multiplied the same way beside any others
(`shared.model.packed`). A training step compares no rows, and AMX is made for its products.
"""

import os

from shared.model.packed import HELD_TO, INSTRUCTIONS


def use_all_instructions() -> None:
    """Lift what serving holds oneDNN to; a limit that somebody else set stays.

    To be called by a process that trains and does not serve, before its first product: oneDNN reads
    the limit once.
    """
    if os.environ.get(INSTRUCTIONS) == HELD_TO:
        os.environ[INSTRUCTIONS] = "DEFAULT"
