"""A network between edge and cloud that this machine does not have: delay, jitter, bandwidth."""

from benchmarks.network.path import Path, Shape
from benchmarks.network.proxy import Proxy

__all__ = ["Path", "Proxy", "Shape"]
