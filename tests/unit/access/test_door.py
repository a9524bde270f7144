"""A door as settings open it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from services.cloud.settings import Settings as CloudSettings
from services.edge.settings import Settings as EdgeSettings
from shared.access import open_door, scopes_of
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
