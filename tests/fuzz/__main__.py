"""Lets atheris look for inputs that reach new code: `python -m tests.fuzz TARGET --runs N`.

It needs the extra `fuzz`. What it finds is kept in `tests/fuzz/corpus/TARGET`, one file for each
input that reached what none before it had; `--merge` drops those that reach nothing of their own.
A failing input is left in the working directory as `crash-…`.
"""

import argparse
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=[
        "shared.protocol",
        "shared.quantization",
        "shared.access",
        "shared.web.strict_json",
        "services.cloud.contexts",
        "services.cloud.welcome",
        "services.edge.reply",
        "services.edge.resuming",
        "tomllib",
        "json",
    ]
):
    from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Run one target, or merge a folder's inputs into its corpus."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=0, help="stop after so many; 0: never")
    parser.add_argument("--merge", type=Path, metavar="FOLDER", help="where the inputs are")
    asked = parser.parse_args()
    target, folder = TARGETS[asked.target], CORPUS / asked.target
    folder.mkdir(parents=True, exist_ok=True)
    options = [
        "-timeout=5",
        "-rss_limit_mb=2048",
        "-max_len=4096",
        f"-artifact_prefix={Path.cwd()}/",
    ]
    if asked.merge:
        options += ["-merge=1", str(folder), str(asked.merge)]
    else:
        for number, seed in enumerate(target.seeds()):
            (folder / f"seed-{number}").write_bytes(seed)
        options += [f"-runs={asked.runs}", f"-max_total_time={asked.seconds}", str(folder)]
    atheris.Setup([sys.argv[0], *options], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
