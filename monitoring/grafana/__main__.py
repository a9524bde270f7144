"""Writes the dashboards' JSON files; a test holds that they are what this writes."""

import json
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from monitoring.grafana.cloud import cloud
from monitoring.grafana.fleet import fleet
from monitoring.grafana.overview import overview

FOLDER = Path(__file__).parent / "dashboards"


def written(dashboard: Dashboard) -> str:
    """A dashboard's JSON, as its file holds it."""
    return json.dumps(dashboard.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def files() -> dict[Path, str]:
    """Every file with what belongs into it."""
    boards = {"overview": overview(), "fleet": fleet(), "cloud": cloud()}
    return {FOLDER / f"{name}.json": written(board) for name, board in boards.items()}


if __name__ == "__main__":
    for file, text in files().items():
        file.write_text(text)
