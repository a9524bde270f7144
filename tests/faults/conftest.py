"""Stacks of real processes that scenarios share, and their logs beside every failure."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack

import pytest

from tests.faults.nursery import Nursery, nursery
from tests.faults.stack import Plan, Stack, running
from tests.support.size import Size

SHARED = pytest.StashKey[dict[Plan, Stack]]()
StackOf = Callable[[Plan], Stack]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes a `scenario` is run for each of its module's `scenarios(size)`."""
    if "scenario" in metafunc.fixturenames:
        size: Size = metafunc.config.getoption("--size")
        found = metafunc.module.scenarios(size)
        metafunc.parametrize("scenario", found.values(), ids=found)


@pytest.fixture(scope="session")
def forks() -> Iterator[Nursery]:
    """Where services are forked from."""
    with nursery() as running_nursery:
        yield running_nursery


@pytest.fixture(scope="session")
def stack_of(
    forks: Nursery, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[StackOf]:
    """The stack of a plan, started when first asked for."""
    stacks = pytestconfig.stash.setdefault(SHARED, {})
    with ExitStack() as exits:

        def started(plan: Plan) -> Stack:
            if plan not in stacks:
                folder = tmp_path_factory.mktemp("stack")
                stacks[plan] = exits.enter_context(running(plan, folder, forks))
            return stacks[plan]

        yield started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for stack in item.config.stash.get(SHARED, {}).values():
            report.sections += stack.tails()
    return report
