"""The model card: what `training.json`, `evaluation.json` and `calibration.json` say, as prose.

The prose is `card.md`; no figure in it is typed by hand, and a card is written again after every
training, tuning or evaluation, and after a drafter was trained. It knows the form of those three
files and of the drafters', and nothing of how they came about.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from training.text.sources import HELD_OUT, TRAINING

_TEMPLATE = Path(__file__).with_name("card.md")
_DRAFTERS = Path(__file__).with_name("card_drafters.md")
_PROSE_COLUMNS = {"from", "licence"}
_TIMED = (
    "A budget in minutes buys as many steps as the machine makes in them, so the weights will"
    " differ."
)
_FIXED = "Another machine rounds otherwise, so the weights will differ a little."


def write_card(folder: Path) -> Path:
    """Write `README.md` into a checkpoint folder that was trained, tuned and evaluated.

    Raises FileNotFoundError when one of the three files is missing.
    """
    training, evaluation, calibration = (
        json.loads((folder / f"{name}.json").read_text())
        for name in ("training", "evaluation", "calibration")
    )
    fields = {
        "name": folder.resolve().name,
        **_model_fields(training),
        **_run_fields(training),
        **_exit_fields(calibration),
        "drafters": _drafters(folder),
        "figures": _figures(evaluation["texts"], evaluation.get("before", {}).get("texts", {})),
        "compared": _compared(evaluation),
        "samples": _samples(evaluation["samples"]),
        "sources": _sources(training["config"]["mixture"]),
        "held_out": _table(
            ["file", "from", "licence"],
            [[name, source.origin, source.licence] for name, source in HELD_OUT.items()],
        ),
    }
    card = folder / "README.md"
    card.write_text(Template(_TEMPLATE.read_text()).substitute(fields))
    return card


def _model_fields(training: Mapping[str, Any]) -> dict[str, str]:
    size = training["config"]["size"]
    names = ("layers", "hidden", "heads", "kv_heads", "vocabulary", "max_positions")
    return {
        **{name: f"{size[name]:,}" for name in names},
        "millions": f"{training['parameters'] / 1e6:.1f}",
        "exits": " and ".join(map(str, size["exits"])),
    }


def _run_fields(training: Mapping[str, Any]) -> dict[str, str]:
    minutes, seed = f"{training['seconds'] / 60:.0f}", training["config"]["seed"]
    # Runs that did not write down their budget had one in minutes.
    budget = training.get("budget") or {"minutes": minutes}
    start = training.get("started_from")
    options = [f"--{unit} {size}" for unit, size in budget.items()]
    return {
        "options": " ".join([*(["--start START"] if start else []), *options, f"--seed {seed}"]),
        "repeatable": _FIXED if "tokens" in budget else _TIMED,
        "before": _before(start) if start else "",
        "steps": f"{training['steps']:,}",
        "tokens": f"{training['tokens'] / 1e6:.1f}",
        "minutes": minutes,
        "device": training["device"],
        "seed": str(seed),
    }


def _before(start: Mapping[str, Any]) -> str:
    return (
        f", beginning (START) with the {start['name']} of fingerprint "
        f"`{start['model_fingerprint'][:12]}`, trained on {start['tokens'] / 1e6:.1f} million"
        " tokens before"
    )


def _exit_fields(calibration: Mapping[str, Any]) -> dict[str, str]:
    exits, thresholds = calibration["exits"], calibration["thresholds"]
    tested = calibration["tested_on"]
    parts = {
        "the prompts that chose": calibration["chosen_on"],
        **({"the other prompts": tested} if tested else {}),
        **{f"– {name}": kept for name, kept in calibration["tested_by_source"].items()},
    }
    head = ["on", "tokens", "kept", *(f"kept at exit {layer}" for layer in exits), "agreement"]
    rows = [
        [
            name,
            f"{kept['tokens']:,}",
            _percent(kept["share"]),
            *map(_percent, kept["shares"]),
            _percent(kept["agreement"]),
        ]
        for name, kept in parts.items()
    ]
    chosen = zip(exits, thresholds, strict=True)
    return {
        "thresholds": " and ".join(f"{value:g} at exit {layer}" for layer, value in chosen),
        "target": _percent(calibration["target"]),
        "kept": _table(head, rows),
    }


def _drafters(folder: Path) -> str:
    """The section on drafters; nothing where there are none."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("drafter-*.json"))]
    if not found:
        return ""
    head = ["split", "edge depth", "text", "tokens", "before", "after", "one of 2", "one of 4"]
    rows = [
        [
            str(drafter["split"]),
            str(drafter["edge_depth"]),
            kind,
            f"{tokens:,}",
            _percent(shares["before"][kind]),
            _percent(shares["after"][kind]),
            _percent(shares["best_of"][kind][1]),
            _percent(shares["best_of"][kind][3]),
        ]
        for drafter in found
        for shares in (drafter["acceptance"],)
        for kind, tokens in shares["tokens"].items()
    ]
    made = [
        [
            str(drafter["split"]),
            str(drafter["edge_depth"]),
            f"{drafter['exits'][0]['threshold']:g}",
            f"{drafter['exits'][-1]['threshold']:g}",
            f"{drafter['training']['steps']:,}",
            f"{drafter['training']['parameters']:,}",
        ]
        for drafter in found
    ]
    columns = ["split", "edge depth", "threshold, split", "threshold, edge depth"]
    return Template(_DRAFTERS.read_text()).substitute(
        acceptance=_table(head, rows), made=_table([*columns, "steps", "weights"], made)
    )


def _figures(texts: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    *exits, end = next(iter(texts.values()))["perplexity"]
    head = [
        "text",
        "tokens",
        *(f"perplexity, exit {layer}" for layer in exits),
        "perplexity, end",
        *(["before"] if before else []),
        "bits per byte, end",
        *(f"agreement, exit {layer}" for layer in exits),
    ]
    rows = [
        [
            name,
            f"{score['tokens']:,}",
            *(f"{score['perplexity'][layer]:.1f}" for layer in (*exits, end)),
            *([f"{before[name]['perplexity'][end]:.1f}"] if before else []),
            f"{score['bits_per_byte']:.2f}",
            *(_percent(score["agreement"][layer]) for layer in exits),
        ]
        for name, score in texts.items()
    ]
    return _table(head, rows)


def _compared(evaluation: Mapping[str, Any]) -> str:
    if "before" not in evaluation:
        return ""
    fingerprint = evaluation["before"]["model_fingerprint"]
    return f" *Before*: by the weights of fingerprint `{fingerprint[:12]}`."


def _samples(samples: Sequence[Mapping[str, str]]) -> str:
    """Each opening with what the model made of it, as quoted text."""
    parts = []
    for sample in samples:
        texts = {"greedy": sample["greedy"], "drawn": sample["drawn"]}
        quoted = [_quoted(sample["opening"])]
        quoted += [f"*{how}:*\n\n{_quoted(text)}" for how, text in texts.items()]
        parts.append("\n".join(quoted))
    return "\n---\n\n".join(parts)


def _quoted(text: str) -> str:
    """As a block of code, whatever is in the text."""
    return "".join(f"    {line}\n" for line in text.strip().splitlines()) or "    \n"


def _sources(mixture: Mapping[str, float]) -> str:
    rows = [
        [name, TRAINING[name].origin, _percent(share), TRAINING[name].licence]
        for name, share in mixture.items()
        if name in TRAINING
    ]
    return _table(["source", "from", "share", "licence"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *("---" if name in _PROSE_COLUMNS else "---:" for name in head[1:])]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *rows))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
