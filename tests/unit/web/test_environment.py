"""Settings: a variable with a service's prefix that is no setting stops the process by name."""

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.cloud.settings import Settings as CloudSettings
from services.edge.settings import Settings as EdgeSettings
from shared import environment
from shared.environment import refuse_unknown
from shared.errors import BadModel

SERVICES = [("TANDEM_EDGE_", EdgeSettings), ("TANDEM_CLOUD_", CloudSettings)]
Kind = type[EdgeSettings] | type[CloudSettings]


@pytest.mark.parametrize(("prefix", "settings"), SERVICES)
def test_every_unknown_variable_is_named_with_the_known_ones(prefix: str, settings: Kind) -> None:
    environ = {f"{prefix}PROT": "1", f"{prefix}BUNDEL": "x", f"{prefix}PORT": "1", "PATH": "/bin"}
    with pytest.raises(SystemExit) as stopped:
        refuse_unknown(settings, environ)
    message = str(stopped.value)
    assert message.startswith(f"unknown settings: {prefix}BUNDEL, {prefix}PROT; known: ")
    for name in settings.model_fields:
        assert f"{prefix}{name.upper()}" in message


@pytest.mark.parametrize(("prefix", "settings"), SERVICES)
def test_known_variables_and_other_programs_are_let_through(prefix: str, settings: Kind) -> None:
    known = {f"{prefix}{name}".upper(): "x" for name in settings.model_fields}
    refuse_unknown(settings, known | {"TANDEM": "1", "TANDEM_OTHER_PORT": "1", "HOME": "/"})
    refuse_unknown(settings, {f"{prefix}port".lower(): "1"})


@pytest.mark.parametrize(("prefix", "settings"), SERVICES)
def test_settings_are_read_from_the_environment_and_fixed(
    prefix: str, settings: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{prefix}BUNDLE", "/bundle")
    monkeypatch.setenv(f"{prefix}PORT", "9000")
    monkeypatch.setenv(f"{prefix}LOG_LEVEL", "warning")
    read = settings()
    assert (str(read.bundle), read.port) == ("/bundle", 9000)
    with pytest.raises(ValidationError, match="frozen"):
        read.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(("prefix", "settings"), SERVICES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("MAX_STEP_ROWS", "0"),
        ("MAX_BODY_BYTES", "many"),
        ("THREADS", "-1"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_setting_out_of_range_is_refused(
    prefix: str, settings: Kind, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{prefix}BUNDLE", "/bundle")
    monkeypatch.setenv(f"{prefix}{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        settings()


def test_what_is_missing_or_wrong_is_named_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wanted(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="TANDEM_WANTED_")
        bundle: str
        port: int = 1

    monkeypatch.setenv("TANDEM_WANTED_PORT", "eight")
    with pytest.raises(SystemExit) as ended:
        environment.read(Wanted)
    assert "TANDEM_WANTED_BUNDLE: Field required" in str(ended.value)
    assert "TANDEM_WANTED_PORT: " in str(ended.value)


def test_an_error_of_ours_before_serving_is_one_line() -> None:
    with pytest.raises(SystemExit, match=r"^cannot start: no such bundle$"), environment.starting():
        raise BadModel("no such bundle")


@pytest.mark.parametrize(
    "linked",
    [
        {"PORT": "tcp://10.0.0.1:8000"},
        {"SERVICE_HOST": "10.0.0.1"},
        {"SERVICE_PORT": "8000", "SERVICE_PORT_HTTP": "8000"},
        {"CLOUD_PORT": "tcp://10.0.0.1:8000", "CLOUD_SERVICE_HOST": "10.0.0.1"},
        {"PORT_8000_TCP": "tcp://10.0.0.1:8000", "PORT_8000_TCP_PROTO": "tcp"},
    ],
)
@pytest.mark.parametrize(("prefix", "settings"), SERVICES)
def test_variables_of_kubernetes_service_links_are_told_from_mistakes(
    prefix: str, settings: Kind, linked: dict[str, str]
) -> None:
    environ = {f"{prefix}{name}": value for name, value in linked.items()}
    with pytest.raises(SystemExit) as ended:
        refuse_unknown(settings, {f"{prefix}BUNDLE": "/bundle", **environ})
    message = str(ended.value)
    assert message.startswith(", ".join(sorted(environ)))
    assert "Kubernetes" in message
    assert "`enableServiceLinks: false`" in message


@pytest.mark.parametrize(
    "url", ["cloud:8001", "cloud", "//cloud:8001", "http://", "http://:8001", "ftp://cloud"]
)
def test_a_cloud_that_is_no_url_is_said_so_in_a_line(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_EDGE_BUNDLE", "/bundle")
    monkeypatch.setenv("TANDEM_EDGE_CLOUD_URL", url)
    with pytest.raises(SystemExit) as ended:
        environment.read(EdgeSettings)
    told = "not URLs such as http://cloud:8001, with commas between"
    assert str(ended.value) == f"wrong settings: TANDEM_EDGE_CLOUD_URL: {told}"


@pytest.mark.parametrize("url", ["", "http://cloud:8001", "https://[::1]/below"])
def test_no_cloud_and_whole_urls_are_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_EDGE_BUNDLE", "/bundle")
    monkeypatch.setenv("TANDEM_EDGE_CLOUD_URL", url)
    assert environment.read(EdgeSettings).cloud_url == url


def test_a_default_mode_that_no_cloud_serves_is_refused_if_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TANDEM_EDGE_BUNDLE", "/bundle")
    monkeypatch.setenv("TANDEM_EDGE_CLOUD_URL", "")
    assert environment.read(EdgeSettings).mode == "collaborative"
    monkeypatch.setenv("TANDEM_EDGE_MODE", "cloud")
    with pytest.raises(SystemExit, match="mode cloud needs a cloud_url"):
        environment.read(EdgeSettings)
    monkeypatch.setenv("TANDEM_EDGE_MODE", "standalone")
    assert environment.read(EdgeSettings).mode == "standalone"


PASSWORD = "5ec2e7-planted"


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        (EdgeSettings, "cloud_url", f"https://edge:{PASSWORD}@cloud:8001"),
        (EdgeSettings, "traces_url", f"http://collector/v1/traces?key={PASSWORD}"),
        (CloudSettings, "traces_url", f"http://collector/v1/traces?key={PASSWORD}"),
        (CloudSettings, "store_url", f"redis://:{PASSWORD}@redis:6379/0"),
        (CloudSettings, "store_key", "5ec2e7" * 10 + "abcd"),
    ],
)
def test_settings_shown_or_refused_keep_what_is_secret(
    settings: Kind, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = str(settings.model_config["env_prefix"])
    monkeypatch.setenv(f"{prefix}BUNDLE", "/bundle")
    monkeypatch.setenv(f"{prefix}{name.upper()}", value)
    shown = environment.read(settings)
    assert getattr(shown, name) == value
    assert "5ec2e7" not in repr(shown) + str(shown)
    monkeypatch.setenv(f"{prefix}{name.upper()}", f"ftp {value}")
    with pytest.raises(SystemExit) as ended:
        environment.read(settings)
    assert "5ec2e7" not in str(ended.value)
