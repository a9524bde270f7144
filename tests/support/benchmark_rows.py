"""Rows of the benchmark, made up, and the tables made of them taken apart."""

from typing import Any

from benchmarks.rows import Row

_DEFAULTS: dict[str, Any] = {
    "deployment": "cloud-only",
    "setup": "paced",
    "rtt_ms": 3.0,
    "mbit": 30.0,
    "rtt_steps": None,
    "rtt_measured_ms": 3.1,
    "mbit_up_measured": 29.9,
    "mbit_down_measured": 29.8,
    "prompts": 2,
    "tokens": 60,
    "repeats": 1,
    "total_s": 2.0,
    "total_s_low": 1.9,
    "total_s_high": 2.2,
    "edge_s": 0.5,
    "cloud_s": 1.0,
    "network_s": 0.3,
    "ttft_s": 0.1,
    "itl_p50_s": 0.03,
    "itl_p95_s": 0.05,
    "cloud_requests": 30,
    "bytes_up": 60_000,
    "bytes_down": 6000,
    "wire_up": 90_000,
    "wire_down": 9000,
    "offloaded": 0.5,
    "agreement": 0.98,
    "identical": 0.5,
    "rouge_l": 0.9,
    "split": 3,
    "edge_depth": 6,
    "threshold": None,
    "codec": "fp16",
    "peer": False,
}


def row(**changes: Any) -> Row:
    """A row with these figures, and others that could be."""
    return Row(**{**_DEFAULTS, **changes})


def lines_of(text: str) -> dict[str, list[str]]:
    """Cells of a table by the first of their line; the head is there by its own first cell."""
    split = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert len({len(line) for line in split}) == 1
    return {line[0]: line[1:] for line in split}


def column_of(text: str, deployment: str, head: str) -> str:
    """The cell of a deployment below a head."""
    lines = lines_of(text)
    return lines[deployment][lines[""].index(head)]
