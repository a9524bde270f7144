"""TLS between users and edge and between edge and cloud, real sockets and certificates: the right
ones are served, the wrong ones are told apart, renewed ones are taken up.
"""

import asyncio
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from services.edge.cloud_client import CloudClient
from services.edge.transport import PooledTransport
from shared.errors import CloudLost
from shared.web.connections import Limits
from shared.web.guarded import CERTIFICATE
from shared.web.tls import client_tls, server_tls
from tests.support.apps import PATIENCE
from tests.support.certificates import Files, authority, signed
from tests.support.services import Service
from tests.support.sockets import guarded

LIMITS = httpx.Limits(max_connections=4, max_keepalive_connections=4, keepalive_expiry=60)
REFUSED_HANDSHAKES = 'tandem_connections_refused_total{reason="handshake"}'
REFUSED = "it closed the connection unheard; it may require a certificate it accepts"


@dataclass(frozen=True, slots=True)
class Papers:
    """Everybody's certificates."""

    ca: Files
    other_ca: Files
    cloud: Files
    edge: Files
    client: Files


class Secure(Service):
    """A service that speaks https."""

    papers: Papers

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def _is_ready(self, cloud: str | None) -> bool:
        tls = client_tls(self.papers.ca.certificate, *_pair(self.papers.client)).context()
        try:
            ready = httpx.get(f"{self.url}/readyz", timeout=PATIENCE, verify=tls)
        except httpx.TransportError:
            return False
        return ready.status_code == 200 and (cloud is None or ready.json()["cloud"] == cloud)


def _pair(files: Files) -> tuple[Path, Path]:
    return files.certificate, files.key


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("papers")
    ca = authority(folder)
    return Papers(
        ca=ca,
        other_ca=authority(folder, "other"),
        cloud=signed(ca, folder, "cloud"),
        edge=signed(ca, folder, "edge"),
        client=signed(ca, folder, "client"),
    )


@pytest.fixture(scope="module")
def secured(
    papers: Papers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Secure, Secure]]:
    """A cloud that asks for certificates and an edge that shows one."""
    folder = tmp_path_factory.mktemp("secured")
    Secure.papers = papers
    tls = {
        "tls_certificate_file": str(papers.cloud.certificate),
        "tls_key_file": str(papers.cloud.key),
        "head_timeout_seconds": "6",
    }
    cloud = Secure(
        "cloud", folder / "cloud.log", {**tls, "tls_client_ca_file": str(papers.ca.certificate)}
    )
    edge = Secure(
        "edge",
        folder / "edge.log",
        {
            **tls,
            "cloud_url": cloud.url,
            "cloud_ca_file": str(papers.ca.certificate),
            "cloud_certificate_file": str(papers.edge.certificate),
            "cloud_certificate_key_file": str(papers.edge.key),
            "probe_seconds": "0.5",
        },
    )
    try:
        cloud.start()
        edge.start()
        cloud.wait_until_ready()
        edge.wait_until_ready("reachable")
        yield cloud, edge
        for each in (edge, cloud):
            assert each.stop() == 0, each.tail()
            assert "Traceback" not in each.log.read_text()
    finally:
        cloud.abandon()
        edge.abandon()


async def asked(url: str, ca: Files, shown: Files | None, *, ours: bool = True) -> str:
    """What the edge's way to a cloud says of this cloud: "" where it answers."""
    tls = client_tls(ca.certificate, *(_pair(shown) if shown else (None, None)))
    pool = PooledTransport(LIMITS, tls.context) if ours else None
    async with httpx.AsyncClient(
        base_url=url, transport=pool, verify=tls.context(), trust_env=False, timeout=PATIENCE
    ) as http:
        try:
            await CloudClient(http, limit=2**20).manifest()
        except CloudLost as error:
            return error.message
    return ""


