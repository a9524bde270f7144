"""A request's tokens as the edge holds them: prompt, output, their fold, and why they ended.

Knows neither text (who finds a stop string calls `finish`) nor who chose a token.
"""

from collections.abc import Iterable
from typing import Literal, TypeAlias

from shared.decoding.sampling import PrefixState

FinishReason: TypeAlias = Literal["length", "eos_token", "stop_sequence"]


class Sequence:
    """Prompt and output of one request.

    Attributes:
        ids: every token, the prompt's first.
        prompt_tokens: how many of them are the prompt's.
        prefix: fold over `ids`.
        finish_reason: why no token may follow; `None` while one may.

    Raises:
        ValueError: there is no prompt, or no token may ever follow it.
    """

    def __init__(
        self, prompt_ids: Iterable[int], *, max_new_tokens: int, eos_ids: Iterable[int]
    ) -> None:
        self.ids = list(prompt_ids)
        if not self.ids:
            raise ValueError("the prompt has no tokens; allowed: 1 or more")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; allowed: 1 or more")
        self.prompt_tokens = len(self.ids)
        self.prefix = self._prompt = PrefixState.start(self.ids)
        self.finish_reason: FinishReason | None = None
        self._eos_ids = frozenset(eos_ids)
        self._end = self.prompt_tokens + max_new_tokens

    @property
    def generated(self) -> list[int]:
        """The output so far."""
        return self.ids[self.prompt_tokens :]

    @property
    def tokens_left(self) -> int:
        """How many tokens may still follow."""
        return 0 if self.finished else self._end - len(self.ids)

    @property
    def finished(self) -> bool:
        """Whether no token may follow."""
        return self.finish_reason is not None

    def append(self, token: int) -> None:
        """Add a generated token; one that ends the text does so even as the last one allowed."""
        assert not self.finished, f"token {token} after the end ({self.finish_reason})"
        self.ids.append(token)
        self.prefix = self.prefix.advance(token)
        if token in self._eos_ids:
            self.finish_reason = "eos_token"
        elif len(self.ids) == self._end:
            self.finish_reason = "length"

    def truncate(self, end: int) -> None:
        """Drop every token at positions >= `end`, which is not in the prompt; more may follow."""
        assert self.prompt_tokens <= end, (end, self.prompt_tokens)
        del self.ids[end:]
        self.prefix = self._prompt
        for token in self.generated:
            self.prefix = self.prefix.advance(token)
        self.finish_reason = None

    def finish(self, reason: FinishReason) -> None:
        """End the sequence for a reason its ids do not show; it stands above one they do."""
        self.finish_reason = reason
