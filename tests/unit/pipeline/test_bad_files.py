"""Input files that are odd, changing, or not there: nothing is lost, and what waits is named."""

import os

EVENTS = """
@dp.table(name="bronze.events")
def events():
    rows = spark.readStream.format("json")
    return rows.schema("id BIGINT, name STRING, _corrupt_record STRING").load("landing")
"""


def line(number: int) -> str:
    return f'{{"id": {number}, "name": "x"}}\n'


def test_a_growing_file_waits_until_its_last_line_is_whole(project) -> None:
    project.python(EVENTS)
    project.land("1.json", line(1))
    growing = project.root / "landing" / "2.json"
    growing.write_text(line(2) + '{"id": 3, "na')
    found = project.ok()["bronze.events"]
    assert found.rows == 1
    assert found.notes == (f"{growing} is still being written; it waits for a later run",)
    growing.write_text(line(2) + line(3))
    assert project.ok()["bronze.events"].rows == 2
    assert project.rows("bronze.events", "id") == [1, 2, 3]


def test_a_file_that_ends_half_way_and_rests_is_read_with_its_rest_rescued(project) -> None:
    project.python(EVENTS)
    project.land("1.json", line(1) + '{"id": 3, "na')  # last touched minutes ago
    found = project.ok()["bronze.events"]
    assert (found.rows, found.rescued, found.notes) == (2, 1, ())


def test_only_empty_files_make_an_empty_table(project) -> None:
    project.python(EVENTS)
    empty = project.land("1.json", "")
    found = project.ok()["bronze.events"]
    assert found.notes == (f"{empty} is empty; it waits for a later run",)
    assert found.rows == 0
    assert project.lake.table("bronze.events").schema().names == ["id", "name", "_corrupt_record"]
    assert project.ok()["bronze.events"].status == "unchanged"
    project.land("1.json", line(2))
    assert project.ok()["bronze.events"].rows == 1


def test_a_file_of_blank_lines_is_read_once(project) -> None:
    project.python(EVENTS)
    project.land("1.json", "\n\n  \n")
    assert project.ok()["bronze.events"].rows == 0
    assert project.ok()["bronze.events"].status == "unchanged"


def test_a_missing_field_is_null_and_not_rescued(project) -> None:
    project.python(EVENTS)
    project.land("1.json", '{"id": 1}\n{"name": "n"}\n')
    found = project.ok()["bronze.events"]
    assert (found.rows, found.rescued) == (2, 0)
    assert project.rows("bronze.events", "id", "name") == [(1, None), (None, "n")]


CHANGING = """
import os

@F.udf("string")
def touched(name):
    path = os.path.join({folder!r}, "once")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return name
    with open(os.path.join({folder!r}, "landing", "1.json"), "a") as stream:
        stream.write('{{"id": 9, "name": "late"}}\\n')
    return name

@dp.{kind}(name="t")
def t():
    rows = spark.{read}.schema("id BIGINT, name STRING").json("landing")
    return rows.withColumn("name", touched("name"))
"""


def changing(project, kind: str, read: str) -> None:
    """A function of the query itself appends to a file in the middle of the read."""
    project.python(CHANGING.format(folder=str(project.root), kind=kind, read=read))
    project.land("1.json", line(1))
    project.land("2.json", line(2))
    project.ok()


def test_a_file_that_grows_while_it_is_read_is_never_half_in_a_stream(project) -> None:
    changing(project, "table", "readStream")
    project.ok()
    assert project.rows("t", "id") == [1, 2, 9]
    assert project.ok()["default.t"].status == "unchanged"


def test_a_file_that_grows_while_it_is_read_is_whole_in_a_view(project) -> None:
    changing(project, "materialized_view", "read")
    assert project.rows("t", "id") == [1, 2, 9]


def test_a_folder_that_does_not_exist_names_the_flow_and_the_command(project) -> None:
    project.python(EVENTS.replace('load("landing")', 'load("landign")'))
    found = project.run()["bronze.events"]
    assert found.status == "failed"
    assert found.error.startswith("transformations/tables.py:5: ")
    assert "The source 'landign' does not exist" in found.error
    assert "mkdir -p" in found.error


def test_a_source_of_an_unknown_scheme_says_so(project) -> None:
    project.python(EVENTS.replace('load("landing")', 'load("s4://bucket/x")'))
    error = project.run()["bronze.events"].error
    assert error.startswith("transformations/tables.py:5: ")
    assert "'s4://bucket/x' has the scheme 's4'" in error
    assert "Did you mean s3://bucket/prefix?" in error


def test_hidden_files_links_to_nowhere_and_pipes_are_left_alone(project) -> None:
    project.python(EVENTS)
    project.land("1.json", line(1))
    project.land(".draft.json", line(2))
    project.land("_SUCCESS", "")
    project.land("_tmp/3.json", line(3))
    landing = project.root / "landing"
    (landing / "gone.json").symlink_to(landing / "nowhere.json")
    os.mkfifo(landing / "pipe.json")
    assert project.ok()["bronze.events"].rows == 1


def test_files_are_found_below_folders_by_globs_and_filters(project) -> None:
    project.python(
        EVENTS.replace('load("landing")', 'option("pathGlobFilter", "*.json").load("landing/*/x")')
    )
    project.land("a/x/deep/1.json", line(1))
    project.land("b/x/2.json", line(2))
    project.land("b/x/2.csv", "no")
    project.land("b/y/3.json", line(3))
    project.ok()
    assert project.rows("bronze.events", "id") == [1, 2]


def test_a_project_may_stand_in_a_folder_with_any_name(tmp_path, engine) -> None:
    from projects import SmallProject

    project = SmallProject(tmp_path / "größe [v1] {100%} *", engine)
    project.move_lake(tmp_path / "lake")
    project.python(EVENTS)
    project.land("1 [x].json", line(1))
    assert project.ok()["bronze.events"].rows == 1
    assert project.ok()["bronze.events"].status == "unchanged"
    assert project.rows("bronze.events", "id") == [1]
