"""The tables of the page: metrics with intervals or reasons, types of defects, and how the run was made."""

from collections.abc import Iterator, Mapping
from typing import Any

from anomaly_lightning.reports.page.words import DASH, DEFECT, number, reason, share


def metric_rows(
    block: Mapping[str, Any] | None, titles: Mapping[str, str], prefix: str, notes: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Rows of a table of metrics: title, value, interval, and the reason where there is no value.

    Args:
        block: Of metrics.json; None where nothing was tested.
        titles: What to call the metrics of this block, in this order; others come after them under their own name.
        prefix: Name of the block.
        notes: Reasons, by "<block>.<metric>".
    """
    values = dict(_flat(block or {}))
    known = [name for name in titles if block is None or name in values]
    others = [name for name, value in values.items() if name not in titles and _is_metric(name, value)]
    return [_row(name, titles.get(name, plain(name)), block or {}, values, prefix, notes) for name in known + others]


def _row(
    name: str,
    title: str,
    block: Mapping[str, Any],
    values: Mapping[str, Any],
    prefix: str,
    notes: Mapping[str, str],
) -> dict[str, Any]:
    value, bounds = values.get(name), block.get("ci95", {}).get(name)
    why = reason(notes, f"{prefix}.{name}", f"{prefix}.{name.partition('.')[0]}", prefix) if value is None else ""
    interval = f"{share(bounds[0])} to {share(bounds[1])}" if bounds else ""
    return {"name": name, "title": title, "value": _share(value), "interval": interval, "why": why}


def _flat(block: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Values by name; those of a block within the block get a dotted one."""
    for name, value in block.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name, value


def _is_metric(name: str, value: Any) -> bool:
    """Whether a value is a share: no threshold, count or error bound."""
    return isinstance(value, float) and not name.endswith(("threshold", "resolution"))


def defect_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table of defect types: name, n, and a cell (value, why) a metric."""
    rows = []
    for name, values in (metrics["by_defect"] or {}).items():
        notes = metrics["notes"]
        cells = [_cell(values.get(key), reason(notes, f"by_defect.{name}.{key}", "pixel")) for key in DEFECT]
        rows.append({"name": name, "n": values["n"], "cells": cells})
    return rows


def _cell(value: float | None, why: str) -> dict[str, str]:
    return {"value": _share(value), "why": why if value is None else ""}


def _share(value: float | None) -> str:
    return DASH if value is None else share(value)


def facts(metrics: Mapping[str, Any], run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was resolved and what it cost, as names and texts."""
    counts, timing, versions = (
        block or {} for block in (metrics.get("counts"), metrics.get("timing"), run.get("versions"))
    )
    hardware = run.get("hardware")
    rows = {
        **(run.get("resolved") or {}),
        "split": f"{metrics.get('split')}: {', '.join(f'{value} {plain(name)}' for name, value in counts.items())}",
        "seed": number(metrics.get("seed")),
        "data fingerprint": run.get("dataset_fingerprint"),
        "time": _stages(timing) or DASH,
        "one image": _latency(timing),
        "peak memory": _megabytes(metrics.get("peak_memory_mb")),
        "peak memory of the GPU": _megabytes(metrics.get("peak_gpu_memory_mb")),
        "machine": hardware and f"{hardware.get('accelerator') or hardware.get('processor')}, {hardware['platform']}",
        "commit": run.get("git_commit"),
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items() if value),
    }
    return [(name, str(text)) for name, text in rows.items() if text]


def _stages(timing: Mapping[str, Any]) -> str:
    stages = {name: value for name, value in timing.items() if name.endswith("_s") and value is not None}
    return ", ".join(f"{plain(name[:-2])} {value:.0f} s" for name, value in stages.items())


def _latency(timing: Mapping[str, Any]) -> str:
    if timing.get("latency_ms_p50") is None:
        return ""
    return f"median {timing['latency_ms_p50']:.0f} ms, 95th percentile {timing['latency_ms_p95']:.0f} ms"


def _megabytes(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} MiB"


def plain(name: str) -> str:
    """A name of a file's key as words."""
    return name.replace("_", " ")
