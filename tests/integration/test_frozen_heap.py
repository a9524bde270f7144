"""Model, libraries and application are out of the garbage collector's rounds before a service is
ready.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.reference import bundles
from tests.support.services import ROOT, free_port

# The service's own start, telling what the collector goes through at two moments of it.
STARTING = """
import gc, json, os, signal
from services.{side}.main import create_app
from services.{side}.settings import Settings
from shared import environment
from shared.web import serving

settings = environment.read(Settings)

def tell(moment, model):
    model_seen = any(each is model for each in gc.get_objects())
    print(json.dumps([moment, gc.get_freeze_count(), len(gc.get_objects()), model_seen]))

def application(model, lifecycle):
    app = create_app(settings, model, lifecycle)
    tell("loaded", model)

    async def starting(scope, receive, send):
        tell("starting", model)
        os.kill(os.getpid(), signal.SIGTERM)
        await app(scope, receive, send)

    return starting

serving.run(settings, application)
"""


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_the_heap_is_frozen_after_the_model_is_loaded_and_before_the_service_is_ready(
    side: str,
) -> None:
    prefix = f"TANDEM_{side.upper()}_"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TANDEM_")}
    environment |= {
        f"{prefix}BUNDLE": str(Path(getattr(bundles(), side))),
        f"{prefix}PORT": str(free_port()),
    }
    ended = subprocess.run(
        [sys.executable, "-c", STARTING.format(side=side)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=True,
    )
    loaded, starting = map(json.loads, ended.stdout.splitlines())
    assert loaded[:2] == ["loaded", 0]
    assert loaded[3]
    assert starting[0] == "starting"
    assert starting[1] > loaded[2] * 0.8
    assert starting[2] < loaded[2] * 0.05
    assert not starting[3]
