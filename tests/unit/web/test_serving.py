"""Listening: on the port asked for, or an end that says which one is taken."""

import socket
from contextlib import closing

import pytest

from shared.web.serving import listen


def test_a_port_that_is_taken_is_named_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            listen("127.0.0.1", port)
    told = str(ended.value)
    assert told.startswith(f"cannot start: cannot listen on 127.0.0.1 port {port}: the port is tak")
    assert "choose another" in told


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_this_machine_does_not_have_is_named(host: str) -> None:
    with pytest.raises(SystemExit, match=f"cannot listen on {host} port 0: "):
        listen(host, 0)


def test_port_0_is_a_free_one_and_takes_connections() -> None:
    (listening,) = listen("127.0.0.1", 0)
    with closing(listening):
        assert listening.getsockname()[1] > 0
        socket.create_connection(listening.getsockname()).close()
