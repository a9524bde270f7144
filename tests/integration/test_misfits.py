"""Edges and clouds that do not fit refuse each other and say what differs; those that fit may
differ otherwise.
"""

import asyncio
import json
import shutil
import struct
import zlib
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from services.cloud import main as cloud_main
from shared.decoding.sampling import SAMPLER_VERSION
from shared.errors import BadModel
from shared.protocol.digest import root_digest
from shared.protocol.messages import Block, Fault, Opening, Sampling, Want
from shared.protocol.version import MEDIA_TYPE, PATH_BLOCKS, PATH_STREAM, PROTOCOL_VERSION
from shared.protocol.wire import canonical, decode, encode
from tests.support import worded_model
from tests.support.apps import (
    ask,
    client_of,
    cloud_app,
    edge_app,
    edge_client,
    ids_of,
    pair,
    running,
    sources_of,
    until_cloud_is,
)
from tests.support.reference import EDGE_DEPTH, SPLIT, bundles, loaded

HEADERS = {"content-type": MEDIA_TYPE, "accept": MEDIA_TYPE}


def opening(**changed: Any) -> Opening:
    manifest = loaded(bundles().edge).manifest
    assert manifest is not None
    given: dict[str, Any] = {
        "fingerprint": manifest.fingerprint,
        "trunk_format": "fp32",
        "sampler_version": SAMPLER_VERSION,
        "depth": manifest.depth,
        "split": 0,
        "mode": "cloud",
        "codec": "fp32",
        "prompt_tokens": 1,
        "max_positions": 9,
        "sampling": Sampling(),
    }
    return Opening(**given | changed)


def first_block(opened: Opening) -> bytes:
    """The frame that opens a session of the prompt [5] and wants a token."""
    root = root_digest(opened.fingerprint, "session-1", canonical(opened))
    return encode(
        Block(
            session="session-1",
            sequence=1,
            revision=0,
            acknowledged=0,
            parent=root,
            start=0,
            tokens=(5,),
            binding=1,
            want=Want.NOW,
            count=1,
            opening=opened,
        )
    )


def fault_of(response: httpx.Response) -> Fault:
    message = decode(response.content, limit=1 << 20)
    assert isinstance(message, Fault)
    return message


