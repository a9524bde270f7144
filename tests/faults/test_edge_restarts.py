"""An edge killed in mid-answer: who asks the next one the same under the same `X-Session-ID` gets
the text of the run that nothing happened to, though no seed was named.
"""

from itertools import product

from tests.faults.client import tell
from tests.faults.conftest import StackOf
from tests.faults.moments import Moment, Seen
from tests.faults.stack import Plan
from tests.faults.wishes import CHOICES, WAYS, wish
from tests.support.size import Size
from tests.support.wishes import Wish, require_same


def test_an_edge_killed_and_asked_again(stack_of: StackOf, size: Size) -> None:
    stack = stack_of(Plan())
    cases = list(product(WAYS, CHOICES))[:: size.pick(short=3, long=1)]
    for number, (way, choice) in enumerate(cases):
        stack.restore()
        given = wish(way, choice)
        asked = Wish(given.prompt, {k: v for k, v in given.parameters.items() if k != "seed"})
        headers = {"X-Session-ID": f"conversation-{number}"}
        whole = tell(stack.edge.url, asked, headers)
        assert whole.error is None, (way, choice, whole.error)
        seeded = Wish(asked.prompt, {**asked.parameters, "seed": whole.details["seed"]})

        def kill(seen: Seen) -> None:
            if seen.moment is Moment.DECIDED and seen.token >= 6:
                stack.proxy.hook = None
                stack.edge.kill()

        stack.proxy.forget()
        stack.proxy.hook = kill
        broken = tell(stack.edge.url, asked, headers)
        assert broken.error is not None, f"{way}, {choice}: the edge was not killed"
        assert broken.ids == whole.ids[: len(broken.ids)]
        stack.revive_edge()
        again = tell(stack.edge.url, asked, headers)
        assert again.error is None, (way, choice, again.error)
        assert again.details["seed"] == whole.details["seed"]
        require_same(seeded, whole.answer, again.answer)
