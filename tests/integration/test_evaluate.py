"""Settings asked of a running pair: what the table says of them is what modes promise."""

import pytest

from cli.edge import connect
from cli.evaluate.modes import Asker
from cli.evaluate.settings import setting
from cli.full_model import FullModel
from tests.support.prompts import prompts
from tests.support.reference import MODEL, text
from tests.support.services import Services
from training.evaluation.assessment import Assessment, assess
from training.evaluation.reading import Reader
from training.text.documents import Document

TOKENS = 8


@pytest.fixture(scope="module")
def found() -> Assessment:
    """Two prompts, answered by the full model apart from the services."""
    rows = [
        Document(line=number, prompt=prompt, reference="a silver key")
        for number, prompt in enumerate(prompts(text(), 2, length=24), start=1)
    ]
    return assess(
        Reader(MODEL),
        rows,
        agreement=None,
        longest=64,
        new_tokens=TOKENS,
        scored_tokens=1,
        progress=lambda *_: None,
    )


def test_modes_that_promise_the_full_models_text_give_it(
    services: Services, found: Assessment
) -> None:
    with connect(services.edge.url) as client:
        asker = Asker(client, FullModel(MODEL), found.prompts, found.answers, tokens=TOKENS)
        whole, split, alone = (
            asker.row(setting(name), lambda *_: None)
            for name in ("cloud", "split, fp32", "standalone")
        )
    tokens = sum(len(answer.ids) for answer in found.answers)
    for row in (whole, split):
        assert (row.identical, row.agreeing, row.to_full) == (2, tokens, 1.0)
        assert row.sources == {"cloud": tokens}
        assert row.to_reference is not None
    assert (whole.requests, split.requests) == (2, tokens)
    assert alone.requests == alone.bytes_up == alone.sources["cloud"] == 0
    assert alone.agreeing < alone.tokens