@dataclass
class Exchanged:
    """What answers at an address where one application can take another's place."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@asynccontextmanager
async def cloud_client(cloud: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(cloud) as client:
        yield client


@pytest.mark.parametrize("path", [PATH_BLOCKS, PATH_STREAM])
@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"fingerprint": "0" * 64}, 409, f"model fingerprint: edge has {'0' * 64}, cloud has"),
        ({"depth": 13}, 409, "depth: edge has 13, cloud has 12"),
        ({"sampler_version": 9}, 409, f"sampler version: edge has 9, cloud has {SAMPLER_VERSION}"),
        ({"split": 2}, 409, "split: edge has 2"),
        ({"split": 12, "mode": "split"}, 409, "split: edge has 12"),
        ({"mode": "verified", "split": 12}, 409, "split: edge has 12"),
        ({"max_positions": 4096}, 422, "4096 positions in all do not fit the model's 2048"),
    ],
)
async def test_a_cloud_refuses_an_edge_that_does_not_fit(
    path: str, changed: dict[str, Any], status: int, said: str
) -> None:
    async with running(cloud_app()) as cloud, cloud_client(cloud) as client:
        fits = await client.post(PATH_BLOCKS, content=first_block(opening()), headers=HEADERS)
        assert fits.status_code == 200
        frame = first_block(opening(**changed))
        refused = await client.post(path, content=frame, headers=HEADERS)
    assert refused.status_code == status
    assert said in fault_of(refused).message


async def test_a_cloud_refuses_a_frame_of_another_protocol_version() -> None:
    frame = bytearray(first_block(opening()))
    frame[2] = PROTOCOL_VERSION + 1
    frame[-4:] = struct.pack("<I", zlib.crc32(frame[:-4]))
    async with running(cloud_app()) as cloud, cloud_client(cloud) as client:
        refused = await client.post(PATH_BLOCKS, content=bytes(frame), headers=HEADERS)
    assert refused.status_code == 400
    assert fault_of(refused).code == "protocol_version"
    assert f"protocol version {PROTOCOL_VERSION + 1} is not served" in fault_of(refused).message


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_a_bundle_of_another_protocol_version_is_not_served(side: str, tmp_path: Path) -> None:
    folder = _changed(getattr(bundles(), side), tmp_path, protocol_version=PROTOCOL_VERSION + 1)
    build = edge_app if side == "edge" else cloud_app
    given: tuple[Any, ...] = ("", folder) if side == "edge" else (folder,)
    with pytest.raises(BadModel, match=f"version {PROTOCOL_VERSION + 1}; this service speaks"):
        build(*given)


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_a_service_does_not_serve_the_other_sides_bundle(side: str) -> None:
    folder = bundles().cloud if side == "edge" else bundles().edge
    with pytest.raises(BadModel, match=f"the {side} serves an? {side} bundle"):
        edge_app("", folder) if side == "edge" else cloud_app(folder)


async def test_an_edge_refuses_a_cloud_of_another_model() -> None:
    other = worded_model.bundles()
    async with (
        running(cloud_app(other.cloud)) as cloud,
        edge_client(cloud, probe_seconds=0.1) as edge,
    ):
        seen = await until_cloud_is("unfit", edge)
        assert "model fingerprint: edge has" in seen["cloud_problem"]
        assert "depth: edge has 12, cloud has 5" in seen["cloud_problem"]
        await _require_refusals(edge, "model fingerprint")


async def test_an_edge_refuses_a_cloud_of_another_protocol_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = _changed(bundles().cloud, tmp_path, protocol_version=PROTOCOL_VERSION + 1)
    monkeypatch.setattr(cloud_main, "PROTOCOL_VERSION", PROTOCOL_VERSION + 1)
    async with running(cloud_app(folder)) as cloud, edge_client(cloud) as edge:
        seen = await until_cloud_is("unfit", edge)
        wanted = f"protocol version: edge has {PROTOCOL_VERSION}, cloud has {PROTOCOL_VERSION + 1}"
        assert wanted in seen["cloud_problem"]
        await _require_refusals(edge, wanted)


def _changed(bundle: Path, place: Path, **manifest: object) -> Path:
    """A copy of a bundle whose manifest says something else; without calibrations, which are of
    the model it was.
    """
    folder = place / bundle.name
    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("agreement*.json"))
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | manifest))
    return folder


OWN = frozenset({f"exit:{SPLIT}", f"exit:{EDGE_DEPTH}"})


async def _require_refusals(edge: httpx.AsyncClient, said: str, *, own: Set[str] = OWN) -> None:
    """Every mode that needs the cloud says why it cannot; what needs none is served."""
    for mode in ("collaborative", "verified", "cloud", "split"):
        for stream in (False, True):
            # No exit is that sure: `collaborative` needs the cloud at once.
            body = {"inputs": "Once", "parameters": {"mode": mode, "threshold": 1.0}}
            refused = await edge.post("/generate", json=body | {"stream": stream})
            assert refused.status_code == 503, mode
            assert refused.json()["error_type"] == "mismatch"
            assert said in refused.json()["error"]
    served = await ask(edge, "Once", mode="standalone", max_new_tokens=2)
    assert sources_of(served) <= own


async def test_an_edge_of_a_model_that_differs_in_one_tensor_is_refused(tmp_path: Path) -> None:
    folder = _changed(bundles().edge, tmp_path, fingerprint="f" * 64)
    async with running(cloud_app()) as cloud, edge_client(cloud, folder) as edge:
        seen = await until_cloud_is("unfit", edge)
        assert f"model fingerprint: edge has {'f' * 64}" in seen["cloud_problem"]
        await _require_refusals(edge, "model fingerprint")


async def test_a_cloud_exchanged_for_another_model_is_noticed_by_the_next_request() -> None:
    """The edge has seen a cloud that fits and does not look again: it is the new one that refuses,
    and the edge tells what it said.
    """
    other = worded_model.bundles()
    async with running(cloud_app()) as first, running(cloud_app(other.cloud)) as second:
        exchanged = Exchanged(first)
        async with edge_client(exchanged, probe_seconds=600) as edge:
            await until_cloud_is("reachable", edge)
            await ask(edge, "Once", mode="split", max_new_tokens=2)
            exchanged.app = second
            await _require_refusals(edge, "model fingerprint")


async def test_edges_of_two_splits_share_a_cloud_at_the_same_time() -> None:
    """Both get the cloud's own text, asked for at once, again and again."""
    exact = {"codec": "fp32", "max_new_tokens": 16}
    other = bundles(2, 5)
    async with (
        running(cloud_app()) as cloud,
        edge_client(cloud) as here,
        edge_client(cloud, other.edge) as there,
    ):
        for edge in (here, there):
            await until_cloud_is("reachable", edge)
        assert (await there.get("/readyz")).json()["split"] == 2
        whole = await ask(here, "Once", mode="cloud", max_new_tokens=16)
        asked = [
            ask(edge, "Once", mode=mode, threshold=1.0, **exact)
            for edge in (here, there)
            for mode in ("split", "collaborative")
        ]
        for answer in await asyncio.gather(*asked):
            assert ids_of(answer) == ids_of(whole)
            assert answer["details"]["exact"]
        kept = await ask(there, "Once", mode="collaborative", threshold=0.0, max_new_tokens=4)
        assert sources_of(kept) == {"exit:2"}


async def test_a_cloud_of_upper_layers_serves_the_splits_it_holds() -> None:
    upper = bundles(SPLIT, EDGE_DEPTH, SPLIT)
    async with (
        running(cloud_app(upper.cloud)) as cloud,
        edge_client(cloud) as fits,
        edge_client(cloud, bundles(2, 5).edge) as below,
    ):
        told = await until_cloud_is("reachable", fits)
        assert told["modes"] == ["standalone", "collaborative", "verified", "split"]
        split = await ask(fits, "Once", mode="split", codec="fp32", max_new_tokens=12)
        async with pair() as whole:
            expected = await ask(whole.edge, "Once", mode="cloud", max_new_tokens=12)
        assert ids_of(split) == ids_of(expected)
        for stream in (False, True):
            body = {"inputs": "Once", "parameters": {"mode": "cloud"}, "stream": stream}
            refused = await fits.post("/generate", json=body)
            assert refused.status_code == 422
            assert "mode cloud is not served here" in refused.json()["error"]
        assert (await ask(fits, "Once", mode="split", max_new_tokens=2))["details"][
            "exact"
        ] is False

        seen = await until_cloud_is("unfit", below)
        assert f"split: edge has 2, cloud has layers from {SPLIT}" in seen["cloud_problem"]
        assert seen["modes"] == ["standalone"]
        await _require_refusals(below, "split: edge has 2", own={"exit:2", "exit:5"})
