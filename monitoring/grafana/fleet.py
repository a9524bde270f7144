"""The dashboard of the edges, one series each: which differs, and whether it or its link is why."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from monitoring.grafana.panels import PanelBuilder, Query, board, lines

EDGE = 'job="edge",edge=~"$edge"'
RATE = "[$__rate_interval]"


def fleet() -> Dashboard:
    """The Edge fleet dashboard."""
    return board(
        "Tandem / Edge fleet",
        "tandem-fleet",
        "Every edge by itself.",
        (
            ("Tokens", _tokens()),
            ("The way to the cloud", _link()),
            ("What exits keep", _quality()),
            ("The edges themselves", _engines()),
        ),
        variables=[("edge", 'up{job="edge"}')],
    )


def _p95(metric: str) -> Query:
    rate = f"rate({metric}_bucket{{{EDGE}}}{RATE})"
    return Query(f"histogram_quantile(0.95, sum by (edge, le) ({rate}))", "{{edge}}")


def _sum(metric: str, legend: str = "{{edge}}", by: str = "edge") -> Query:
    return Query(f"sum by ({by}) (rate({metric}{{{EDGE}}}{RATE}))", legend)


def _tokens() -> list[PanelBuilder]:
    cloud = f'sum by (edge) (rate(tandem_tokens_total{{{EDGE},source="cloud"}}{RATE}))'
    every = f"sum by (edge) (rate(tandem_tokens_total{{{EDGE}}}{RATE}))"
    return [
        lines(
            "Offload ratio",
            Query(f"{cloud} / ({every} > 0)", "{{edge}}"),
            unit="percentunit",
            description="Tokens the cloud chose over all tokens. An edge that differs has other "
            "traffic, or other thresholds.",
            most=1,
        ),
        lines(
            "Tokens a second",
            _sum("tandem_tokens_total"),
            unit="none",
            description="Tokens given to users.",
        ),
        lines(
            "Time to first token, p95",
            _p95("tandem_time_to_first_token_seconds"),
            unit="s",
            description="From request to first token. The dashed line is the alert's limit.",
            limit=5,
        ),
        lines(
            "Between tokens, p95",
            _p95("tandem_inter_token_latency_seconds"),
            unit="s",
            description="Between one token of a request and the next. The dashed line is the "
            "alert's limit.",
            limit=0.5,
        ),
    ]


def _link() -> list[PanelBuilder]:
    return [
        lines(
            "Link up",
            Query(f"min by (edge) (tandem_link_up{{{EDGE}}})", "{{edge}}"),
            unit="bool_yes_no",
            description="Whether the cloud answers this edge and fits it.",
            most=1,
        ),
        lines(
            "Replicas serving",
            Query(f"min by (edge) (tandem_cloud_replicas_serving{{{EDGE}}})", "{{edge}}"),
            unit="none",
            description="Replicas of the cloud this edge knows that answer, fit and mean to stay.",
        ),
        lines(
            "Sessions moved",
            _sum("tandem_session_moves_total"),
            unit="ops",
            description="Sessions that went on at another replica, because theirs failed or said "
            "that it would end.",
        ),
        lines(
            "Round trip",
            Query(f"max by (edge) (tandem_link_round_trip_seconds{{{EDGE}}})", "{{edge}}"),
            unit="s",
            description="The edge's estimate of the network's delay, there and back.",
        ),
        lines(
            "Bytes up",
            _sum("tandem_uplink_bytes_total"),
            unit="Bps",
            description="Bodies of messages to the cloud: hidden states, coded.",
        ),
        lines(
            "Bytes down",
            _sum("tandem_downlink_bytes_total"),
            unit="Bps",
            description="Bodies of reports from the cloud.",
        ),
        lines(
            "Cloud requests by outcome",
            Query(
                f"sum by (operation, outcome) (rate(tandem_cloud_requests_total{{{EDGE}}}{RATE}))"
                " > 0",
                "{{operation}}: {{outcome}}",
            ),
            unit="reqps",
            description="Requests of the chosen edges to the cloud.",
        ),
        lines(
            "Degraded requests",
            _sum("tandem_degraded_requests_total"),
            unit="reqps",
            description="Requests that went on without the cloud they should have had.",
        ),
    ]


def _quality() -> list[PanelBuilder]:
    return [
        lines(
            "Tokens unlike the full model's",
            Query(f"max by (edge, bound) (tandem_disagreement{{{EDGE}}})", "{{edge}}: {{bound}}"),
            unit="percentunit",
            description="The edge's estimate of the share of tokens that are not the full model's "
            "choice, over all requests that exits decide, those with a threshold or target of "
            "their own included; and the bounds that hold the true one in 95 of 100 cases.",
        ),
        lines(
            "Tokens unlike the full model's, by target",
            Query(
                f"max by (edge, text, target, bound) (tandem_target_disagreement{{{EDGE}}})",
                "{{edge}}, {{text}} {{target}}: {{bound}}",
            ),
            unit="percentunit",
            description="The estimate over the requests that were served for one target, greedy or "
            "sampled, its bounds, and the target itself. Of few requests it says little: over some "
            "thousand tokens the lower bound should not lie above the target.",
        ),
        lines(
            "Thresholds in force",
            Query(
                f"max by (edge, exit) (tandem_exit_threshold{{{EDGE}}})", "{{edge}}: exit {{exit}}"
            ),
            unit="none",
            description="What an exit must be over to keep a token of a greedy request that says "
            "nothing; they move where a target is held.",
            most=1,
        ),
        lines(
            "Kept tokens and who looked at them",
            _sum("tandem_judged_tokens_total", "{{edge}}: judged by the way"),
            _sum("tandem_tail_tokens_total", "{{edge}}: after the last offload"),
            _sum("tandem_audited_tokens_total", "{{edge}}: of these audited"),
            unit="ops",
            description="Kept tokens the cloud judged before a token it was asked for, those after "
            "the last one, and those of them that an audit had judged.",
        ),
        lines(
            "Audits by outcome",
            _sum("tandem_audits_total", "{{edge}}: {{outcome}}", "edge, outcome"),
            unit="ops",
            description="Requests chosen for an audit: judged, dropped for others, late or failed.",
        ),
        lines(
            "Bytes of audits",
            _sum("tandem_audit_bytes_total"),
            unit="Bps",
            description="Bodies of messages of audits, both ways; in no request's account.",
        ),
    ]


def _engines() -> list[PanelBuilder]:
    return [
        lines(
            "Requests running",
            Query(f"sum by (edge) (tandem_num_requests_running{{{EDGE}}})", "{{edge}}"),
            unit="none",
            description="Requests being served.",
        ),
        lines(
            "Engine utilization",
            _sum("tandem_compute_seconds_total"),
            unit="percentunit",
            description="Share of the time the edge's engine computes. Near 1, tokens wait for it.",
            reach=1,
        ),
        lines(
            "KV cache",
            Query(f"max by (edge) (tandem_kv_cache_usage_ratio{{{EDGE}}})", "{{edge}}"),
            unit="percentunit",
            description="KV cache in use over TANDEM_EDGE_KV_BYTES. The dashed line is the "
            "alert's limit.",
            reach=1,
            limit=0.9,
        ),
        lines(
            "Rejected for want of room",
            _sum("tandem_admission_rejections_total", "{{edge}}: {{reason}}", "edge, reason"),
            unit="reqps",
            description="Requests answered with 503: too many at once, or no room for KV.",
        ),
    ]
