"""Fitted members become one Delta commit and one fleet artifact."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from shoal.lake import Lake
from shoal.models import FleetHeader, TrainedFleet, write_fleet
from shoal.models.code import own_code
from shoal.models.codecs import template_modules
from shoal.training.artifacts import artifact_folder
from shoal.training.fingerprint import member_fingerprint
from shoal.training.members import BASELINE, PROVENANCE, Members
from shoal.training.plan import Plan
from shoal.training.source import Source
from shoal.training.summary import declared_params, summarise

__all__ = ["commit_fleet"]


def commit_fleet(
    plan: Plan, lake: Lake, members: Members, *, seconds: float, begun: float, reason: str
) -> TrainedFleet:
    """Commit all members in one transaction, and write the artifact.

    Args:
        plan: What was fitted.
        lake: Where ``shoal.fleet_<name>`` goes.
        members: The members.
        seconds: Wall-clock time of fitting.
        begun: When the training began, by `time.perf_counter`.
        reason: What was fitted and why.

    Raises:
        Conflict: Another training of the model committed first; nothing was committed.
    """
    declaration, source = plan.declaration, plan.source
    table = lake.table(f"shoal.fleet_{declaration.name}")
    application = f"shoal-fleet-{declaration.name}"
    table_id, fingerprint = source.table.id(), member_fingerprint(declaration, source)
    fleet_version = (table.transaction(application) or 0) + 1
    header = FleetHeader(
        model=declaration.name,
        fleet_version=fleet_version,
        task=plan.task,
        by=declaration.by,
        features=source.features,
        target=declaration.target,
        classes=plan.target.classes,
        levels=tuple(declaration.by[:length] for length in range(len(declaration.by), -1, -1)),
        templates=members.templates,
        table=source.table.name,
        table_version=source.version,
        interval=declaration.interval,
        modules=tuple(sorted({m for t in members.templates.values() for m in template_modules(t)})),
    )
    made = {
        "origin_version": fleet_version,
        "trained_on_version": source.version,
        "table_version": source.version,
        "fingerprint": fingerprint,
        "trained_at": datetime.now(UTC),
    }
    rows = members.table
    for name, kind in PROVENANCE.items():
        filled = rows.column(name).fill_null(pa.scalar(made[name], kind))
        rows = rows.set_column(rows.schema.get_field_index(name), name, filled)
    same = {
        "fleet_version": pa.scalar(fleet_version, pa.int64()),
        "table": pa.scalar(source.table.name, pa.string()),
    }
    for name, value in same.items():
        rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
    rows = rows.append_column("params", _params(plan, rows.column("segment").to_pylist()))
    artifact = artifact_folder(table, fleet_version)
    code = own_code(header.modules, declaration.function)
    write_fleet(artifact, header, members.table, code=code)
    try:
        committed = table.append(
            rows,
            app=(application, fleet_version),
            metadata={
                "shoal": "fleet",
                "fleet_version": str(fleet_version),
                "shoal.table_id": table_id,
                "shoal.centre": repr(plan.target.mean),
                "shoal.classes": json.dumps(plan.target.classes),
            },
        )
    except BaseException:
        shutil.rmtree(artifact, ignore_errors=True)
        raise
    example = [*declaration.by, *(f.name for f in source.features)]
    return TrainedFleet(
        declaration=declaration,
        fleet_version=fleet_version,
        table=source.table.name,
        table_version=source.version,
        table_id=table_id,
        table_path=source.table.path,
        members_table=table.name,
        members_version=committed,
        artifact=artifact,
        params=declared_params(declaration),
        metrics=summarise(
            members,
            plan.job.metrics,
            plan.job.metric,
            rows=int(plan.segments.offsets[-1]),
            fit_seconds=seconds,
        ),
        seed=declaration.seed,
        input_example=_example(source, example),
        seconds=time.perf_counter() - begun,
        failures=members.failures,
        reason=reason,
        current_version=pc.min(rows.column("table_version")).as_py(),
    )


def _params(plan: Plan, keys: list[str]) -> pa.Array:
    """The declared settings and each member's parameters, as JSON."""
    declaration = plan.declaration
    texts = [
        json.dumps(declared_params(replace(declaration, params=params)))
        for params in plan.choices.params
    ]
    if not declaration.tuned:
        return pa.repeat(texts[0], len(keys))
    chosen = [0 if key == BASELINE else plan.choices.of(json.loads(key)) for key in keys]
    return pa.array(texts, pa.string()).take(pa.array(chosen))


def _example(source: Source, columns: list[str]) -> pa.Table:
    found = source.scan().select(columns).head(5).collect().to_arrow()
    text = (pa.types.is_large_string, pa.types.is_string_view)
    plain = [
        f.with_type(pa.string()) if any(of(f.type) for of in text) else f for f in found.schema
    ]
    return found.cast(pa.schema(plain))
