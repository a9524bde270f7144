"""The few kinds of panel the dashboards are made of, in the words of grafana-foundation-sdk.

A panel says what it shows, in which unit, and what to make of it; where it stands is given by its
order. It knows Grafana, not our metrics.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    timeseries,
)
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import prometheus as prometheus_models

SOURCE = models.DataSourceRef(type_val="prometheus", uid="prometheus")
TAG = "tandem"
# Of Grafana's 24 columns.
HALF, SIXTH = 12, 4
PanelBuilder: TypeAlias = "timeseries.Panel | heatmap.Panel | stat.Panel"


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and what its series are called."""

    expr: str
    legend: str


def lines(
    title: str,
    *queries: Query,
    unit: str,
    description: str,
    stacked: bool = False,
    most: float | None = None,
    reach: float | None = None,
    limit: float | None = None,
) -> timeseries.Panel:
    """Series over time from 0 up, two panels a row.

    `most` fixes the axis' end, `reach` is the least it shows; a dashed line stands at `limit`.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(HALF)
        .height(8)
        .line_width(1)
        .fill_opacity(30 if stacked else 8)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.TABLE)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
            .calcs(["mean", "max", "lastNotNull"])
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
    )
    if stacked:
        panel = panel.stacking(
            common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A")
        )
    if most is not None:
        panel = panel.max(most)
    if reach is not None:
        panel = panel.axis_soft_max(reach)
    if limit is not None:
        panel = panel.thresholds(_colours((None, "transparent"), (limit, "red"))).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphTresholdsStyleMode.DASHED)
        )
    for at, query in enumerate(queries):
        panel = panel.with_target(_target(query, at))
    return panel


def heat(title: str, expr: str, *, unit: str, description: str) -> heatmap.Panel:
    """A histogram over time; `expr` gives its buckets by `le`."""
    buckets = _target(Query(expr, "{{le}}"), 0).format(prometheus_models.PromQueryFormat.HEATMAP)
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .span(HALF)
        .height(8)
        .calculate(calculate=False)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_models.HeatmapColorMode.SCHEME)
            .scheme("Spectral")
            .reverse(reverse=True)
            .steps(64)
        )
        .with_target(buckets)
    )


def number(
    title: str,
    expr: str,
    *,
    unit: str,
    description: str,
    steps: Sequence[tuple[float | None, str]] = ((None, "blue"),),
) -> stat.Panel:
    """One number, six a row; `steps` are colours from a value up, the first from None."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(SIXTH)
        .height(4)
        .graph_mode(common_models.BigValueGraphMode.AREA)
        .color_mode(common_models.BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["last"]))
        .no_value("no traffic")
        .thresholds(_colours(*steps))
        .with_target(_target(Query(expr, ""), 0))
    )


def quantiles(metric: str) -> list[Query]:
    """The usual four of a histogram's buckets (`x_seconds_bucket{job="edge"}`), and its mean."""
    rate = f"sum by (le) (rate({metric}[$__rate_interval]))"
    shown = [
        Query(f"histogram_quantile({share}, {rate})", f"p{round(100 * share)}")
        for share in (0.99, 0.95, 0.9, 0.5)
    ]
    total, count = (metric.replace("_bucket{", f"_{part}{{") for part in ("sum", "count"))
    mean = f"sum(rate({total}[$__rate_interval])) / (sum(rate({count}[$__rate_interval])) > 0)"
    return [*shown, Query(mean, "mean")]


def board(
    title: str,
    uid: str,
    description: str,
    rows: Sequence[tuple[str, Sequence[PanelBuilder]]],
    variables: Sequence[tuple[str, str]] = (),
) -> dashboard.Dashboard:
    """A dashboard of titled rows; a variable is (label, metric whose values of it are offered)."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .time("now-30m", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Tandem")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .keep_time(keep_time=True)
            .include_vars(include_vars=True)
        )
    )
    for name, metric in variables:
        made = made.with_variable(
            dashboard.QueryVariable(name)
            .label(name)
            .query(f"label_values({metric}, {name})")
            .datasource(SOURCE)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(multi=True)
            .include_all(include_all=True)
            .all_value(".*")
            .current(models.VariableOption(text="All", value="$__all"))
        )
    numbers = itertools.count(1)
    for name, panels in rows:
        made = made.with_row(dashboard.Row(name).id(next(numbers)))
        for panel in panels:
            made = made.with_panel(panel.id(next(numbers)))
    return made


def _colours(*steps: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in steps])
    )


def _target(query: Query, at: int) -> prometheus.Dataquery:
    target = (
        prometheus.Dataquery()
        .expr(query.expr)
        .range()
        .editor_mode(prometheus_models.QueryEditorMode.CODE)
        .ref_id(chr(ord("A") + at))
    )
    return target.legend_format(query.legend) if query.legend else target
