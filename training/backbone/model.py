"""The model while it is trained: transformers' own Llama layers, walked one by one.

Walking them here gives two things `LlamaModel.forward` does not: the states that enter the exits'
layers, and layers that are skipped row by row. What is trained is saved as an ordinary
`LlamaForCausalLM`; this module does not know losses, data or files.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from training.config import ModelSize

# On a CPU, plain matrix products are faster than the fused kernel up to here (measured: 3,160
# against 2,680 tokens/s at 256 positions, 1,830 against 2,440 at 512).
_EAGER_POSITIONS = 256


def llama_config(size: ModelSize, *, begin: int, end: int, pad: int) -> LlamaConfig:
    """The Hugging Face configuration of this size; the marks are token ids."""
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.hidden // size.heads,
        max_position_embeddings=size.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": size.rope_theta},
        tie_word_embeddings=True,
        bos_token_id=begin,
        eos_token_id=end,
        pad_token_id=pad,
    )
    config._attn_implementation = "sdpa"
    return config


class EarlyExitLlama(nn.Module):
    """A Llama with a norm per exit; every exit shares the unembedding with the end."""

    def __init__(self, config: LlamaConfig, exits: tuple[int, ...]) -> None:
        super().__init__()
        self.llama = LlamaForCausalLM(config)
        self.depth: int = config.num_hidden_layers
        self.exit_norms = nn.ModuleDict(
            {
                str(layer): LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
                for layer in exits
            }
        )

    @property
    def exits(self) -> tuple[int, ...]:
        """Layers in front of which there is an exit, rising."""
        return tuple(int(layer) for layer in self.exit_norms)

    def forward(
        self, ids: Tensor, passing: Mapping[int, Tensor] | None = None
    ) -> dict[int, Tensor]:
        """Return normed states [B, T, H] at every exit and, under the key `depth`, at the end.

        ids [B, T] int64. `passing` maps a layer to the rows (int64 indices into B) that pass
        through it; rows not named skip it, and a layer not named is passed by all.
        """
        inner = self.llama.model
        self._choose_attention(ids)
        states = inner.embed_tokens(ids)
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        rotary = inner.rotary_emb(states, position_ids=positions)
        mask = self._mask(ids)
        normed: dict[int, Tensor] = {}
        for number, layer in enumerate(inner.layers):
            if str(number) in self.exit_norms:
                normed[number] = self.exit_norms[str(number)](states)
            rows = None if passing is None else passing.get(number)
            if rows is None:
                states = layer(states, attention_mask=mask, position_embeddings=rotary)
            elif len(rows):
                passed = layer(states[rows], attention_mask=mask, position_embeddings=rotary)
                states = states.index_copy(0, rows, passed)
        normed[self.depth] = inner.norm(states)
        return normed

    def logits(self, normed: Tensor) -> Tensor:
        """Unembed normed states [..., H] to [..., V], in the dtype of the matrix product."""
        return self.llama.lm_head(normed)  # type: ignore[no-any-return]

    def _eager(self, ids: Tensor) -> bool:
        return ids.device.type == "cpu" and ids.shape[1] <= _EAGER_POSITIONS

    def _choose_attention(self, ids: Tensor) -> None:
        wanted = "eager" if self._eager(ids) else "sdpa"
        if self.llama.config._attn_implementation != wanted:
            self.llama.set_attn_implementation(wanted)

    def _mask(self, ids: Tensor) -> Tensor | None:
        # The fused kernel is causal when it is given no mask; the plain product is not.
        if not self._eager(ids):
            return None
        length = ids.shape[1]
        blocked = torch.full((length, length), float("-inf"), device=ids.device)
        return torch.triu(blocked, diagonal=1)[None, None]
