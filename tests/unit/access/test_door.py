"""A door as settings open it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from services.cloud.settings import Settings as CloudSettings
from services.edge.settings import Settings as EdgeSettings
from shared.access import names_another, open_door, scopes_of
from shared.errors import Invalid
from tests.support.keys import written_keys


def opened(host: str, without_key: str | None, keys: Path | None = None) -> frozenset[str]:
    settings = EdgeSettings(
        bundle=Path("somewhere"), host=host, without_key=without_key, keys_file=keys
    )
    door = open_door(settings, usual={"generate", "metrics"}, prefix="TANDEM_EDGE_")
    return door.strangers


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST"])
def test_on_this_machine_alone_everybody_may_do_the_usual(host: str, tmp_path: Path) -> None:
    assert opened(host, None) == {"generate", "metrics"}
    assert opened(host, "metrics") == {"metrics"}
    keys = written_keys(tmp_path / "keys", {"a": "scopes = []"})
    assert opened(host, None, keys) == frozenset()
    assert opened(host, "metrics", keys) == {"metrics"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "edge", "localhost.example"])
def test_elsewhere_nobody_may_do_anything_unless_it_is_said(host: str, tmp_path: Path) -> None:
    for without_key in (None, "", " , "):
        with pytest.raises(Invalid) as refused:
            opened(host, without_key)
        assert "TANDEM_EDGE_KEYS_FILE" in refused.value.message
        assert "TANDEM_EDGE_WITHOUT_KEY" in refused.value.message
        keys = written_keys(tmp_path / "keys", {"a": "scopes = []"})
        assert opened(host, without_key, keys) == frozenset()
    assert opened(host, "generate") == {"generate"}


@pytest.mark.parametrize(
    ("host", "without_key", "here"),
    [
        ("127.0.0.1", None, True),
        ("127.0.0.1", "generate", False),
        ("0.0.0.0", "generate", False),
    ],
)
def test_what_only_this_machine_can_ask_is_told_from_what_was_opened(
    host: str, without_key: str | None, *, here: bool
) -> None:
    settings = EdgeSettings(bundle=Path("somewhere"), host=host, without_key=without_key)
    assert open_door(settings, usual={"generate"}, prefix="TANDEM_EDGE_").here is here


@pytest.mark.parametrize(
    ("host", "another"),
    [
        ("localhost", False),
        ("localhost:8000", False),
        ("LOCALHOST.:8000", False),
        ("edge:8000", False),
        ("app.localhost:8000", False),
        ("APP.Localhost:8000", False),
        ("127.0.0.1:8000", False),
        ("[::ffff:127.0.0.1]", False),
        ("[::ffff:127.0.0.1]:8000", False),
        ("[::1]:8000", False),
        ("[::1]", False),
        ("192.0.2.1", False),
        ("", False),
        ("example.com", True),
        ("example.com:8000", True),
        ("Example.COM.:8000", True),
        ("localhost.example.com", True),
        ("127.0.0.1.example.com:8000", True),
        ("example.notlocalhost", True),
        ("127.1.example:80", True),
    ],
)
def test_a_name_that_somebody_else_can_own_is_another_machines(host: str, *, another: bool) -> None:
    assert names_another(host) is another


def test_scopes_are_listed_and_an_unknown_one_is_named() -> None:
    assert scopes_of(" generate,priority , ") == {"generate", "priority"}
    with pytest.raises(Invalid, match=r"'everything' is no scope; there are generate, priority"):
        scopes_of("generate,everything")


@pytest.mark.parametrize("settings", [EdgeSettings, CloudSettings])
def test_settings_refuse_an_unknown_scope_by_name(
    settings: type[EdgeSettings | CloudSettings],
) -> None:
    with pytest.raises(ValidationError, match="'admin' is no scope"):
        settings(bundle=Path("somewhere"), without_key="generate,admin")
    assert settings(bundle=Path("somewhere"), keys_file="").keys_file is None


def test_a_password_in_the_url_is_no_second_credential_beside_a_key() -> None:
    url = "https://name:secret@cloud"
    with pytest.raises(ValidationError, match="without name and password") as refused:
        EdgeSettings(bundle=Path("somewhere"), cloud_url=url, cloud_key_file=Path("key"))
    assert "secret" not in str(refused.value.errors(include_input=False))
