"""What runs leave behind: an event log and expectation counts, one commit each."""

import json
import shutil

import pyarrow as pa
import pytest
from click.testing import CliRunner

from shoal.cli import cli
from shoal.errors import PipelineError, TableNotFound

TABLES = """
@dp.table(name="bronze.events")
@shoal.expect("known", "kind IS NOT NULL")
@shoal.expect_or_drop("positive", "id >= 0")
def bronze():
    return spark.readStream.schema("id INT, kind STRING").json("landing")

@dp.materialized_view(name="gold.kinds")
def gold():
    return spark.table("bronze.events").groupBy("kind").count()
"""
EVENTS, EXPECTATIONS = "shoal.events", "shoal.expectations"


def events(project, **options):
    with project.open() as space:
        return space.events(**options)


def shell(project, *words):
    result = CliRunner().invoke(cli, [*words, "--project", str(project.root)])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_run_is_one_commit_of_events_and_one_of_counts(project):
    project.python(TABLES)
    project.land("0.json", [{"id": 1, "kind": "a"}, {"id": 2}, {"id": -1, "kind": "b"}])
    project.ok()
    found = events(project)
    assert [(e["event_type"], e["level"], e["dataset"]) for e in found] == [
        ("run_start", "INFO", None),
        ("flow_progress", "INFO", "bronze.events"),
        ("expectation", "WARN", "bronze.events"),
        ("expectation", "WARN", "bronze.events"),
        ("flow_progress", "INFO", "gold.kinds"),
        ("run_end", "INFO", None),
    ]
    assert len({e["run_id"] for e in found}) == 1
    progress = found[1]["details"]
    assert (progress["rows"], progress["dropped"], progress["version"]) == (2, 1, 0)
    assert found[2]["details"] == {
        "expectation": "known", "condition": "kind IS NOT NULL", "action": "warn",
        "passed": 2, "failed": 1,
    }  # fmt: skip
    assert found[-1]["details"]["status"] == "completed"
    tables = (project.lake.table(EVENTS), project.lake.table(EXPECTATIONS))
    assert [table.version() for table in tables] == [0, 0]
    project.ok()
    assert [table.version() for table in tables] == [0, 0], "nothing happened"
    project.land("1.json", [{"id": 3, "kind": "a"}])
    project.ok()
    assert [table.version() for table in tables] == [1, 1]
    assert not (project.storage / "_shoal").exists()


def test_failures_skips_and_notes_are_events(project):
    project.python(TABLES.replace("id >= 0", "id > 0").replace("expect_or_drop", "expect_or_fail"))
    project.land("0.json", [{"id": 1, "kind": "a"}, {"id": 0, "kind": "a"}])
    project.land("1.json", "")
    assert project.run()["bronze.events"].status == "failed"
    found = events(project, level="WARN")
    assert [(e["event_type"], e["level"], e["dataset"]) for e in found] == [
        ("expectation", "ERROR", "bronze.events"),
        ("error", "ERROR", "bronze.events"),
        ("flow_progress", "WARN", "gold.kinds"),
        ("run_end", "ERROR", None),
    ]
    assert "1 of 2 rows" in found[1]["message"]
    assert found[-1]["details"]["failed"] == ["bronze.events", "gold.kinds"]
    project.python(TABLES)
    project.ok()
    notes = [e["message"] for e in events(project) if e["event_type"] == "note"]
    assert len(notes) == 1
    assert "1.json is empty" in notes[0]


def test_a_run_that_is_refused_is_an_event(project):
    project.python(TABLES.replace('groupBy("kind")', 'groupBy("kidn")'))
    project.land("0.json", [{"id": 1}])
    with pytest.raises(PipelineError, match="kidn"):
        project.run()
    found = events(project)
    assert [e["event_type"] for e in found] == ["run_start", "error", "run_end"]
    assert "kidn" in found[1]["message"]
    assert found[2]["details"]["status"] == "failed"


def test_a_damaged_or_old_note_of_a_run_stops_nothing(project):
    project.python(TABLES)
    note = project.storage / "_shoal/run.json"
    note.parent.mkdir(parents=True)
    note.write_text('{"run_id": "x", "sta')
    project.land("0.json", [{"id": 1, "kind": "a"}])
    project.ok()
    assert not note.exists()
    last = events(project)[-1]
    # A run that was killed after its record was written, but before its note was removed.
    note.parent.mkdir()
    path = project.lake.table("bronze.events").path
    tables = {"bronze.events": path, "gold.gone": path + "-gone"}
    started = "2020-01-01T00:00:00+00:00"
    note.write_text(json.dumps({"run_id": last["run_id"], "started": started, "tables": tables}))
    before = len(events(project)), project.lake.table(EXPECTATIONS).size()[0]
    project.ok()
    assert (len(events(project)), project.lake.table(EXPECTATIONS).size()[0]) == before
    assert not note.exists()


def test_a_log_that_cannot_be_written_costs_no_table_and_is_filled_in(project):
    project.python(TABLES)
    project.land("0.json", [{"id": 1, "kind": "a"}, {"id": 2}])
    foreign = project.lake.table(EVENTS)
    foreign.append(pa.table({"run_id": [1]}))
    with pytest.warns(RuntimeWarning, match="record of run .* could not be written"):
        project.ok()
    assert project.rows("bronze.events", "id") == [1, 2]
    shutil.rmtree(foreign.path)
    project.ok()
    assert [e["event_type"] for e in events(project)] == [
        "run_start", "flow_progress", "expectation", "expectation", "flow_progress", "run_end"
    ]  # fmt: skip
    assert events(project)[-1]["details"] == {"status": "killed"}
    assert project.rows(EXPECTATIONS, "expectation", "passed", "failed") == [
        ("known", 1, 1), ("positive", 2, 0)
    ]  # fmt: skip


def test_the_commands_show_events_and_quality(project):
    project.python(TABLES)
    project.land("0.json", [{"id": 1, "kind": "[a]"}, {"id": 2}])
    project.ok()
    project.land("1.json", [{"id": 3, "kind": "a"}])
    project.ok()
    shown = shell(project, "events", "bronze.events", "--level", "warn")
    assert "known: 1 of 2 rows broke it" in shown and "run_end" not in shown
    last = json.loads(shell(project, "events", "--run", "last", "--json"))
    assert last[1]["message"] == "incremental: 1 rows (1 new file)"
    assert len(shell(project, "events", "--limit", "2").splitlines()) == 2
    known, positive = json.loads(shell(project, "quality", "--json"))
    assert (known["expectation"], known["runs"], known["passed"], known["failed"]) == (
        "known", 2, 2, 1
    )  # fmt: skip
    assert (known["rates"], positive["rates"]) == ([0.5, 1.0], [1.0, 1.0])
    assert "50.0 100" in shell(project, "quality", "bronze.events")


def test_what_was_never_taken_down_is_said_to_be_so(project):
    project.python(TABLES)
    for name, message in (("events", "left an event"), ("quality", "checked an expectation")):
        with project.open() as space, pytest.raises(TableNotFound, match=message):
            getattr(space, name)()
    project.land("0.json", [{"id": 1, "kind": "a"}])
    project.ok()
    with project.open() as space:
        with pytest.raises(TableNotFound, match="Nothing was taken down of 'bronze.event'") as told:
            space.quality("bronze.event")
        assert "bronze.events" in str(told.value.hint)
        with pytest.raises(TableNotFound, match="begins with 'zz'"):
            space.events(run="zz")
