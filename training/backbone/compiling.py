"""The model's layers and its losses through torch's compiler: a step reads memory less often.

Every length of window is compiled once, in minutes; the results differ from the uncompiled ones by
rounding. It knows the model's form, not what is trained.
"""

import shutil
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
import torch._dynamo

from training.backbone.model import EarlyExitLlama

P = ParamSpec("P")
R = TypeVar("R")

# Layers are one piece of code to the compiler, which may keep a version for each and each length.
_VERSIONS = 256


def can_compile() -> bool:
    """Whether there is a C++ compiler, which torch's needs on a CPU."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def compile_model(model: EarlyExitLlama, losses: Callable[P, R]) -> Callable[P, R]:
    """Compile the layers of `model` in place, and return `losses` compiled."""
    torch._dynamo.config.cache_size_limit = _VERSIONS
    for layer in model.llama.model.layers:
        layer.compile(dynamic=False)
    return torch.compile(losses, dynamic=False)
