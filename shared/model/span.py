"""Which layers a machine holds, and the sizes of the model they were cut from.

Layers are numbered as in the whole model everywhere. Knows nothing of weights.
"""

from dataclasses import dataclass

from optimum.utils.normalized_config import NormalizedTextConfigWithGQA
from transformers import PreTrainedConfig


@dataclass(frozen=True, slots=True)
class LayerSpan:
    """Layers [start, stop) of a model of `depth` layers: 0 <= start < stop <= depth.

    Raises:
        ValueError: the numbers are not so ordered.
    """

    start: int
    stop: int
    depth: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= self.depth:
            raise ValueError(f"[{self.start}, {self.stop}) is no span of {self.depth} layers")

    @property
    def layers(self) -> range:
        """The layers held, rising."""
        return range(self.start, self.stop)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of the whole model: layers, hidden size H, query and KV heads, head_dim D, vocabulary
    V, and how many positions it was made for.
    """

    depth: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "ModelShape":
        """Read the sizes of any family's text configuration."""
        sizes = NormalizedTextConfigWithGQA(config)
        # Families differ in whether head_dim is a field at all, and in whether it may be None.
        head_dim = getattr(config, "head_dim", None)
        return cls(
            depth=sizes.num_layers,
            hidden=sizes.hidden_size,
            heads=sizes.num_attention_heads,
            kv_heads=sizes.num_key_value_heads,
            head_dim=head_dim or sizes.hidden_size // sizes.num_attention_heads,
            vocab=sizes.vocab_size,
            max_positions=sizes.max_position_embeddings,
        )
