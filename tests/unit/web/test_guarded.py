"""What the guarded protocol relies on inside uvicorn."""

import hashlib
import inspect

import uvicorn
from uvicorn.protocols.http import flow_control, httptools_impl

# Read these again before a new digest is written here: `GuardedProtocol` overrides or sets
# `on_header`, `on_url`, `data_received`, `cycle.keep_alive`, `cycle.transport`, `pipeline`,
# `_start_asgi_task`, and the order in which an answer's end closes, tells and starts the next.
READ = {
    "HttpToolsProtocol": "18fdf324b11bf160",
    "RequestResponseCycle": "e67d470d435dcc1c",
    "FlowControl": "126debcdaa894c83",
}


def test_uvicorn_is_as_the_protocol_knows_it() -> None:
    found = {
        each.__name__: hashlib.sha256(inspect.getsource(each).encode()).hexdigest()[:16]
        for each in (
            httptools_impl.HttpToolsProtocol,
            httptools_impl.RequestResponseCycle,
            flow_control.FlowControl,
        )
    }
    assert found == READ, f"uvicorn {uvicorn.__version__} changed what shared.web.guarded builds on"
