"""Other people's software on the same prompts, as rows of the same table.

Peers run in a process of their own (`benchmarks.peers`), on one core, without network or HTTP: what
they would take at best. A peer that is not installed is said to be absent, and has no row.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import between_tokens
from benchmarks.prompts import Prompt
from benchmarks.quality import Judged, nearness
from benchmarks.rows import Row
from benchmarks.stack import Cores
from cli.errors import CommandError
from cli.full_model import FullModel
from services.edge.text import TextCodec

ROOT = Path(__file__).parents[1]
ON_THE_EDGE = "llama.cpp edge"  # the same engine as in the cloud, on the edge's core


def peer_rows(
    folder: Path,
    prompts: Sequence[Prompt],
    model: FullModel,
    *,
    whole: Sequence[Judged],
    new_tokens: int,
    repeats: int,
    cores: Cores,
    tell: Callable[[str], None],
) -> list[Row]:
    """Run every peer over `prompts`; `whole` are cloud-only's answers to the same."""
    told = _run(folder, prompts, new_tokens=new_tokens, repeats=repeats, cores=cores)
    text = TextCodec(folder)
    found = []
    for peer in told:
        if peer["absent"]:
            tell(f"{peer['peer']} is absent: {peer['absent']}")
            continue
        first = peer["repeats"][0]["requests"]
        answers = [
            Judged(prompt.ids, request["ids"], text.decode(request["ids"]))
            for prompt, request in zip(prompts, first, strict=True)
        ]
        near = nearness(model, answers, whole)
        found.append(
            Row(
                deployment=peer["peer"],
                agreement=near.agreement,
                identical=near.identical,
                rouge_l=near.rouge_l,
                **_figures(peer),
            )
        )
    return found


def _run(
    folder: Path, prompts: Sequence[Prompt], *, new_tokens: int, repeats: int, cores: Cores
) -> list[dict[str, Any]]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([{"prompt": each.text, "ids": each.ids} for each in prompts], file)
        file.flush()
        command = [sys.executable, "-m", "benchmarks.peers", "--model", str(folder)]
        command += ["--prompts", file.name, "--new-tokens", str(new_tokens)]
        command += ["--repeats", str(repeats), "--core", str(cores.cloud), "--json", "-"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise CommandError(f"the peers ended with code {done.returncode}; the lines above say why")
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


def _figures(peer: Mapping[str, Any]) -> dict[str, Any]:
    runs = [run["requests"] for run in peer["repeats"]]
    totals = [sum(request["total_s"] for request in run) for run in runs]
    gaps = [gap for run in runs for request in run for gap in request["gaps_s"]]
    total = statistics.median(totals)
    on_the_edge = peer["peer"] == ON_THE_EDGE
    return {
        "setup": "real",
        "rtt_ms": 0.0,
        "prompts": len(runs[0]),
        "tokens": sum(len(request["ids"]) for request in runs[0]),
        "repeats": len(runs),
        "total_s": total,
        "total_s_low": min(totals),
        "total_s_high": max(totals),
        "edge_s": total if on_the_edge else 0.0,
        "cloud_s": 0.0 if on_the_edge else total,
        "network_s": 0.0,
        "ttft_s": statistics.median(request["ttft_s"] for run in runs for request in run),
        **between_tokens(gaps),
        "offloaded": 0.0 if on_the_edge else 1.0,
        "peer": True,
        **dict.fromkeys(_ABSENT),
        **dict.fromkeys(_NOTHING, 0),
    }


# What a peer without network has none of.
_NOTHING = ("cloud_requests", "bytes_up", "bytes_down", "wire_up", "wire_down")
_ABSENT = (
    "mbit", "rtt_steps", "rtt_measured_ms", "mbit_up_measured", "mbit_down_measured", "split",
    "edge_depth", "threshold", "codec",
)  # fmt: skip
