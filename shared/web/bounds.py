"""How much of a request there may be before anybody has looked at it, and the phases it goes
through.
"""

from typing import Final

# What a request's head may have; also all that surrounds a body's bytes: trailers, the sizes of
# chunks and their extensions.
HEAD_BYTES: Final = 32 * 1024
HEAD_FIELDS: Final = 100
TARGET_BYTES: Final = 8 * 1024
# A chunk of one byte has five more around it.
BYTES_AROUND_ONE: Final = 8
# A body brings as much a second on average, of each `body_seconds`; less is none.
LEAST_BYTES_PER_SECOND: Final = 256
# Requests that may wait for the answers of those before them.
MOST_PIPELINED: Final = 16
# What a client that was answered may go on sending.
LINGER_BYTES: Final = 16 * 1024**2

# No request; its head is arriving; its body is; it is whole.
IDLE, HEAD, BODY, WHOLE = range(4)
