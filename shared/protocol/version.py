"""What both sides must name alike before any message is read: version, paths, headers, limits.

Any change of a message's meaning or layout raises `PROTOCOL_VERSION`; a peer of another version is
refused.
"""

PROTOCOL_VERSION = 5

MEDIA_TYPE = "application/msgpack"

PATH_MANIFEST = "/v1/manifest"
PATH_BLOCKS = "/v1/blocks"
PATH_STREAM = "/v1/blocks/stream"
PATH_CLOSE = "/v1/close"

HEADER_REQUEST_ID = "x-request-id"
# Milliseconds the sender will wait for the answer, from when it is sent: a duration, for clocks
# differ. What has not begun by then need not begin.
HEADER_TIMEOUT = "x-tandem-timeout-ms"

# Blocks one body may carry: the branches of a tree, each of one node at worst, and announcements.
MAX_BLOCKS = 512

# Bounds that hold before anything is allocated from what a peer claims.
MAX_BLOCK_TOKENS = 131_072
MAX_HIDDEN = 65_536
MAX_VOCABULARY = 2_000_000
MAX_SESSION_ID = 64
# Of one message: the fields of a map in it, its arrays (a log's entry has four), and all values
# together (a report that tells as many tokens and disagreements as there can be has most).
MAX_FIELDS = 64
MAX_ARRAYS = 8
MAX_VALUES = 8 * MAX_BLOCK_TOKENS
