"""A flow's progress reads back as it was committed, whatever happened before."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import TableError
from shoal.lake import Lake, Progress

MARKS = st.lists(st.integers(0, 2**62), min_size=2, max_size=2)
FILES = st.dictionaries(st.sampled_from([f"/in/{c}.json" for c in "abcdé "]), MARKS, max_size=5)
VERSIONS = st.dictionaries(
    st.sampled_from(["a.b", "silver.größe"]), st.tuples(st.text(max_size=5), st.integers(0, 99))
)
# What a refresh does: it goes on from what it read, keeps the files and adds to them; or it starts
# from nothing (--full-refresh) under the next number; or it dies between document and commit.
STEP = st.tuples(
    st.sampled_from(["more", "replace", "afresh", "crash"]),
    FILES,
    VERSIONS,
    st.one_of(st.none(), st.text(max_size=8)),
)
SCHEMA = pa.schema([("id", pa.int64())])
OTHER = pa.schema([("id", pa.string())])  # refused, after the progress was written


@settings(max_examples=25, deadline=None)
@given(st.lists(STEP, max_size=8), st.sampled_from(["gold.totals", "a/b", "../x", "größe %"]))
def test_any_sequence_of_updates_reads_back(steps, flow) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = Lake(folder).table("a.b")
        expected = Progress(flow=flow)
        for kind, files, versions, definition in steps:
            read = table.progress(flow)
            assert replace(read, number=expected.number) == expected
            before = read if kind != "afresh" else Progress(flow=flow, number=read.number)
            after = Progress(
                flow=flow,
                number=read.number + 1,
                files={**before.files, **files} if kind != "replace" else files,
                versions=versions,
                definition=definition,
            )
            if kind == "crash" and table.exists():
                with pytest.raises(TableError, match="Column 'id'"):
                    table.commit([], OTHER, progress=[(before, after)])
            else:
                table.commit([], SCHEMA, progress=[(before, after)])
                expected = after
        last = table.progress(flow)
        assert replace(last, number=expected.number) == expected
        assert last.number >= expected.number, "a document that died keeps its number"


def test_a_long_chain_of_documents_is_cut_by_whole_ones(lake) -> None:
    table = lake.table("a.b")
    for number in range(45):
        before = table.progress("f")
        files = {**before.files, f"/in/{number}": [number, number]}
        after = Progress(flow="f", number=number, files=files)
        table.commit([], SCHEMA, progress=[(before, after)])
    assert table.progress("f").files == {f"/in/{n}": [n, n] for n in range(45)}
    sizes = [p.stat().st_size for p in sorted((Path(table.path) / "_shoal" / "f").iterdir())]
    assert len(sizes) == 45
    assert sum(size > 300 for size in sizes) <= 3, "most documents hold only what is new"


def test_a_document_that_no_commit_names_is_ignored_and_left_alone(lake) -> None:
    table = lake.table("a.b")
    table.commit([], SCHEMA, progress=[step(Progress(flow="f"), {"/a": [1, 1]})])
    stray = Path(table.path) / "_shoal" / "f" / f"{1:012}.json"
    stray.write_text('{"whole": false, "files": {"/lost": [1, 1]}')  # half written, too
    assert table.progress("f").files == {"/a": [1, 1]}
    table.commit([], SCHEMA, progress=[step(table.progress("f"), {"/a": [1, 1], "/b": [2, 2]})])
    assert table.progress("f").files == {"/a": [1, 1], "/b": [2, 2]}
    assert "/lost" in stray.read_text(), "its writer may be about to commit it"


def test_two_flows_of_one_table_keep_apart(lake) -> None:
    table = lake.table("a.b")
    one, other = Progress(flow="one"), Progress(flow="other")
    table.commit([], SCHEMA, progress=[step(one, {"/a": [1, 1]}), step(other, {"/b": [1, 1]})])
    table.commit([], SCHEMA, progress=[step(table.progress("one"), {"/c": [1, 1]})])
    assert table.progress("one").number == 1
    assert table.progress("other").files == {"/b": [1, 1]}


@pytest.mark.parametrize("damage", [None, "{"])
def test_a_document_that_is_named_and_gone_is_an_error(lake, damage) -> None:
    table = lake.table("a.b")
    table.commit([], SCHEMA, progress=[step(Progress(flow="f"), {"/a": [1, 1]})])
    document = Path(table.path) / "_shoal" / "f" / f"{0:012}.json"
    document.unlink() if damage is None else document.write_text(damage)
    with pytest.raises(TableError, match="progress of flow 'f' is damaged") as error:
        table.progress("f")
    assert "--full-refresh" in error.value.hint


def step(before: Progress, files: dict) -> tuple[Progress, Progress]:
    return before, Progress(flow=before.flow, number=before.number + 1, files=files)
