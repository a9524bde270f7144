"""From text to token ids and back, token by token.

Text leaves as soon as no later token can change it: half a character waits for its other bytes, and
what may be the beginning of a stop string waits until it is or is not. Knows neither models nor
requests.
"""

import json
from collections.abc import Iterable
from copy import copy
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

from shared.errors import BadModel

_NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer makes of bytes that are none

_LONGEST_HOLD = 32  # tokens decoded together before those that can no longer matter are dropped
_OVERLAP = 16  # tokens kept then: more bytes than the characters held back can have
_MOST_HELD = (
    3  # bytes of an unfinished UTF-8 character, each a character of its own to some decoders
)


class TextCodec:
    """A bundle's tokenizer.

    Attributes:
        eos_ids: the ids that end a text, ascending; empty if the model names none.

    Raises:
        BadModel: the folder's tokenizer or configuration is missing or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises nothing narrower
            raise BadModel(f"{path}: no tokenizer that can be read ({error})") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(token for token, entry in added.items() if entry.special)
        self.eos_ids = _eos_ids(folder, self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a prompt, with the special tokens this tokenizer begins it with."""
        return list(self._tokenizer.encode(text).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids` without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def has_text(self, token: int) -> bool:
        """Whether `token` is one of the vocabulary and not special."""
        return token not in self._special and self._tokenizer.id_to_token(token) is not None

    def decoder(self, stops: Iterable[str] = ()) -> "StreamDecoder":
        """Return a decoder for one answer, which ends before the first of `stops`."""
        return StreamDecoder(self, stops)


class StreamDecoder:
    """Turns one answer's tokens into pieces of text, in order.

    The pieces together are `codec.decode` of all tokens, cut where the earliest stop string begins
    (the stop string itself is not part of the text). No piece is ever taken back.
    """

    def __init__(self, codec: TextCodec, stops: Iterable[str] = ()) -> None:
        self._pieces = Detokenizer(codec)
        self._watch = StopWatch(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._watch.stopped

    def stops_in(self, tokens: Iterable[int]) -> bool:
        """Whether a stop string would be complete with `tokens`; none of them is taken."""
        if not self._watch.stops:
            return False
        watch, pieces = copy(self._watch), self._pieces.copy()
        for token in tokens:
            watch.push(pieces.push(token))
        return watch.stopped

    def push(self, token: int) -> str:
        """Take the next token; returns the text that is now certain, which may be none."""
        return self._watch.push(self._pieces.push(token))

    def flush(self) -> str:
        """Return what was held back, when no token follows."""
        return self._watch.push(self._pieces.flush()) + self._watch.flush()


class Detokenizer:
    """Token ids to text, holding back what is no whole character yet.

    A token's text depends on those before it (a space, the other bytes of a character), so it is
    decoded behind the tokens of the last piece, and what was already given is left off, as in
    text-generation-inference. Each token is decoded a bounded number of times, also where the
    bytes never become characters.

    For byte-level tokenizers the pieces are exactly the decode of the whole. Those that fall back
    to bytes (SentencePiece) give up a broken run of bytes as a whole, the whole characters in it
    included; here these stay what they were.
    """

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._window: list[int] = []
        self._context = 0  # leading tokens of the window whose text is given
        self._given = 0  # leading characters of the window's text that are given

    def push(self, token: int) -> str:
        """Take the next token; returns the text that is now certain."""
        if not self._codec.has_text(token):
            return ""
        self._window.append(token)
        text = self._codec.decode(self._window)
        certain = len(text.rstrip(_NO_CHARACTER))
        if certain < len(text) and len(self._window) > _LONGEST_HOLD:
            certain = max(certain, len(text) - _MOST_HELD)
        piece = text[self._given : certain]
        self._given = max(self._given, certain)
        if certain == len(text) and piece:
            self._keep(len(self._window) - self._context, held=0)
            self._context = len(self._window)
        elif len(self._window) > _LONGEST_HOLD:
            self._keep(_OVERLAP, held=len(text) - self._given)
            self._context = 0
        return piece

    def copy(self) -> Self:
        """Return another as far along as this one; neither changes with the other."""
        made = copy(self)
        made._window = list(self._window)
        return made

    def flush(self) -> str:
        """Return what was held back, half characters included."""
        piece = self._codec.decode(self._window)[self._given :]
        self._given += len(piece)
        return piece

    def _keep(self, tokens: int, *, held: int) -> None:
        """Keep the window's last `tokens`, of whose text `held` characters are not given yet."""
        self._window = self._window[-tokens:]
        self._given = len(self._codec.decode(self._window)) - held


class StopWatch:
    """Cuts a text where a stop string begins, holding back what may turn out to be one.

    Of several stop strings the one complete first counts, and of those the longest, so the cut does
    not depend on how the text was divided into pieces.

    Raises:
        ValueError: a stop string is empty.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self.stops = tuple(stops)
        if not all(self.stops):
            raise ValueError("a stop string is empty; allowed: 1 character or more")
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Take more text; returns what can no longer belong to a stop string, nothing after one."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [
            (start + len(stop), start) for stop in self.stops if (start := text.find(stop)) >= 0
        ]
        if found:
            self.stopped = True
            certain = min(found)[1]
        else:
            certain = len(text) - max((_overlap(text, stop) for stop in self.stops), default=0)
        self._held = "" if self.stopped else text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """Return what was held back, when no text follows."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return how many characters `text` ends with that `stop`, which is longer, begins with."""
    longest = min(len(stop) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


def _eos_ids(folder: Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Collect every id that one of the model's files calls the end of a text."""
    found: list[object] = []
    for name in ("generation_config.json", "config.json"):
        named = _read(folder / name).get("eos_token_id")
        found += named if isinstance(named, list) else [] if named is None else [named]
    token = _read(folder / "tokenizer_config.json").get("eos_token")
    content = token.get("content") if isinstance(token, dict) else token
    if isinstance(content, str) and (known := tokenizer.token_to_id(content)) is not None:
        found.append(known)
    ids = {each for each in found if type(each) is int and each >= 0}
    if wrong := [each for each in found if type(each) is not int or each < 0]:
        raise BadModel(f"{folder}: eos_token_id holds what is no id: {wrong}")
    return tuple(sorted(ids))


def _read(path: Path) -> dict[str, Any]:
    """Return a file's JSON object; empty where there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadModel(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise BadModel(f"{path}: a JSON object was expected")
    return value
