"""Partition of a Hugging Face causal LM: a span of layers, its KV caches, exits, and one ragged
forward over many sessions.

One alphabet throughout: T rows (tokens) of a step, R rows asked for, H hidden size, V vocabulary, D
head_dim. Layers are numbered as in the whole model; spans are half-open.
"""

from shared.model.bundle import load_bundle
from shared.model.cache import KVCache, Loan
from shared.model.exits import ExitInfo
from shared.model.lineage import Lineage, is_line
from shared.model.loading import load_span
from shared.model.manifest import Manifest, ManifestExit
from shared.model.masks import Tree
from shared.model.model import SpanModel
from shared.model.partition import write_bundles
from shared.model.probe import probe_tau
from shared.model.ragged import Segment, Tap
from shared.model.span import LayerSpan, ModelShape

__all__ = [
    "ExitInfo",
    "KVCache",
    "LayerSpan",
    "Lineage",
    "Loan",
    "Manifest",
    "ManifestExit",
    "ModelShape",
    "Segment",
    "SpanModel",
    "Tap",
    "Tree",
    "is_line",
    "load_bundle",
    "load_span",
    "probe_tau",
    "write_bundles",
]
