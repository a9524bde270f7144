"""The dashboard to open first: what users get from all edges together, in the order of vLLM's own,
with where the tokens come from on top.
"""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from monitoring.grafana.panels import PanelBuilder, Query, board, heat, lines, number, quantiles

EDGE = 'job="edge",edge=~"$edge"'
RATE = "[$__rate_interval]"


def overview() -> Dashboard:
    """The Overview dashboard."""
    return board(
        "Tandem / Overview",
        "tandem-overview",
        "What users get, from all edges together.",
        (
            ("At a glance", _glance()),
            ("Where tokens come from", _sources()),
            ("Serving", [*_serving(), *_requests(), *_costs()]),
        ),
        variables=[("edge", 'up{job="edge"}')],
    )


def _glance() -> list[PanelBuilder]:
    tokens = f"sum(rate(tandem_tokens_total{{{EDGE}}}{RATE}))"
    return [
        number(
            "Offload ratio",
            f'sum(rate(tandem_tokens_total{{{EDGE},source="cloud"}}{RATE})) / ({tokens} > 0)',
            unit="percentunit",
            description="Tokens the cloud chose over all tokens.",
        ),
        number(
            "Tokens a second",
            tokens,
            unit="none",
            description="Tokens given to users, every source.",
        ),
        number(
            "First token, p95",
            f"histogram_quantile(0.95, sum by (le) (rate("
            f"tandem_time_to_first_token_seconds_bucket{{{EDGE}}}{RATE})))",
            unit="s",
            description="One request in twenty waited longer for its first token.",
        ),
        number(
            "Failed requests",
            f"sum(rate(tandem_request_failures_total{{{EDGE}}}{RATE})) / ("
            f"(sum(rate(tandem_request_failures_total{{{EDGE}}}{RATE}))"
            f" + sum(rate(tandem_request_success_total{{{EDGE}}}{RATE}))) > 0)"
            f" or 0 * sum(up{{{EDGE}}})",
            unit="percentunit",
            description="Requests refused or broken off, over all. Bad requests count too.",
            steps=((None, "green"), (0.01, "orange"), (0.05, "red")),
        ),
        number(
            "Edges up",
            f"sum(up{{{EDGE}}}) or vector(0)",
            unit="none",
            description="Edges that answer Prometheus.",
            steps=((None, "red"), (1, "green")),
        ),
        number(
            "Cloud replicas up",
            'sum(up{job="cloud"}) or vector(0)',
            unit="none",
            description="Replicas of the cloud that answer Prometheus.",
            steps=((None, "red"), (1, "green")),
        ),
    ]


def _sources() -> list[PanelBuilder]:
    return [
        lines(
            "Offload ratio by edge",
            Query('tandem:offload_ratio:rate5m{edge=~"$edge"}', "{{edge}}"),
            Query("tandem:fleet_offload_ratio:rate5m", "all"),
            unit="percentunit",
            description="Tokens the cloud chose over all tokens, in five minutes. It rises when "
            "exits are unsure of the traffic or thresholds are high; at 1 the edge helps nobody.",
            most=1,
        ),
        lines(
            "Tokens by source",
            Query(f"sum by (source) (rate(tandem_tokens_total{{{EDGE}}}{RATE}))", "{{source}}"),
            unit="none",
            description="Tokens a second: kept at an exit, chosen by the cloud, or made by the "
            "edge alone because the cloud was lost (fallback).",
            stacked=True,
        ),
    ]


def _serving() -> list[PanelBuilder]:
    return [
        lines(
            "E2E request latency",
            *quantiles(f"tandem_e2e_request_latency_seconds_bucket{{{EDGE}}}"),
            unit="s",
            description="From request to last token.",
        ),
        lines(
            "Token throughput",
            Query(f"sum(rate(tandem_prompt_tokens_total{{{EDGE}}}{RATE}))", "prompt"),
            Query(f"sum(rate(tandem_tokens_total{{{EDGE}}}{RATE}))", "generated"),
            unit="none",
            description="Tokens a second taken in and given out.",
        ),
        lines(
            "Inter-token latency",
            *quantiles(f"tandem_inter_token_latency_seconds_bucket{{{EDGE}}}"),
            unit="s",
            description="Between one token of a request and the next. Two humps are normal: kept "
            "tokens cost an edge step, the others a round trip and a cloud pass.",
        ),
        lines(
            "Scheduler state",
            Query(f"sum(tandem_num_requests_running{{{EDGE}}})", "requests running on edges"),
            Query(f"sum(tandem_num_requests_waiting{{{EDGE}}})", "proposals waiting on edges"),
            Query('sum(tandem_num_requests_waiting{job="cloud"})', "passes waiting in the cloud"),
            unit="none",
            description="Work that is under way or waits for an engine.",
        ),
        lines(
            "Time to first token",
            *quantiles(f"tandem_time_to_first_token_seconds_bucket{{{EDGE}}}"),
            unit="s",
            description="From request to first token.",
        ),
        lines(
            "Cache utilization",
            Query(f"max by (edge) (tandem_kv_cache_usage_ratio{{{EDGE}}})", "edge {{edge}}"),
            Query(
                'max by (replica) (tandem_kv_cache_usage_ratio{job="cloud"})', "cloud {{replica}}"
            ),
            unit="percentunit",
            description="KV cache in use over its budget.",
            reach=1,
        ),
    ]


def _requests() -> list[PanelBuilder]:
    return [
        heat(
            "Request prompt length",
            f"sum by (le) (increase(tandem_request_prompt_tokens_bucket{{{EDGE}}}{RATE}))",
            unit="none",
            description="Prompt tokens of a request.",
        ),
        heat(
            "Request generation length",
            f"sum by (le) (increase(tandem_request_generation_tokens_bucket{{{EDGE}}}{RATE}))",
            unit="none",
            description="Tokens generated for a request.",
        ),
        lines(
            "Finish reason",
            Query(
                f"sum by (finished_reason) (rate(tandem_request_success_total{{{EDGE}}}{RATE}))",
                "{{finished_reason}}",
            ),
            Query(
                f"sum by (reason) (rate(tandem_request_failures_total{{{EDGE}}}{RATE}))",
                "failed: {{reason}}",
            ),
            unit="reqps",
            description="Why requests ended.",
            stacked=True,
        ),
        lines(
            "Queue time",
            Query(
                f"histogram_quantile(0.95, sum by (le) (rate("
                f"tandem_request_queue_time_seconds_bucket{{{EDGE}}}{RATE})))",
                "edge p95",
            ),
            Query(
                "histogram_quantile(0.95, sum by (le) (rate("
                f'tandem_request_queue_time_seconds_bucket{{job="cloud"}}{RATE})))',
                "cloud p95",
            ),
            unit="s",
            description="What a proposal or a pass waited for its first step.",
        ),
    ]


def _costs() -> list[PanelBuilder]:
    return [
        lines(
            "Compute for a token",
            Query(
                f"sum(rate(tandem_compute_seconds_total{{{EDGE}}}{RATE}))"
                f" / (sum(rate(tandem_tokens_total{{{EDGE}}}{RATE})) > 0)",
                "edge",
            ),
            Query("tandem:cloud_seconds_per_token:rate5m", "cloud"),
            unit="s",
            description="Seconds of an engine for each token users got: what Tandem is to save is "
            "the cloud's.",
        ),
        lines(
            "Cloud request duration",
            *quantiles(
                f'tandem_cloud_request_duration_seconds_bucket{{{EDGE},operation="complete"}}'
            ),
            unit="s",
            description="Asking the cloud for a token, as edges see it: network and pass.",
        ),
    ]
