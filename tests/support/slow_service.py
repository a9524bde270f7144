"""`python -m tests.support.slow_service edge|cloud`: a service each of whose steps takes some time
more, so that what happens within a step can be told from what happens after it.
"""

import sys
import time
from importlib import import_module
from typing import Any

from fastapi import FastAPI

from shared import environment
from shared.model import SpanModel
from shared.runtime.lifecycle import Lifecycle
from shared.web import serving

STEP_SECONDS = 0.1


def main(role: str) -> None:
    """Serve until SIGTERM."""
    service = import_module(f"services.{role}.main")
    settings = environment.read(import_module(f"services.{role}.settings").Settings)

    def application(model: SpanModel, lifecycle: Lifecycle) -> FastAPI:
        app: FastAPI = service.create_app(settings, model, lifecycle)
        forward = model.forward

        def slow(*given: Any) -> Any:
            time.sleep(STEP_SECONDS)
            return forward(*given)

        model.forward = slow  # type: ignore[method-assign,assignment]
        return app

    serving.run(settings, application)


if __name__ == "__main__":
    main(sys.argv[1])
