"""Weights to begin with: those of an exported checkpoint, its exits' norms and its tokenizer.

It reads what `training.backbone.export` wrote; optimisers start anew, so a run that was stopped is
resumed from its own checkpoint instead.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from shared.model.checkpoint import read_checkpoint
from shared.model.exits import WEIGHTS
from shared.model.fingerprint import fingerprint
from training.backbone.model import EarlyExitLlama
from training.config import ModelSize


@dataclass(frozen=True, slots=True)
class Start:
    """What a run begins with; `tokens` is how many it had been trained on in all its runs."""

    folder: Path
    size: ModelSize
    fingerprint: str
    tokens: int

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read an exported folder.

        Raises FileNotFoundError when it holds no `training.json`, ValueError when its sizes are no
        model's, BadModel when it is no checkpoint.
        """
        training = json.loads((folder / "training.json").read_text())
        size = training["config"]["size"]
        before = training.get("started_from") or {"tokens": 0}
        return cls(
            folder,
            ModelSize(**{**size, "exits": tuple(size["exits"])}),
            fingerprint(folder, read_checkpoint(folder)),
            training["tokens"] + before["tokens"],
        )

    def load_into(self, model: EarlyExitLlama) -> None:
        """Give `model` these weights, in float32.

        Raises RuntimeError when it is of another size, ValueError where its exits are not of the
        kind a run trains.
        """
        saved: Any = LlamaForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        model.llama.load_state_dict(saved.state_dict())
        learned = load_file(self.folder / WEIGHTS)
        if any(".norm." not in name for name in learned):
            raise ValueError(
                f"the exits of {self.folder} were taught afterwards and have translators; a run "
                "goes on from exits that were trained with the model"
            )
        norms = {
            name.removeprefix("exits.").replace(".norm.", "."): weight.float()
            for name, weight in learned.items()
        }
        model.exit_norms.load_state_dict(norms)

    def provenance(self) -> dict[str, Any]:
        """What `training.json` says of it."""
        return {
            "name": self.folder.resolve().name,
            "model_fingerprint": self.fingerprint,
            "tokens": self.tokens,
        }
