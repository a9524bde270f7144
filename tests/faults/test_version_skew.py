"""An edge of one protocol version and a cloud of the next, and the reverse, as processes: each side
says which two versions met, and what needs no cloud is served.
"""

import json
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from shared.protocol.version import PROTOCOL_VERSION
from tests.faults.client import tell
from tests.faults.nursery import Nursery, nursery
from tests.support.reference import bundles
from tests.support.services import Service
from tests.support.wishes import Wish

NEXT = PROTOCOL_VERSION + 1
_PATCH = f"import shared.protocol.version as version; version.PROTOCOL_VERSION = {NEXT}"
SOON = {"probe_seconds": "0.2"}
Skewed = Mapping[str, tuple[Service, Service]]


def of_next_version(bundle: Path, place: Path) -> str:
    """A copy of a bundle, made for the next version."""
    folder = place / bundle.name
    shutil.copytree(bundle, folder)
    path = folder / "manifest.json"
    changed = {"protocol_version": NEXT}
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    return str(folder)


@pytest.fixture(scope="module")
def skewed(forks: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Skewed]:
    """Edge and cloud, one of either version, by which of them is newer."""
    place = tmp_path_factory.mktemp("skew")
    newer = {
        role: {"bundle": of_next_version(getattr(bundles(), role), place)}
        for role in ("edge", "cloud")
    }
    with ExitStack() as stack:
        later = stack.enter_context(nursery(_PATCH))
        clouds = {
            "edge": Service("cloud", place / "cloud.log", {}, launch=forks.launch),
            "cloud": Service(
                "cloud", place / "next-cloud.log", newer["cloud"], launch=later.launch
            ),
        }
        to = {which: {"cloud_url": cloud.url, **SOON} for which, cloud in clouds.items()}
        newest = to["edge"] | newer["edge"]
        edges = {
            "edge": Service("edge", place / "next-edge.log", newest, launch=later.launch),
            "cloud": Service("edge", place / "edge.log", to["cloud"], launch=forks.launch),
        }
        for service in [*clouds.values(), *edges.values()]:
            stack.callback(service.abandon)
            service.start()
        for cloud in clouds.values():
            cloud.wait_until_ready()
        for edge in edges.values():
            edge.wait_until_ready("unfit")
        yield {which: (edges[which], clouds[which]) for which in clouds}


def difference(newer: str) -> str:
    """What names both versions."""
    edge, cloud = (NEXT, PROTOCOL_VERSION) if newer == "edge" else (PROTOCOL_VERSION, NEXT)
    return f"protocol version: edge has {edge}, cloud has {cloud}"


@pytest.mark.parametrize("newer", ["edge", "cloud"])
def test_the_difference_is_named_to_the_operator(newer: str, skewed: Skewed) -> None:
    edge, cloud = skewed[newer]
    seen = httpx.get(f"{edge.url}/readyz").json()
    assert seen["cloud"] == "unfit"
    assert difference(newer) in seen["cloud_problem"]
    assert seen["modes"] == ["standalone"]
    assert difference(newer) in edge.tail()
    assert httpx.get(f"{cloud.url}/readyz").status_code == 200


@pytest.mark.parametrize("mode", ["collaborative", "verified", "cloud", "split"])
@pytest.mark.parametrize("newer", ["edge", "cloud"])
def test_what_needs_the_cloud_is_refused_naming_both(newer: str, mode: str, skewed: Skewed) -> None:
    edge, _ = skewed[newer]
    asked = {"mode": mode, **({"threshold": 1.0} if mode == "collaborative" else {})}
    told = tell(edge.url, Wish("Once", asked))
    assert told.status == 503
    assert told.error is not None
    assert told.error["error_type"] == "mismatch"
    assert difference(newer) in told.error["error"]


@pytest.mark.parametrize("newer", ["edge", "cloud"])
def test_what_needs_no_cloud_is_served(newer: str, skewed: Skewed) -> None:
    edge, _ = skewed[newer]
    alone = {"mode": "standalone", "max_new_tokens": 4, "min_new_tokens": 4}
    told = tell(edge.url, Wish("Once", alone))
    assert (told.error, len(told.tokens)) == (None, 4)


@pytest.mark.parametrize("newer", ["edge", "cloud"])
def test_a_frame_of_the_other_version_is_refused_and_counted(newer: str, skewed: Skewed) -> None:
    """What an edge sends that has not looked at the manifest yet."""
    _, cloud = skewed[newer]
    theirs = NEXT if newer == "edge" else PROTOCOL_VERSION
    header = b"TD" + bytes([theirs, 1]) + bytes(4)
    frame = header + struct.pack("<I", zlib.crc32(header))
    refused = httpx.post(f"{cloud.url}/v1/blocks", content=frame)
    assert refused.status_code == 400
    assert f"protocol version {theirs} is not served".encode() in refused.content
    assert 'outcome="protocol_version"} 1.0' in cloud.metrics()
