"""What the lean layers take for granted of transformers, whose internals move between minors.

When one of these fails, read the decoder layers of the new version before anything else.
"""

import inspect

import pytest
import transformers

from shared.model.families import FAMILIES

MINOR = "5.23"
FIRST = ("self", "hidden_states")
ARGUMENTS = {
    "Llama": (
        "attention_mask",
        "position_ids",
        "past_key_values",
        "use_cache",
        "position_embeddings",
    ),
    "Gemma": ("position_embeddings", "attention_mask", "position_ids", "past_key_values"),
}


def test_the_minor_version_is_the_one_these_layers_were_read_in() -> None:
    assert transformers.__version__.startswith(f"{MINOR}."), (
        f"transformers is {transformers.__version__}, the decoder layers were read in {MINOR}: "
        "compare their forward with shared/model/lean.py, then change MINOR here"
    )


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_decoder_layer_takes_what_the_lean_one_was_written_from(
    architecture: str,
) -> None:
    layer = FAMILIES[architecture].layer
    expected = ARGUMENTS["Gemma" if architecture.startswith("Gemma") else "Llama"]
    parameters = inspect.signature(layer.forward).parameters
    found = tuple(parameters)
    assert found == (*FIRST, *expected, "kwargs"), f"{layer.__name__}.forward changed: {found}"
    assert parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD, "what this family passes on"


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_rotary_embedding_takes_a_layer_type_where_the_family_says_so(
    architecture: str,
) -> None:
    family = FAMILIES[architecture]
    module = inspect.getmodule(family.layer)
    prefix = architecture.removesuffix("ForCausalLM")
    rotary = getattr(module, f"{prefix}RotaryEmbedding")
    expected = ("self", "x", "position_ids", *(("layer_type",) * family.rotary_by_layer_type))
    assert tuple(inspect.signature(rotary.forward).parameters) == expected
