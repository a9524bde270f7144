"""Fixtures of the services as real processes, and their logs beside every failure."""

from collections.abc import Generator, Iterator

import pytest

from tests.support.services import Services, new_services

SHARED = pytest.StashKey[Services]()


@pytest.fixture(scope="session")
def services(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Services]:
    """An edge and its cloud, running and reachable, for as many tests as can share them.

    The edge notices a returning cloud fast, but takes none for lost that stumbles for a second or
    two. Both must leave with exit code 0.
    """
    pair = new_services(
        tmp_path_factory.mktemp("services"),
        probe_seconds="3",
        first_pause_seconds="0.1",
        longest_pause_seconds="0.5",
    )
    pytestconfig.stash[SHARED] = pair
    try:
        pair.start()
        yield pair
        assert pair.edge.stop() == 0, pair.edge.tail()
        assert pair.cloud.stop() == 0, pair.cloud.tail()
    finally:
        pair.edge.abandon()
        pair.cloud.abandon()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    pair = item.config.stash.get(SHARED, None)
    if report.failed and pair is not None:
        report.sections += pair.tails()
    return report
