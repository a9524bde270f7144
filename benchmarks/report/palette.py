"""How a deployment is drawn: one look everywhere, told apart without seeing colours as most do.

Colours are of Okabe and Ito's and Tol's palettes; every line has a marker of its own as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle


@dataclass(frozen=True, slots=True)
class Look:
    """Colour and marker as matplotlib names them, width in points, and whether a line is dashed."""

    colour: str
    marker: str
    width: float = 1.6
    dashed: bool = False


# A family reads as one: of CE-CoLLM blue, lighter with the threshold, of verified mode purple.
_KNOWN: Mapping[str, Look] = {
    "cloud-only": Look("#000000", "o", width=3.0),
    "naive split": Look("#8C8C8C", "X"),
    "fair split": Look("#E69F00", "s"),
    "standalone": Look("#009E73", "D"),
    "CE-CoLLM 0.7": Look("#08306B", "v"),
    "CE-CoLLM 0.8": Look("#2171B5", "^"),
    "CE-CoLLM 0.9": Look("#6BAED6", "<"),
    "CE-CoLLM 1.0": Look("#9ECAE1", ">"),
    "CE-CoLLM 49.6%": Look("#882255", "p"),
    "CE-CoLLM 49.6%, half": Look("#CC79A7", "P", dashed=True),
    "collaborative": Look("#D55E00", "*", width=2.4),
    "self-speculation": Look("#7A4B2A", "$s$", width=2.4),
    "verified": Look("#B5179E", "h", width=2.8),
    "verified, quarter": Look("#7209B7", "d", dashed=True),
    "verified, fastest": Look("#4B2E83", "8", dashed=True),
    "verified, ids": Look("#E07BD0", "H", dashed=True),
    "verified, blocks": Look("#9A7AA0", "$b$", dashed=True),
}
_FURTHER_COLOURS = (
    "#661100", "#999933", "#AA4499", "#117733", "#56B4E9", "#B8860B", "#CC3311", "#004488",
    "#BBCC33", "#EE8866", "#DDAA33", "#FF99CC", "#225555",
)  # fmt: skip
_FURTHER_MARKERS = (
    "$a$", "$c$", "$e$", "$r$", "$+$", "$o$", "$x$", "$v$", "$n$", "$u$", "$z$", "$=$", "$w$",
)  # fmt: skip


def looks(names: Sequence[str]) -> Mapping[str, Look]:
    """A look for each deployment; those not known here get the further ones in the order given.

    Args:
        names: every deployment of a page: the same names in the same order give the same looks.
    """
    further = zip(cycle(_FURTHER_COLOURS), cycle(_FURTHER_MARKERS), strict=False)
    unknown = [name for name in dict.fromkeys(names) if name not in _KNOWN]
    made = {
        name: Look(colour, marker, dashed=True)
        for name, (colour, marker) in zip(unknown, further, strict=False)
    }
    return {name: _KNOWN.get(name) or made[name] for name in names}
