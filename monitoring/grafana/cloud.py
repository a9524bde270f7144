"""The dashboard of the cloud: what its replicas compute, the sessions they hold, and what the full
model thinks of the tokens edges kept.
"""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from monitoring.grafana.panels import PanelBuilder, Query, board, heat, lines, quantiles

CLOUD = 'job="cloud",replica=~"$replica"'
RATE = "[$__rate_interval]"


def cloud() -> Dashboard:
    """The Cloud and contexts dashboard."""
    return board(
        "Tandem / Cloud and contexts",
        "tandem-cloud",
        "What the cloud computes, and the sessions it holds.",
        (
            ("Work", [*_work(), *_steps()]),
            ("Contexts", _contexts()),
            ("The store of logs", _store()),
            ("Agreement", _agreement()),
        ),
        variables=[("replica", 'up{job="cloud"}')],
    )


def _by(labels: str, metric: str, legend: str) -> Query:
    return Query(f"sum by ({labels}) (rate({metric}{{{CLOUD}}}{RATE}))", legend)


def _work() -> list[PanelBuilder]:
    return [
        lines(
            "Requests by operation and outcome",
            Query(
                f"sum by (operation, outcome) (rate(tandem_cloud_requests_total{{{CLOUD}}}{RATE}))"
                " > 0",
                "{{operation}}: {{outcome}}",
            ),
            unit="reqps",
            description="complete: a token asked for; upload: states without a question; stream: a "
            "whole generation.",
        ),
        lines(
            "Request duration",
            *quantiles(
                f'tandem_cloud_request_duration_seconds_bucket{{{CLOUD},operation="complete"}}'
            ),
            unit="s",
            description="A token asked for: from the block's arrival to its report.",
        ),
        lines(
            "Engine utilization",
            _by("replica", "tandem_compute_seconds_total", "{{replica}}"),
            unit="percentunit",
            description="Share of the time a replica's engine computes.",
            reach=1,
        ),
        lines(
            "Passes waiting",
            Query(f"sum by (replica) (tandem_num_requests_waiting{{{CLOUD}}})", "{{replica}}"),
            unit="none",
            description="Passes queued or in a step. What stays above the number of edges is too "
            "much for the replicas there are.",
        ),
        lines(
            "Queue time",
            *quantiles(f"tandem_request_queue_time_seconds_bucket{{{CLOUD}}}"),
            unit="s",
            description="What a pass waited for its first step. The dashed line is the alert's "
            "limit for the p95.",
            limit=0.25,
        ),
    ]


def _steps() -> list[PanelBuilder]:
    return [
        lines(
            "Rows by priority",
            _by("priority", "tandem_rows_total", "{{priority}}"),
            unit="none",
            description="Positions run a second, by class: emergencies overtake the others.",
        ),
        heat(
            "Rows in a step",
            f"sum by (le) (increase(tandem_step_rows_bucket{{{CLOUD}}}{RATE}))",
            unit="none",
            description="Positions run together: more rows, less time for each.",
        ),
        lines(
            "Tokens chosen",
            _by("mode", "tandem_tokens_total", "{{mode}}"),
            unit="none",
            description="Tokens a second the full model chose, by the session's mode.",
            stacked=True,
        ),
        lines(
            "Bytes in and out",
            _by("codec", "tandem_uplink_bytes_total", "in, {{codec}}"),
            Query(f"sum(rate(tandem_downlink_bytes_total{{{CLOUD}}}{RATE}))", "out"),
            unit="Bps",
            description="Bodies of blocks received, by codec, and of reports sent.",
        ),
    ]


def _contexts() -> list[PanelBuilder]:
    return [
        lines(
            "Contexts",
            Query(f"sum by (replica) (tandem_contexts{{{CLOUD}}})", "{{replica}}"),
            unit="none",
            description="Sessions held.",
        ),
        lines(
            "Context bytes over their budget",
            Query(
                f"max by (replica) (tandem_context_bytes{{{CLOUD}}}"
                f" / tandem_context_budget_bytes{{{CLOUD}}})",
                "{{replica}}",
            ),
            unit="percentunit",
            description="Logs and KV over TANDEM_CLOUD_CONTEXT_BYTES. Near 1, idle sessions lose "
            "their KV and then themselves.",
            reach=1,
        ),
        lines(
            "Sessions opened and ended",
            Query(f"sum(rate(tandem_contexts_created_total{{{CLOUD}}}{RATE}))", "opened"),
            _by("reason", "tandem_contexts_ended_total", "{{reason}}"),
            unit="ops",
            description="closed: by the edge; expired: idle too long; evicted: for want of room.",
        ),
        lines(
            "KV dropped, sessions sent again",
            Query(f"sum(rate(tandem_kv_evictions_total{{{CLOUD}}}{RATE}))", "KV dropped"),
            Query(f"sum(rate(tandem_rewinds_total{{{CLOUD}}}{RATE}))", "sent again"),
            unit="ops",
            description="KV dropped is computed again from the log; a session that is not here is "
            "sent again by its edge. Both cost time, never text.",
        ),
        lines(
            "Prompts whose beginning was here",
            Query(
                f"sum(rate(tandem_prefix_cache_hits_total{{{CLOUD}}}{RATE})) / "
                f"sum(rate(tandem_prefix_cache_queries_total{{{CLOUD}}}{RATE}))",
                "of their positions",
            ),
            unit="percentunit",
            description="Positions of prompts whose KV another prompt of the same caller had left, "
            "and which were not computed again.",
        ),
    ]


def _store() -> list[PanelBuilder]:
    return [
        lines(
            "Store up",
            Query(f"min by (replica) (tandem_store_up{{{CLOUD}}})", "{{replica}}"),
            unit="bool_yes_no",
            description="Whether the store of logs answers this replica; yes, where it has none. "
            "While it does not, sessions live in the replicas' memory alone.",
            most=1,
        ),
        lines(
            "Questions to the store",
            Query(
                f"sum by (operation, outcome) (rate(tandem_store_requests_total{{{CLOUD}}}{RATE}))"
                " > 0",
                "{{operation}}: {{outcome}}",
            ),
            unit="reqps",
            description="claim, read: a session is taken up; append, replace: its log is written; "
            "failed: no answer in time; skipped: not asked for a while after that; refused: full.",
        ),
        lines(
            "Store request duration",
            *quantiles(f"tandem_store_request_duration_seconds_bucket{{{CLOUD}}}"),
            unit="s",
            description="Every report that tells of a token waits for its question.",
        ),
        lines(
            "Damaged entries",
            _by("replica", "tandem_store_damaged_entries_total", "{{replica}}"),
            unit="none",
            description="Entries a second that were not what was stored. What followed was asked "
            "of the edge again.",
        ),
    ]


def _agreement() -> list[PanelBuilder]:
    return [
        lines(
            "Disagreement",
            Query("tandem:disagreement_ratio:rate5m", "of the tokens looked at"),
            unit="percentunit",
            description="Of the tokens edges kept and the full model looked at later, those it "
            "would not have chosen. It is what thresholds trade for offloading. The dashed line is "
            "the alert's limit.",
            limit=0.15,
        ),
        lines(
            "Kept tokens looked at",
            Query(f"sum(rate(tandem_judged_tokens_total{{{CLOUD}}}{RATE}))", "looked at"),
            Query(f"sum(rate(tandem_disagreed_tokens_total{{{CLOUD}}}{RATE}))", "disagreed with"),
            unit="none",
            description="Tokens a second. Those kept after a session's last question are not seen.",
        ),
    ]
