"""The cloud's settings: read once by `main` from the environment (prefix TANDEM_CLOUD_), then
handed down.
"""

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.access import scopes_of
from shared.errors import Invalid


class Settings(BaseSettings):
    """Every setting of the cloud service. An unknown TANDEM_CLOUD_ variable is refused by
    `main`.
    """

    model_config = SettingsConfigDict(env_prefix="TANDEM_CLOUD_", frozen=True, extra="forbid")

    # Folder of the cloud bundle that `tandem partition` wrote.
    bundle: Path
    # Address to listen on.
    host: str = "127.0.0.1"
    # TCP port to listen on; 0 takes a free one.
    port: int = Field(default=8001, ge=0, le=65535)
    # Where the model computes: `cpu`, `cuda` or `cuda:<n>`.
    device: str = "cpu"
    # Threads of the model's linear algebra on the CPU; 0 takes the CPUs this process may really use
    # (its affinity and its container's quota), less one for the event loop where there are several.
    threads: int = Field(default=0, ge=0)
    # File of the keys that let callers in, read anew when it changes (docs/access.md); unset: none.
    keys_file: Path | None = None
    # What callers without a key may do: scopes with commas between, empty for nothing. Unset:
    # `sessions,metrics` where only this machine can ask and no KEYS_FILE is set, nothing elsewhere.
    without_key: str | None = None
    # Rows (token positions) one step may run: the chunk size of a long prompt.
    max_step_rows: int = Field(default=512, ge=1)
    # How many times longer a step may take for a long prompt's rows beside others' tokens: those
    # come so much later while it lasts, and the prompt takes the longer the less this is.
    step_stretch: float = Field(default=1.8, gt=1)
    # Rows of a step that others' tokens may have while an emergency is being served.
    beside_emergency_rows: int = Field(default=4, ge=1)
    # Seconds after which whoever waits is in the next step, whatever else there is.
    patience_seconds: float = Field(default=1.0, gt=0)
    # Passes queued or running beyond which blocks are refused with 503; as many of emergencies
    # besides.
    max_waiting: int = Field(default=256, ge=1)
    # Rows they may have to run together, beyond which they are refused likewise; 0 is no bound.
    max_waiting_rows: int = Field(default=32_768, ge=0)
    # Requests for tokens a minute of one caller (an edge's key, or an address without one) whose
    # key says nothing else, beyond which they get 429; a minute's may come at once. 0 is no limit,
    # as below.
    requests_per_minute: int = Field(default=0, ge=0)
    # Tokens a minute of one caller: those asked for, and new prompts'.
    tokens_per_minute: int = Field(default=0, ge=0)
    # Requests for tokens of one caller being served at once.
    concurrent: int = Field(default=0, ge=0)
    # Bytes for the logs and KV of all sessions together.
    context_bytes: int = Field(default=2 * 1024**3, ge=1)
    # Bytes of these for KV of ended sessions, kept for prompts of the same caller that begin alike
    # (a system prompt, a conversation that goes on); 0 keeps none.
    prefix_bytes: int = Field(default=256 * 1024**2, ge=0)
    # Sessions held at once.
    max_contexts: int = Field(default=1024, ge=1)
    # Of these sessions and bytes, the share that one owner of keys may have.
    share_per_owner: float = Field(default=1.0, gt=0, le=1)
    # Idle seconds after which a session is forgotten.
    context_ttl_seconds: float = Field(default=600, gt=0)
    # Where sessions' logs are kept for any replica to go on with: `redis://:password@host:port/db`
    # (`rediss://` with TLS), Redis 7 or later, one primary. Empty: in this process's memory alone.
    store_url: str = Field(default="", pattern=r"^(rediss?://\S+)?$", repr=False)
    # 64 hexadecimal digits, the same for all replicas: logs are encrypted with AES-256-GCM. Empty:
    # they have a checksum only.
    store_key: str = Field(default="", pattern=r"^([0-9a-fA-F]{64})?$", repr=False)
    # Seconds to wait for the store, after which a request does without it.
    store_timeout_seconds: float = Field(default=0.25, gt=0)
    # Bytes of logs one caller of an edge may have in the store: the least recently written ones go.
    store_bytes_per_client: int = Field(default=256 * 1024**2, ge=1)
    # Seconds a block waits for the one before it.
    reorder_seconds: float = Field(default=2.0, ge=0)
    # Largest request body, in bytes.
    max_body_bytes: int = Field(default=64 * 1024**2, ge=1024)
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

    @field_validator("keys_file", mode="before")
    @classmethod
    def _no_file(cls, path: object) -> object:
        """An empty path is none."""
        return None if path == "" else path

    @field_validator("without_key")
    @classmethod
    def _scopes(cls, listed: str | None) -> str | None:
        """Scopes there are."""
        try:
            scopes_of(listed or "")
        except Invalid as error:
            raise ValueError(error.message) from error
        return listed
