"""The edge's settings: read once by `main` from the environment (prefix TANDEM_EDGE_), then
handed down.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.edge.policy import Mode
from shared.access import scopes_of
from shared.errors import Invalid
from shared.exits.policies import build
from shared.protocol.messages import Codec


class Settings(BaseSettings):
    """Every setting of the edge gateway. An unknown TANDEM_EDGE_ variable is refused by `main`."""

    model_config = SettingsConfigDict(env_prefix="TANDEM_EDGE_", frozen=True, extra="forbid")

    # Folder of the edge bundle that `tandem partition` wrote.
    bundle: Path
    # Name of this edge in `/readyz` and `tandem_build_info`; empty takes the machine's host name.
    name: str = ""
    # Address to listen on.
    host: str = "127.0.0.1"
    # TCP port to listen on; 0 takes a free one.
    port: int = Field(default=8000, ge=0, le=65535)
    # Base URL of the cloud service, whose host may stand for several addresses, or URLs of its
    # replicas with commas between; empty for an edge that serves `standalone` only.
    cloud_url: str = Field(default="http://127.0.0.1:8001", repr=False)
    # Trust a cloud with a certificate of these authorities (PEM) and no other. Empty: the system's.
    cloud_ca_file: str = ""
    # The certificate this edge shows the cloud (PEM); empty shows none.
    cloud_certificate_file: str = ""
    # Its private key (PEM, without a password).
    cloud_certificate_key_file: str = ""
    # File of the key this edge shows the cloud, read anew when it changes; unset: it shows none.
    cloud_key_file: Path | None = None
    # Where the model computes: `cpu`, `cuda` or `cuda:<n>`.
    device: str = "cpu"
    # Threads of the model's linear algebra on the CPU; 0 takes the CPUs this process may really use
    # (its affinity and its container's quota), less one for the event loop where there are several.
    threads: int = Field(default=0, ge=0)
    # Mode of requests that name none.
    mode: Mode = "collaborative"
    # Codec of hidden states for requests that name none.
    codec: Codec = "fp16"
    # Share of tokens that may differ from the full model's choice, 0 < x <= 1, for requests that
    # name neither this nor a threshold; needs calibrated exits. Empty: `exit_policy` decides.
    max_disagreement: float | None = Field(default=None, gt=0, le=1)
    # By which policy exits keep tokens otherwise: `per_exit`, or another of shared/exits/policies.
    exit_policy: str = "per_exit"
    # Its numbers, as JSON, such as `{"exits": 2}` of `patience`; empty takes the thresholds of the
    # bundle, which only `per_exit` can.
    exit_numbers: str = ""
    # Probability with which the cloud judges, when a text is finished, its kept tokens that nobody
    # has looked at; 0 judges none, and holds no target by what is seen.
    audit_share: float = Field(default=0.02, ge=0, le=1)
    # File of JSON lines that texts judged to their end are added to: what the exits said and what
    # the full model chose. It holds the tokens of texts. Empty: none is.
    exit_traces: Path | None = None
    # Size of that file in bytes, beyond which nothing is added.
    exit_traces_bytes: int = Field(default=64 * 1024**2, ge=1)
    # Drafts an edge step may run side by side (mode `verified`): 1 drafts a chain, more a tree.
    draft_width: int = Field(default=8, ge=1, le=64)
    # Least chance to be right a draft must have to be run.
    draft_floor: float = Field(default=0.02, ge=0, le=1)
    # A pass of the cloud is asked for when the chance that all drafts since the last one are right
    # falls below this,
    draft_doubt: float = Field(default=0.7, ge=0, le=1)
    # or after so many drafts.
    draft_longest: int = Field(default=4, ge=1)
    # A draft may come from the exit at the split where the chance that it is right is above this
    # there; 1 asks the last exit always.
    draft_sure: float = Field(default=1.0, ge=0, le=1)
    # Undecided drafts of a request at a time.
    draft_most: int = Field(default=64, ge=1, le=256)
    # How edge and cloud share a verified text: `draft` (the cloud only looks at drafts), `assist`
    # (it goes on for `draft_ahead` tokens where no draft was right), `race` (it goes on all the
    # time), `cloud` (the edge drafts nothing), or `auto`: by what is measured and `cloud_price`.
    draft_plan: Literal["auto", "draft", "assist", "race", "cloud"] = "auto"
    # Tokens the cloud goes on for in `assist`.
    draft_ahead: int = Field(default=2, ge=1, le=64)
    # What a second of the cloud is worth, in seconds of waiting; 0 looks at time alone.
    cloud_price: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    # Rows (token positions) one step may run: the chunk size of a long prompt.
    max_step_rows: int = Field(default=256, ge=1)
    # How many times longer a step may take for a long prompt's rows beside others' tokens: those
    # come so much later while it lasts, and the prompt takes the longer the less this is.
    step_stretch: float = Field(default=1.8, gt=1)
    # Rows of a step that others' tokens may have while an emergency is being served.
    beside_emergency_rows: int = Field(default=4, ge=1)
    # Seconds after which whoever waits is in the next step, whatever else there is.
    patience_seconds: float = Field(default=1.0, gt=0)
    # Requests served at once, beyond which new ones get 503; as many emergencies besides.
    max_requests: int = Field(default=64, ge=1)
    # Tokens of all requests being served, prompts and answers at their longest, beyond which new
    # ones get 503; as many of emergencies besides. 0: as many as `kv_bytes` have room for, so that
    # no answer that was begun breaks off for want of memory.
    max_tokens: int = Field(default=0, ge=0)
    # Requests a minute of one caller (a key, or an address without one) whose key says nothing
    # else, beyond which it gets 429; a minute's may come at once. 0 is no limit, as below.
    requests_per_minute: int = Field(default=0, ge=0)
    # Tokens a minute of one caller: the prompt's, and those of the answer at its longest, of which
    # what did not come is given back.
    tokens_per_minute: int = Field(default=0, ge=0)
    # Requests of one caller being served at once.
    concurrent: int = Field(default=0, ge=0)
    # File of the keys that let callers in, read anew when it changes (docs/access.md); unset: none.
    keys_file: Path | None = None
    # What callers without a key may do: scopes with commas between, empty for nothing. Unset:
    # `generate,metrics` where only this machine can ask and no KEYS_FILE is set, nothing elsewhere.
    without_key: str | None = None
    # Bytes for the KV of all requests together.
    kv_bytes: int = Field(default=4 * 1024**3, ge=1)
    # Largest request body, in bytes.
    max_body_bytes: int = Field(default=1024**2, ge=1024)
    # Largest report taken from the cloud, in bytes.
    max_report_bytes: int = Field(default=4 * 1024**2, ge=1024)
    # Seconds to connect to the cloud in before it counts as lost.
    connect_timeout_seconds: float = Field(default=1.0, gt=0)
    # Seconds of the cloud's silence after which it counts as lost.
    cloud_timeout_seconds: float = Field(default=10.0, gt=0)
    # Seconds a token may take to be had from the cloud, all replicas and retries together.
    retry_seconds: float = Field(default=30.0, gt=0)
    # Seconds a replica, or the link to all of them, rests after a failure; doubles with each
    # further one.
    first_pause_seconds: float = Field(default=0.5, gt=0)
    # The most seconds either rests between tries.
    longest_pause_seconds: float = Field(default=8.0, gt=0)
    # Seconds between looks at whether the cloud is there.
    probe_seconds: float = Field(default=2.0, gt=0)
    # Seconds of silence after which a stream carries a comment, so that proxies keep it open.
    heartbeat_seconds: float = Field(default=10.0, gt=0)
    # Clients' connections at once, idle ones included; fewer where open files are limited to less.
    # The one idle for longest gives way to a new one; where none is idle, the answer is 503.
    max_connections: int = Field(default=4096, ge=1)
    # The most of these from one address, of which a proxy has one for all behind it; 0 is no limit.
    max_connections_per_address: int = Field(default=0, ge=0)
    # Seconds for a request's head to arrive in, and for a TLS handshake.
    head_timeout_seconds: float = Field(default=10.0, gt=0)
    # Seconds in which a request's body must go on by 256 bytes for each.
    body_timeout_seconds: float = Field(default=20.0, gt=0)
    # Seconds after which an answer that nobody reads is given up.
    write_timeout_seconds: float = Field(default=60.0, gt=0)
    # Serve https with this certificate (PEM, those between it and its authority after it); renewed
    # files are taken up without a restart. Empty: http.
    tls_certificate_file: str = ""
    # The certificate's private key (PEM, without a password).
    tls_key_file: str = ""
    # Clients must show a certificate of these authorities (PEM). Empty: they show none.
    tls_client_ca_file: str = ""
    # Seconds after SIGTERM for which new requests are served while `/readyz` fails: what load
    # balancers need to notice.
    drain_seconds: int = Field(default=0, ge=0)
    # Seconds that requests under way get after that.
    grace_seconds: int = Field(default=10, ge=0)
    # Where spans of traces go, by OTLP over HTTP: `http://collector:4318/v1/traces`; empty traces
    # nothing.
    traces_url: str = Field(default="", pattern=r"^(https?://\S+)?$", repr=False)
    # Share of the traces that begin here; one a caller has begun is as the caller decided.
    traces_share: float = Field(default=1.0, ge=0, le=1)
    # Lowest level of the JSON logs on standard error: `DEBUG`, `INFO`, `WARNING` or `ERROR`.
    log_level: str = Field(default="INFO", pattern="(?i)^(debug|info|warning|error)$")

    @field_validator("cloud_url")
    @classmethod
    def _whole_urls(cls, urls: str) -> str:
        """Base URLs the edge can send to, or none at all."""
        for url in _listed(urls):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                # One may hold a password, and is not repeated.
                raise ValueError("not URLs such as http://cloud:8001, with commas between")
        return urls

    @property
    def cloud_urls(self) -> Sequence[str]:
        """`cloud_url` as a list."""
        return _listed(self.cloud_url)

    @property
    def policy_numbers(self) -> dict[str, Any]:
        """`exit_numbers` as they are meant."""
        numbers = json.loads(self.exit_numbers or "{}")
        if not isinstance(numbers, dict):
            raise ValueError(f"exit_numbers are {self.exit_numbers}; allowed: a JSON object")
        return numbers

    @field_validator(
        "keys_file", "cloud_key_file", "max_disagreement", "exit_traces", mode="before"
    )
    @classmethod
    def _nothing(cls, given: object) -> object:
        """An empty path is none, and an empty share."""
        return None if given == "" else given

    @field_validator("without_key")
    @classmethod
    def _scopes(cls, listed: str | None) -> str | None:
        """Scopes there are."""
        try:
            scopes_of(listed or "")
        except Invalid as error:
            raise ValueError(error.message) from error
        return listed

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        """Refuse a password in a URL beside a key: both would be sent in one header."""
        if self.cloud_key_file and any(urlsplit(url).username for url in self.cloud_urls):
            raise ValueError("a cloud_key_file goes with a cloud_url without name and password")
        return self

    @model_validator(mode="after")
    def _policy_there_is(self) -> Self:
        """Refuse a policy that cannot be made of its numbers, or one beside a target."""
        if self.exit_policy != "per_exit" or self.policy_numbers:
            build(self.exit_policy, self.policy_numbers)
            if self.max_disagreement is not None:
                raise ValueError("max_disagreement goes without exit_policy and exit_numbers")
        return self

    @model_validator(mode="after")
    def _traces_there_can_be(self) -> Self:
        """Refuse to record what nobody judges, or into a name that promises another form."""
        if self.exit_traces is not None and not self.audit_share:
            raise ValueError("exit_traces are of texts that are judged: audit_share must be over 0")
        if self.exit_traces is not None and self.exit_traces.suffix != ".jsonl":
            raise ValueError("exit_traces are JSON lines: a file whose name ends in .jsonl")
        if self.exit_traces is not None and not self.cloud_url:
            raise ValueError("exit_traces are of texts a cloud judges: they need a cloud_url")
        return self

    @model_validator(mode="after")
    def _mode_that_can_be_served(self) -> Self:
        """Refuse a default mode that needs the cloud where none is named; unasked, it follows."""
        if not self.cloud_url and "mode" in self.model_fields_set and self.mode != "standalone":
            raise ValueError(f"mode {self.mode} needs a cloud_url; without one it is `standalone`")
        return self


def _listed(text: str) -> Sequence[str]:
    return [each.strip() for each in text.split(",") if each.strip()]
