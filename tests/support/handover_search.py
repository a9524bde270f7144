"""Visits every state of `handover_model`, breadth first, as a model checker does."""

from collections import deque

from tests.support.handover_model import Model
from tests.support.handover_state import REPLICAS, Block, Broken, Faults, Rules, State


def explore(rules: Rules, faults: Faults) -> tuple[int, list[str]]:
    """Visit every state; returns how many there are, and the shortest way to one that breaks an
    invariant (empty: there is none), with what is broken as its last line.
    """
    durable = not (faults.aways or faults.losses)
    model, start = Model(rules, faults, durable), State()
    before: dict[State, tuple[State, str] | None] = {start: None}
    finishing: dict[object, bool] = {}
    left = deque([start])
    while left:
        state = left.popleft()
        try:
            for told, following in model.steps(state):
                after = model.normal(following)
                if after not in before:
                    before[after] = (state, told)
                    left.append(after)
            key = (state.edge._replace(past=frozenset(), life=0), state.replicas, state.record)
            if key not in finishing:
                finishing[key] = all(finishes(model, state, at) for at in REPLICAS)
                if not finishing[key]:
                    raise Broken("the text is not finished, even if nothing fails any more")
        except Broken as broken:
            return len(before), [*_way(before, state), f"broken: {broken}"]
    return len(before), []


def finishes(model: Model, state: State, first: int) -> bool:
    """Whether the text is finished from here when nothing fails any more, with the edge at
    replica `first`; where it moves, it goes to the other one.
    """
    calm = Model(model.rules, Faults(model.faults.tokens, 99, 99), model.durable)
    edge, at = state.edge, first
    state = state._replace(blocks=frozenset(), used=(0,) * 7)
    for place in REPLICAS:  # whoever is at work ends it, and is not heard
        while state.replicas[place].job is not None:
            _, state = next(calm.save(state, place))
    for _ in range(4 * model.faults.tokens + 8):
        edge = state.edge
        if edge.failed or len(edge.held) >= model.faults.tokens:
            break
        block = Block(edge.revision, edge.sequence + 1, edge.held, edge.life)
        state = state._replace(edge=edge._replace(sequence=block.sequence), answers=frozenset())
        _, state = next(calm.receive(state, at, block))
        while state.replicas[at].job is not None:
            _, state = next(calm.save(state, at))
        for answer in state.answers:
            state = calm.hear(state, answer)
        if state.edge.revision != edge.revision:
            at = 1 - at
    return len(state.edge.held) >= model.faults.tokens


def _way(before: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    way: list[str] = []
    while (came := before[state]) is not None:
        state, told = came
        way.append(told)
    return way[::-1]
