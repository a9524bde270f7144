"""`tandem keys`: what it writes lets the key it prints in, and the key itself is nowhere else."""

import ssl
import stat
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

from cli.credential import VARIABLE, headers_of, key_of
from cli.errors import CommandError
from cli.main import app
from shared.access import Limits, digest_of, read_keys

RUN = CliRunner()


def made(*arguments: str) -> str:
    """The key that `tandem keys` prints, alone on standard output."""
    result = RUN.invoke(app, ["keys", *arguments])
    assert result.exit_code == 0, result.output
    (key,) = result.stdout.split()
    return key


def refused(*arguments: str) -> str:
    result = RUN.invoke(app, ["keys", *arguments])
    assert isinstance(result.exception, CommandError)
    assert not result.stdout
    return str(result.exception)


def test_the_file_knows_the_key_by_its_digest_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    key = made("alice", "--file", str(file), "--scope", "generate", "--scope", "priority")
    text = file.read_text()
    assert key not in text
    assert key.removeprefix("tandem_") not in text
    found = read_keys(text).find("bearer", digest_of(key))
    assert found is not None
    assert (found.name, found.owner) == ("alice", "alice")
    assert found.scopes == {"generate", "priority"}
    assert found.expires is None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_all_that_is_asked_for_is_written(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    key = made(
        *(
            "edge-1",
            "--file",
            str(file),
            "--scope",
            "sessions",
            "--owner",
            "berlin",
            "--days",
            "30",
        ),
        *("--requests-per-minute", "60", "--tokens-per-minute", "9000", "--concurrent", "4"),
    )
    found = read_keys(file.read_text()).find("bearer", digest_of(key))
    assert found is not None
    assert (found.owner, found.limits) == ("berlin", Limits(60, 9000, 4))
    assert found.expires is not None
    left = found.expires - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < left <= timedelta(days=30)


def test_what_was_in_the_file_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text("# ours\n[keys.old]\nsha256 = '" + "a" * 64 + "'\nscopes = ['metrics']\n")
    file.chmod(0o640)
    first = made("new", "--file", str(file))
    second = made("newer", "--file", str(file))
    assert first != second
    assert file.read_text().startswith("# ours\n[keys.old]\n")
    assert read_keys(file.read_text()).names == {"old", "new", "newer"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [each.name for each in tmp_path.iterdir()] == ["keys.toml"]


def test_without_a_file_the_entry_is_shown_beside_the_key(tmp_path: Path) -> None:
    result = RUN.invoke(app, ["keys", "bob"])
    entry = result.stderr.partition("\n")[2]
    assert read_keys(entry).find("bearer", digest_of(result.stdout.strip())) is not None


def test_a_certificate_needs_no_key(tmp_path: Path) -> None:
    pem, der = _certificate()
    (tmp_path / "edge.pem").write_text("a comment\n" + pem)
    file = tmp_path / "keys.toml"
    asked = ["keys", "edge", "--file", str(file), "--certificate", str(tmp_path / "edge.pem")]
    result = RUN.invoke(app, asked)
    assert (result.exit_code, result.stdout) == (0, "")
    assert read_keys(file.read_text()).find("certificate", sha256(der).digest()) is not None


def test_what_cannot_be_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    assert "a name is" in refused("b b", "--file", str(file))
    assert "allowed: generate" in refused("bob", "--scope", "all", "--file", str(file))
    assert "--certificate" in refused("bob", "--certificate", str(tmp_path / "none.pem"))
    (tmp_path / "no.pem").write_text("nothing")
    assert "no certificate" in refused("bob", "--certificate", str(tmp_path / "no.pem"))
    assert not file.exists()
    file.write_text("broken [")
    assert "no TOML" in refused("bob", "--file", str(file))
    assert file.read_text() == "broken ["
    file.unlink()
    made("bob", "--file", str(file))
    before = file.read_text()
    assert "already" in refused("bob", "--file", str(file))
    assert file.read_text() == before
    assert "--file" in refused("bob", "--file", str(tmp_path / "nowhere" / "keys.toml"))


def test_a_command_takes_its_key_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert key_of(None) is None
    assert headers_of(None) == {}
    monkeypatch.setenv(VARIABLE, "tandem_one")
    assert key_of(None) == "tandem_one"
    file = tmp_path / "key"
    file.write_text("tandem_two\n")
    assert headers_of(key_of(file)) == {"authorization": "Bearer tandem_two"}
    for wrong in ("", "two words", "line\nline", "é"):
        file.write_text(wrong)
        with pytest.raises(CommandError, match="one line with a key"):
            key_of(file)
    with pytest.raises(CommandError, match="No such file"):
        key_of(tmp_path / "none")


def _certificate() -> tuple[str, bytes]:
    """A certificate as PEM text and as DER bytes."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "edge")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    der = certificate.public_bytes(Encoding.DER)
    return ssl.DER_cert_to_PEM_cert(der), der
