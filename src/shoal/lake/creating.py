"""Makes a table, or makes it anew with other columns, in the commit that brings its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.lake.log import log_kept
from shoal.lake.options import delta_options
from shoal.lake.protocol import CHECK, settings_of

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable, Schema
    from deltalake.transaction import AddAction

__all__ = ["create"]


def create(
    path: str,
    columns: Schema,
    actions: Sequence[AddAction],
    *,
    before: DeltaTable | None,
    name: str,
    partition_by: Sequence[str],
    comment: str | None,
    properties: Mapping[str, str],
    commit: CommitProperties,
) -> None:
    """Commits files as the first version of a table, or as one with new columns.

    Args:
        path: The table's folder or URL.
        columns: Its columns.
        actions: The files.
        before: The table as it is now, if there is one; its CHECK constraints stay.
        name: The table's name.
        partition_by: Partition columns.
        comment: Description.
        properties: Table properties; ``delta.constraints.<name>`` are CHECK constraints.
        commit: What goes with the commit.
    """
    from deltalake import DeltaTable
    from deltalake.transaction import create_table_with_add_actions

    options = delta_options(path)
    if options is None:
        Path(path).mkdir(parents=True, exist_ok=True)
    wanted = {**(settings_of(before) if before else {}), **properties}
    checks = {k.removeprefix(CHECK): v for k, v in wanted.items() if k.startswith(CHECK)}
    known = {
        k: v for k, v in properties.items() if k.startswith("delta.") and not k.startswith(CHECK)
    }
    create_table_with_add_actions(
        path,
        columns,
        list(actions),
        mode="overwrite" if before else "error",
        partition_by=list(partition_by) or None,
        name=name,
        description=comment,
        configuration=known or None,
        commit_properties=commit,
        storage_options=options,
    )
    # delta-rs makes no table with constraints or properties of other products: it adds them later.
    others = {k: v for k, v in properties.items() if not k.startswith("delta.")}
    if others:
        DeltaTable(path, storage_options=options).alter.set_table_properties(
            others, raise_if_not_exists=False, post_commithook_properties=log_kept()
        )
    for rule, condition in checks.items():
        DeltaTable(path, storage_options=options).alter.add_constraint(
            {rule: condition}, post_commithook_properties=log_kept()
        )