def test_a_text_is_made_over_mutual_tls(secured: tuple[Secure, Secure], papers: Papers) -> None:
    _, edge = secured
    tls = client_tls(papers.ca.certificate, None, None).context()
    body = {"inputs": "Once", "parameters": {"max_new_tokens": 8, "mode": "split", "details": True}}
    answer = httpx.post(f"{edge.url}/generate", json=body, verify=tls, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    assert answer.json()["details"]["usage"]["cloud_requests"] > 0
    for each in secured:
        assert f'"address": "{each.url}"' in each.log.read_text()


@pytest.mark.parametrize("ours", [True, False], ids=["pool", "httpx"])
async def test_the_edge_says_what_keeps_tls_from_coming_about(
    secured: tuple[Secure, Secure], papers: Papers, tmp_path: Path, *, ours: bool
) -> None:
    url, ca = secured[0].url, papers.ca
    assert await asked(url, ca, papers.client, ours=ours) == ""
    unknown = await asked(url, papers.other_ca, papers.client, ours=ours)
    assert unknown.endswith("its certificate is of an unknown authority")
    name = await asked(url.replace("127.0.0.1", "localhost"), ca, papers.client, ours=ours)
    assert name.endswith("its certificate is for another host name")
    for shown in (
        None,
        signed(papers.other_ca, tmp_path, "stranger"),
        signed(ca, tmp_path, "late", days=-1),
    ):
        told = await asked(url, ca, shown, ours=ours)
        assert told.endswith(REFUSED) if ours else told != "", shown


async def test_a_cloud_whose_certificate_has_expired_or_that_speaks_no_tls_is_told_so(
    papers: Papers, tmp_path: Path
) -> None:
    expired = signed(papers.ca, tmp_path, "expired", days=-1)
    tls = server_tls(*_pair(expired), None)
    assert tls is not None

    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    for context, why in ((tls.context(), "has expired"), (None, "does not speak TLS")):
        server = await asyncio.start_server(nothing, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        async with server:
            told = await asked(f"https://127.0.0.1:{port}", papers.ca, None)
        assert told.startswith("no TLS with the cloud: it")
        assert told.endswith(why)


async def _telling(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with the digest it is told, in hexadecimal."""
    told = scope.get("extensions", {}).get(CERTIFICATE, b"")
    headers = [(b"content-length", b"%d" % (2 * len(told)))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": told.hex().encode()})


@pytest.mark.parametrize("asks", [True, False])
def test_the_application_is_told_which_certificate_a_client_has_shown(
    papers: Papers, *, asks: bool
) -> None:
    ca = papers.ca.certificate
    tls = server_tls(*_pair(papers.cloud), ca if asks else None)
    with guarded(_telling, tls, Limits(9, 0, 5, 5, 5)) as port:
        for shown in (papers.client, papers.edge):
            context = client_tls(ca, *_pair(shown)).context()
            with httpx.Client(verify=context, trust_env=False, timeout=PATIENCE) as client:
                for _ in range(2):
                    answer = client.get(f"https://127.0.0.1:{port}/")
                    assert answer.text == (shown.digest.hex() if asks else "")


def test_a_handshake_that_does_not_come_about_costs_its_place_for_a_while_only(
    secured: tuple[Secure, Secure], papers: Papers
) -> None:
    _, edge = secured
    tls = client_tls(papers.ca.certificate, None, None).context()
    deadline = time.monotonic() + PATIENCE
    with (
        ExitStack() as held,
        httpx.Client(base_url=edge.url, verify=tls, timeout=PATIENCE) as client,
    ):
        for _ in range(50):
            held.enter_context(socket.create_connection(("127.0.0.1", edge.port)))
        assert _gauge(client, "tandem_connections") >= 50
        while _gauge(client, REFUSED_HANDSHAKES) < 50:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert _gauge(client, "tandem_connections") <= 10


def _gauge(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    (line,) = (each for each in lines if each.startswith(f"{name} "))
    return float(line.split()[-1])


def test_a_renewed_certificate_is_taken_up_and_half_of_one_is_not(
    papers: Papers, tmp_path: Path
) -> None:
    first, second = (signed(papers.ca, tmp_path / name, name) for name in ("first", "second"))
    used = Files(tmp_path / "used.pem", tmp_path / "used.key")
    shutil.copy(first.certificate, used.certificate)
    shutil.copy(first.key, used.key)
    tls = server_tls(*_pair(used), None)
    assert tls is not None
    before = tls.context()
    assert tls.context() is before
    shutil.copy(second.certificate, used.certificate)
    assert tls.context() is before, "its key is still to come"
    shutil.copy(second.key, used.key)
    assert tls.context() is not before
    used.key.unlink()
    tls.context()


def test_a_service_takes_up_a_renewed_certificate_without_a_restart(
    secured: tuple[Secure, Secure], papers: Papers, tmp_path: Path
) -> None:
    _, edge = secured
    assert _shown(edge.port) == papers.cloud.certificate.read_text()
    renewed = signed(papers.ca, tmp_path, "renewed")
    shutil.copy(renewed.key, papers.cloud.key)
    shutil.copy(renewed.certificate, papers.cloud.certificate)
    assert _shown(edge.port) == renewed.certificate.read_text()


def _shown(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"tls_certificate_file": "cloud.pem"}, "go together; one is missing"),
        ({"tls_client_ca_file": "cloud.pem"}, "go together; one is missing"),
        (
            {"tls_certificate_file": "none.pem", "tls_key_file": "cloud.key"},
            "none.pem: No such file or directory",
        ),
        (
            {"tls_certificate_file": "cloud.pem", "tls_key_file": "edge.key"},
            "does not fit certificate",
        ),
        (
            {
                "tls_certificate_file": "cloud.pem",
                "tls_key_file": "cloud.key",
                "tls_client_ca_file": "cloud.key",
            },
            "holds no certificates in PEM form",
        ),
    ],
    ids=["no key", "authority alone", "no file", "wrong key", "no certificate"],
)
def test_files_that_do_not_do_are_told_in_a_line(
    papers: Papers, given: dict[str, str], why: str
) -> None:
    folder = papers.ca.certificate.parent
    names = ("tls_certificate_file", "tls_key_file", "tls_client_ca_file")
    files = [folder / given[name] if name in given else None for name in names]
    with pytest.raises(ValueError, match=why) as told:
        server_tls(*files)
    assert "\n" not in str(told.value)
