"""What was found over all seeds, as Markdown: every seed's line, and the sums."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Found = Sequence[Mapping[str, Any]]


def page(found: Found, about: Mapping[str, Any]) -> str:
    """All tables; `found` are the seeds, `about` is what was read and how."""
    first = found[0]
    parts = [
        "# Exits: targets, chances and policies on documents nobody fitted anything on\n",
        f"`{about['command']}`\n",
        f"{about['documents']} documents, {about['tokens']} tokens; each seed splits the documents "
        f"into halves of {first['documents'][0]} and {first['documents'][1]}. "
        f"Bounds hold with chance {1 - about['delta']:g}.\n",
        "## Realised disagreement (betting bound): mean over documents / of all tokens together "
        "[share offloaded]\n",
        _targets(found),
        "## Bounds compared: splits within the target, mean disagreement, mean share offloaded\n",
        _bounds(found),
        "## Calibration error on the judged half: 15 bins of equal mass (of equal width)\n",
        _calibration(found),
        "## Share offloaded at equal agreement\n",
        _policies(found),
        "## Patience, which has no knob\n",
        _patience(found),
        "## Thresholds chosen for 95 % agreement of the kept tokens, realised\n",
        _chosen(found),
    ]
    return "\n".join(parts) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _targets(found: Found) -> str:
    targets = list(found[0]["targets"])
    rows = []
    for seed in found:
        cells = [seed["targets"][target]["betting"] for target in targets]
        told = [
            f"{c['disagreement']:.4f} / {c['of_all_tokens']:.4f} [{c['offloaded']:.3f}]"
            + ("" if max(c["disagreement"], c["of_all_tokens"]) <= float(t) else " over")
            for t, c in zip(targets, cells, strict=True)
        ]
        rows.append([str(seed["seed"]), *told])
    within = [
        " / ".join(
            f"{sum(s['targets'][t]['betting'][kind] <= float(t) for s in found)}"
            for kind in ("disagreement", "of_all_tokens")
        )
        + f" of {len(found)} within"
        for t in targets
    ]
    return _table(["seed", *targets], [*rows, ["all", *within]])


def _bounds(found: Found) -> str:
    rows = []
    for target, bounds in found[0]["targets"].items():
        for bound in bounds:
            each = [seed["targets"][target][bound] for seed in found]
            wrong, whole = ([one[k] for one in each] for k in ("disagreement", "of_all_tokens"))
            within = [sum(v <= float(target) for v in values) for values in (wrong, whole)]
            rows.append(
                [
                    target,
                    bound,
                    f"{within[0]} / {within[1]} of {len(found)}",
                    f"{np.mean(wrong):.4f} / {np.mean(whole):.4f}",
                    f"{np.mean([one['offloaded'] for one in each]):.3f}",
                ]
            )
    return _table(["target", "bound", "within", "disagreement", "offloaded"], rows)


def _calibration(found: Found) -> str:
    layers = list(found[0]["calibration"])
    heads = ["seed"]
    heads += [f"exit {layer}, {kind}" for layer in layers for kind in ("before", "after")]
    rows = []
    for seed in found:
        cells = [str(seed["seed"])]
        for layer in layers:
            told = seed["calibration"][layer]
            cells += [
                f"{told[f'ece_{kind}']:.4f} ({told[f'ece_{kind}_equal_width']:.4f})"
                for kind in ("before", "after")
            ]
        rows.append(cells)
    return _table(heads, rows)


def _policies(found: Found) -> str:
    names = list(found[0]["policies"]["at_disagreement"])
    heads = ["seed", *names, "per_exit / single", "chance / single"]
    parts = []
    for kind, title in (
        ("at_disagreement", "5 % of all tokens unlike the full model's"),
        ("at_agreement_of_kept", "95 % of the kept tokens like the full model's"),
    ):
        values = [[seed["policies"][kind][name] for name in names] for seed in found]
        rows = []
        for seed, row in zip(found, values, strict=True):
            rows.append([str(seed["seed"]), *map(_share, row), *_ratios(names, row)])
        means = [_mean(column) for column in zip(*values, strict=True)]
        rows.append(["mean", *map(_share, means), *_ratios(names, means)])
        parts.append(f"At {title}:\n\n{_table(heads, rows)}")
    return "\n".join(parts)


def _ratios(names: Sequence[str], row: Sequence[float | None]) -> list[str]:
    by_name = dict(zip(names, row, strict=True))
    single = by_name["single"]
    told = []
    for name in ("per_exit", "chance"):
        value = by_name[name]
        told.append("-" if value is None or not single else f"{value / single:.3f}")
    return told


def _patience(found: Found) -> str:
    rows = []
    for exits in found[0]["policies"]["patience"]:
        each = [seed["policies"]["patience"][exits] for seed in found]
        wrong, offloaded = (np.array([e[k] for e in each]) for k in ("disagreement", "offloaded"))
        rows.append([exits, f"{wrong.mean():.4f}", f"{offloaded.mean():.3f}"])
        curves = ("per_exit", "chance")
        for name in curves:
            same = [
                np.interp(one["disagreement"], *np.array(sorted(seed["curves"][name])).T)
                for one, seed in zip(each, found, strict=True)
            ]
            rows[-1].append(f"{np.mean(same):.3f}")
    return _table(
        ["exits in a row", "disagreement", "offloaded", "per_exit at the same", "chance"], rows
    )


def _chosen(found: Found) -> str:
    rows = []
    for seed in found:
        told = seed["policies"]["chosen"]
        cells = [str(seed["seed"])]
        for name in ("single", "per_exit"):
            agreement = told[name]["agreement_of_kept"]
            cells += [f"{told[name]['offloaded']:.3f}", _share(agreement)]
        ratio = told["per_exit"]["offloaded"] / max(told["single"]["offloaded"], 1e-9)
        rows.append([*cells, f"{ratio:.3f}"])
    heads = ["seed", "single: offloaded", "agreement", "per exit: offloaded", "agreement", "ratio"]
    return _table(heads, rows)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
