"""Which openings and blocks this cloud takes: the handshake's rules, pure.

An edge that does not fit is refused with every difference named, before anything is kept for it.
"""

from dataclasses import dataclass

from shared import quantization
from shared.decoding.sampling import SAMPLER_VERSION
from shared.errors import Invalid, Malformed, Mismatch
from shared.model import LayerSpan, ModelShape
from shared.protocol.messages import Block, Opening


@dataclass(frozen=True, slots=True)
class Welcome:
    """What this cloud is, as far as an edge has to fit it."""

    fingerprint: str
    span: LayerSpan
    shape: ModelShape

    @property
    def modes(self) -> tuple[str, ...]:
        """Modes served; `cloud` needs every layer here."""
        return (
            ("collaborative", "verified", "split", "cloud")
            if self.span.start == 0
            else ("collaborative", "verified", "split")
        )

    def check_opening(self, opening: Opening) -> None:
        """Refuse an opening that does not fit.

        Raises:
            Mismatch: another model, another depth or sampler, or a split below the layers held
                here.
            Invalid: a mode or a length this cloud cannot serve.
        """
        differences: dict[str, tuple[object, object]] = {}
        for name, theirs, ours in (
            ("model fingerprint", opening.fingerprint, self.fingerprint),
            ("depth", opening.depth, self.span.depth),
            ("sampler version", opening.sampler_version, SAMPLER_VERSION),
        ):
            if theirs != ours:
                differences[name] = (theirs, ours)
        if opening.mode not in self.modes:
            raise Invalid(
                f"mode {opening.mode} is not served here; allowed: {', '.join(self.modes)}",
                field="mode",
            )
        # Without a split no states travel, and every layer is run here.
        lowest = 0 if opening.mode in ("cloud", "verified") else 1
        lowest = max(lowest, self.span.start)
        highest = 0 if opening.mode == "cloud" else self.span.depth - 1
        if not lowest <= opening.split <= highest:
            differences["split"] = (opening.split, f"layers that take splits {lowest} to {highest}")
        if differences:
            raise Mismatch(differences)
        if max(opening.sampling.eos_ids, default=0) >= self.shape.vocab:
            raise Invalid(
                "an end-of-sequence id is no token of this model", field="sampling.eos_ids"
            )
        if not opening.prompt_tokens < opening.max_positions <= self.shape.max_positions:
            raise Invalid(
                f"{opening.prompt_tokens} prompt tokens and {opening.max_positions} positions "
                f"in all do not fit the model's {self.shape.max_positions}",
                field="max_positions",
            )

    def check_block(self, block: Block) -> None:
        """Refuse a block whose contents cannot be this model's, before it touches a session.

        Raises:
            Malformed: token ids beyond the vocabulary, or states that do not validate.
        """
        if any(token >= self.shape.vocab for token in block.tokens):
            raise Malformed(
                f"a token id is beyond the vocabulary of {self.shape.vocab}", code="token"
            )
        if block.states is not None:
            quantization.validate(block.states, hidden=self.shape.hidden)
