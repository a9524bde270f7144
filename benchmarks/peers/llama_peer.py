"""llama.cpp, through llama-cpp-python, on the same checkpoint as a GGUF file in float32.

One thread, CPU only, keys and values in float32 too (its default is float16). The package is
optional: without it both peers are absent, with the reason. It knows nothing of our services.
"""

import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy

from benchmarks.peers.peer import Absent, Answered, Length
from shared.errors import BadModel

CLOUD = "llama.cpp cloud"
EDGE = "llama.cpp edge"
INSTALL = "pip install 'llama-cpp-python>=0.3.36,<0.4' 'gguf>=0.19,<0.20'"


@dataclass(frozen=True, slots=True)
class LlamaPeer:
    """A loaded engine under a name and on a core.

    Args:
        package: the imported `llama_cpp`.
        engine: a `llama_cpp.Llama`.
    """

    name: str
    core: int
    package: Any
    engine: Any

    def answer(self, ids: Sequence[int], length: Length) -> Answered:
        """Go on from the prompt `ids` greedily."""
        self.engine.reset()
        tokens: list[int] = []
        arrivals: list[float] = []
        began = time.perf_counter()
        new = list(ids)
        while len(tokens) < length.new_tokens:
            self.engine.eval(new)
            token = self._best(without=length.eos_ids if length.exactly else ())
            arrivals.append(time.perf_counter())
            tokens.append(token)
            new = [token]
            if token in length.eos_ids:
                break
        return Answered.of(tokens, began, arrivals)

    def _best(self, *, without: Sequence[int]) -> int:
        """The likeliest next token, the lowest id among equals."""
        held = self.package.llama_get_logits_ith(self.engine.ctx, -1)
        logits = numpy.ctypeslib.as_array(held, shape=(self.engine.n_vocab(),))
        logits[list(without)] = -numpy.inf  # llama.cpp's own buffer, written anew by every step
        return int(logits.argmax())


@contextmanager
def load(
    folder: Path, *, core: int, edge_core: int, context: int
) -> Iterator[list[LlamaPeer | Absent]]:
    """Both peers, on one engine for texts of up to `context` tokens; closed at the end of the
    block. Where that is not possible, both are absent.
    """
    with TemporaryDirectory(prefix="tandem-gguf-") as name:
        loaded = _loaded(folder, Path(name) / "model.gguf", context)
        if isinstance(loaded, str):
            yield [Absent(CLOUD, loaded), Absent(EDGE, loaded)]
            return
        package, engine = loaded
        with closing(engine):
            yield [
                LlamaPeer(CLOUD, core, package, engine),
                LlamaPeer(EDGE, edge_core, package, engine),
            ]


def _loaded(folder: Path, path: Path, context: int) -> tuple[Any, Any] | str:
    """The package and an engine on the checkpoint, written to `path`; or why there is none."""
    try:
        package = importlib.import_module("llama_cpp")
        gguf_file = importlib.import_module("benchmarks.peers.gguf_file")
    # A shared library built for another machine is a RuntimeError or an OSError.
    except (ImportError, OSError, RuntimeError) as error:
        return f"it cannot be imported ({error}); to have it: {INSTALL}"
    try:
        gguf_file.write_gguf(folder, path)
        return package, _engine(package, path, context)
    except (BadModel, OSError, ValueError) as error:
        return f"it cannot run {folder}: {error}"


def _engine(package: Any, path: Path, context: int) -> Any:
    return package.Llama(
        str(path),
        n_ctx=context,
        n_threads=1,
        n_threads_batch=1,
        n_gpu_layers=0,
        type_k=package.GGML_TYPE_F32,
        type_v=package.GGML_TYPE_F32,
        logits_all=False,
        verbose=False,
    )
