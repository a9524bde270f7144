"""An edge has a name: the one it is given, or its machine's."""

import socket

import pytest

from tests.support.apps import edge_client


@pytest.mark.parametrize(
    ("given", "name"), [("shop-7", "shop-7"), ("", socket.gethostname())], ids=["given", "host's"]
)
async def test_an_edge_tells_its_name(given: str, name: str) -> None:
    async with edge_client("", name=given) as edge:
        assert (await edge.get("/readyz")).json()["name"] == name
        build = (await edge.get("/metrics")).text.partition("tandem_build_info{")[2]
        assert f'name="{name}"' in build.partition("}")[0]
