"""Watches an engine's steps, and makes them take long with a kernel that computes as a large
model's would.
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch


@dataclass(frozen=True, slots=True)
class Steps:
    """(began, ended) of the steps so far, in monotonic seconds; a step under way ends at infinity.

    `begun` is set when the first one begins.
    """

    spans: list[tuple[float, float]] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)


@contextmanager
def watched(engine: type, *, slowed_by: float = 0.0) -> Iterator["Steps"]:
    """Every step of this class of engine is noted, and computes for `slowed_by` seconds more."""
    steps = Steps()
    original: Any = engine.__dict__["step"]

    def step(self: Any, batch: Any) -> Any:
        began = time.monotonic()
        steps.spans.append((began, math.inf))
        steps.begun.set()
        matrix = torch.randn(512, 512)
        while time.monotonic() < began + slowed_by:
            matrix = (matrix @ matrix).clamp(-1, 1)
        outcome = original(self, batch)
        steps.spans[-1] = (began, time.monotonic())
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "step", step)
        yield steps
