"""What every test can ask for: its size, a place for its figures, an environment without settings.

One option, `--size short|long`, sizes the whole suite: properties read it through hypothesis'
profile, other tests through the `size` fixture. Knows nothing of Tandem's own modules.
"""

import os
from collections.abc import Callable

import hypothesis
import pytest

from tests.support.results import Figure, Recorder
from tests.support.size import Size

# Of this process and all it starts. Where anything else wants a core, several threads of one small
# product wait for each other longer than they compute.
os.environ["OMP_NUM_THREADS"] = "1"

hypothesis.settings.register_profile(
    Size.SHORT, derandomize=True, max_examples=30, deadline=None, database=None
)
hypothesis.settings.register_profile(
    Size.LONG, derandomize=True, max_examples=1000, deadline=None, database=None
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tandem")
    group.addoption(
        "--size",
        type=Size,
        choices=list(Size),
        default=Size.SHORT,
        help="how much of every property to try; long also writes tests/results/latest.json",
    )
    group.addoption(
        "--fresh",
        action="store_true",
        help="with --size long: run again what already passed at this revision",
    )


def pytest_configure(config: pytest.Config) -> None:
    size: Size = config.getoption("--size")
    hypothesis.settings.load_profile(size)
    recorder = Recorder(
        config.rootpath, keep=size is Size.LONG, fresh=bool(config.getoption("--fresh"))
    )
    config.pluginmanager.register(recorder, "tandem-results")


@pytest.fixture(scope="session")
def size(pytestconfig: pytest.Config) -> Size:
    """The size this run was asked for: `size.pick(short=100, long=10_000)`."""
    chosen: Size = pytestconfig.getoption("--size")
    return chosen


@pytest.fixture
def record_figure(record_property: Callable[[str, object], None]) -> Callable[[str, Figure], None]:
    """Keep a measured figure of this test: shown after the run, kept in a long run's results."""

    def record(name: str, value: Figure) -> None:
        record_property(name, value)

    return record


@pytest.fixture(autouse=True)
def _environment_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TANDEM_")]:
        monkeypatch.delenv(name)
