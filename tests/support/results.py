"""Records what each test did and the figures it measured, and lets a long run resume.

A long run rewrites `tests/results/latest.json` after every test, so an interrupted run loses one
test at most; started again at the same revision it skips what passed. The revision is the commit
and, where the tree differs from it, a digest of the difference: no result of other code is reused.
Knows nothing of what the tests test.
"""

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

Scalar = int | float | str | bool
Figure = Scalar | list[Scalar]

RESULTS = Path("tests/results/latest.json")
SEVERITY = {"passed": 0, "skipped": 1, "failed": 2}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test ended: `passed`, `failed` or `skipped`, after `seconds` with set-up."""

    outcome: str
    seconds: float
    figures: dict[str, Figure] = field(default_factory=dict)


def _git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(("git", *arguments), cwd=root, capture_output=True, check=True).stdout


def revision(root: Path) -> str | None:
    """The commit of `root`, `+digest` where the tree differs from it; None outside a repository."""
    outside_results = ("--", ".", f":!{RESULTS.parent}")
    try:
        commit = _git(root, "rev-parse", "HEAD").decode().strip()
        difference = _git(root, "diff", "HEAD", *outside_results)
        unknown = _git(root, "ls-files", "-z", "--others", "--exclude-standard", *outside_results)
    except (OSError, subprocess.CalledProcessError):
        return None
    digest = hashlib.sha256(difference)
    for name in filter(None, unknown.split(b"\0")):
        digest.update(name + b"\0" + (root / name.decode()).read_bytes())
    return f"{commit}+{digest.hexdigest()[:12]}" if difference or unknown else commit


class Recorder:
    """A pytest plugin; `keep` writes the results file, `fresh` ignores what it already holds."""

    def __init__(self, root: Path, *, keep: bool, fresh: bool) -> None:
        self._path = root / RESULTS
        self._revision = revision(root)
        self._keep = keep
        self._earlier = dict(self._passed_before()) if keep and not fresh else {}
        self._ran: dict[str, Outcome] = {}

    def _passed_before(self) -> Iterator[tuple[str, Outcome]]:
        if self._revision is None or not self._path.exists():
            return
        written = json.loads(self._path.read_text())
        if written["commit"] == self._revision:
            for test, entry in written["tests"].items():
                if entry["outcome"] == "passed":
                    yield test, Outcome(**entry)

    def pytest_report_header(self) -> str | None:
        if not self._earlier:
            return None
        return f"resuming: {len(self._earlier)} tests passed at {self._revision} (--fresh runs all)"

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        done = [item for item in items if item.nodeid in self._earlier]
        if done:
            config.hook.pytest_deselected(items=done)
            items[:] = [item for item in items if item.nodeid not in self._earlier]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        before = self._ran.get(report.nodeid, Outcome("passed", 0.0))
        self._ran[report.nodeid] = Outcome(
            max(before.outcome, report.outcome, key=SEVERITY.__getitem__),
            round(before.seconds + report.duration, 3),
            # record_figure is the one writer of properties, and takes nothing but figures
            dict(report.user_properties),  # type: ignore[arg-type]
        )
        if self._keep and report.when == "teardown":
            self._write()

    def _write(self) -> None:
        tests = self._earlier | self._ran
        results = {
            "commit": self._revision,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "size": "long",
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "tests": {test: asdict(tests[test]) for test in sorted(tests)},
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=1) + "\n")
        partial.replace(self._path)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._earlier and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK  # all of them passed in an earlier run

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        measured = {test: done.figures for test, done in self._ran.items() if done.figures}
        if measured:
            terminalreporter.section("figures")
        for test, figures in measured.items():
            terminalreporter.line(f"{test}: " + ", ".join(f"{k}={v}" for k, v in figures.items()))
