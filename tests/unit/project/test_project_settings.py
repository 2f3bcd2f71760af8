"""Reading spark-pipeline.yml and shoal.toml: strict, and helpful about what is wrong."""

import re
from pathlib import Path

import pytest

from shoal.errors import ProjectError
from shoal.project import find_project

SPEC = "name: small\nstorage: lake\n"
GLOB = "libraries:\n  - glob:\n      include: "


def project(folder: Path, spec: str = SPEC, settings: str | None = None, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spark-pipeline.yml").write_text(spec)
    if settings is not None:
        (folder / "shoal.toml").write_text(settings)
    return folder


def source(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("-- nothing\n" if name.endswith(".sql") else "")


def test_every_key_of_the_specification_is_read(tmp_path) -> None:
    spec = (
        "name: small\nstorage: data/lake\ncatalog: main\nschema: Bronze\n"
        "configuration:\n  spark.sql.shuffle.partitions: '4'\n"
        "libraries:\n  - glob:\n      include: transformations/**\n  - glob: {include: one.py}\n"
    )
    found = find_project(project(tmp_path, spec))
    assert found.name == "small"
    assert found.storage == tmp_path / "data" / "lake"
    assert (found.spec.catalog, found.spec.schema) == ("main", "Bronze")
    assert dict(found.spec.configuration) == {"spark.sql.shuffle.partitions": "4"}
    assert found.spec.libraries == ("transformations/**", "one.py")
    assert found.tracking == f"sqlite:///{tmp_path}/data/lake/mlflow.db"
    assert found.artifacts == f"{tmp_path}/data/lake/artifacts"


def test_only_name_and_storage_are_required(tmp_path) -> None:
    found = find_project(project(tmp_path))
    assert (found.spec.catalog, found.spec.schema) == (None, "default")
    assert found.transformations() == []


@pytest.mark.parametrize("name", ["spark-pipeline.yml", "spark-pipeline.yaml"])
def test_both_endings_are_found_from_a_folder_below(tmp_path, name) -> None:
    (tmp_path / name).write_text(SPEC)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert find_project(below).root == tmp_path
    assert find_project(tmp_path / name).root == tmp_path


def test_the_nearest_project_upward_wins(tmp_path) -> None:
    project(tmp_path)
    inner = project(tmp_path / "inner", "name: inner\nstorage: lake\n")
    assert find_project(inner / "transformations").name == "inner"


def test_two_specifications_in_one_folder_are_refused(tmp_path) -> None:
    project(tmp_path)
    (tmp_path / "spark-pipeline.yaml").write_text(SPEC)
    with pytest.raises(
        ProjectError, match=r"has both spark-pipeline\.yml and spark-pipeline\.yaml"
    ):
        find_project(tmp_path)


def test_no_project_upward_says_how_to_make_one(tmp_path) -> None:
    with pytest.raises(
        ProjectError, match="There is no spark-pipeline.yml in .* or above"
    ) as error:
        find_project(tmp_path)
    assert error.value.hint == "Make a project: shoal init my_project"
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SPEC + "libary: x\n", "unknown key 'libary'.*\nHint: Did you mean 'libraries'?"),
        (SPEC + "1: x\n", "unknown key '1'"),
        (SPEC + "database: a\nschema: b\n", "'database' and 'schema' mean the same"),
        ("name: small\n", "required key 'storage' is missing"),
        ("storage: lake\n", "required key 'name' is missing"),
        ("name: 3\nstorage: lake\n", "'name' must be text; found 3"),
        ("name: ''\nstorage: lake\n", "'name' must be text; found ''"),
        ("name: null\nstorage: lake\n", "required key 'name' is missing"),
        ("name: small\nstorage: [lake]\n", "'storage' must be text"),
        (SPEC + "schema: 1\n", "'schema' must be text"),
        (SPEC + "configuration: fast\n", "'configuration' must hold keys and values"),
        (SPEC + "configuration:\n  a: 4\n", "configuration 'a' must be text; found 4"),
        (SPEC + "libraries: transformations\n", "'libraries' must be a list"),
        (SPEC + "libraries:\n  - transformations/**\n", "a library must be a glob"),
        (SPEC + "libraries:\n  - file: {path: a.py}\n", "unknown key 'file' in libraries"),
        (SPEC + "libraries:\n  - glob: {includes: a.py}\n", "Did you mean 'include'?"),
        (SPEC + "libraries:\n  - glob: {}\n", "a library's glob has no 'include'"),
        (SPEC + GLOB + "transformations/*.py\n", "the glob .* is not allowed"),
        (SPEC + GLOB + "/abs/**\n", "the glob '/abs/.*' is not allowed"),
        (SPEC + GLOB + "'**'\n", "the glob .* is not allowed"),
        (SPEC + GLOB + "a/**/b\n", "the glob .* is not allowed"),
        ("- name\n", "must hold keys and values; found list"),
        ("", "must hold keys and values; found NoneType"),
        ("name: [\n", "is no valid YAML"),
    ],
)
def test_a_wrong_specification_is_named(tmp_path, spec, message) -> None:
    with pytest.raises(ProjectError) as error:
        find_project(project(tmp_path, spec))
    assert re.search(message.replace("?", r"\?"), str(error.value))
    assert "spark-pipeline.yml" in str(error.value)
    assert error.value.hint


def test_a_specification_that_is_no_text_is_named(tmp_path) -> None:
    (tmp_path / "spark-pipeline.yml").write_bytes(b"name: caf\xe9\nstorage: lake\n")
    with pytest.raises(ProjectError, match="spark-pipeline.yml is no valid YAML"):
        find_project(tmp_path)


def test_database_is_another_word_for_schema(tmp_path) -> None:
    assert find_project(project(tmp_path, SPEC + "database: raw\n")).spec.schema == "raw"


def test_libraries_are_found_at_any_depth_in_a_stable_order(tmp_path) -> None:
    folder = project(tmp_path, SPEC + GLOB + "transformations/**\n")
    for name in ("b.py", "a.sql", "deep/er/c.py", "__pycache__/a.py", ".hidden.py", "__init__.py"):
        source(folder, f"transformations/{name}")
    source(folder, "models/delay.py")
    found = find_project(folder)
    shown = [file.shown for file in found.transformations()]
    assert shown == [f"transformations/{name}" for name in ("a.sql", "b.py", "deep/er/c.py")]
    assert [file.shown for file in found.models()] == ["models/delay.py"]


def test_a_library_that_is_named_twice_counts_once(tmp_path) -> None:
    spec = SPEC + GLOB + "transformations/**\n  - glob: {include: transformations/a.py}\n"
    folder = project(tmp_path, spec)
    source(folder, "transformations/a.py")
    assert len(find_project(folder).transformations()) == 1


def test_models_below_a_library_are_no_transformations(tmp_path) -> None:
    folder = project(tmp_path, SPEC + GLOB + "models/**\n")
    source(folder, "models/a.py")
    assert find_project(folder).transformations() == []


@pytest.mark.parametrize(
    ("include", "file", "message"),
    [
        ("transformations/**", None, "'transformations/\\*\\*' matches no file in"),
        ("one.py", None, "'one.py' matches no file in"),
        ("transformations/**", "transformations/notes.md", "notes.md is neither .py, .sql nor .R"),
    ],
)
def test_a_library_that_names_nothing_usable_is_an_error(tmp_path, include, file, message) -> None:
    folder = project(tmp_path / "inner", SPEC + GLOB + include + "\n")
    if file:
        source(folder, file)
    with pytest.raises(ProjectError, match=message):
        find_project(folder).transformations()


def test_a_library_may_stand_beside_the_project(tmp_path) -> None:
    folder = project(tmp_path / "inner", SPEC + GLOB + "../shared/**\n")
    source(folder, "../shared/a.py")
    assert [file.shown for file in find_project(folder).transformations()] == ["../shared/a.py"]


def test_storage_may_be_absolute_or_a_uri(tmp_path) -> None:
    at = tmp_path / "lake=1"
    folder = project(tmp_path / "p", f"name: small\nstorage: '{at}'\n")
    assert find_project(folder).storage == at
    project(folder, f"name: small\nstorage: '{at.as_uri()}'\n")
    assert find_project(folder).storage == at
    project(folder, "name: small\nstorage: S3://bucket/lake/\n")
    found = find_project(folder)
    assert found.storage == "s3://bucket/lake"
    assert found.tracking == f"sqlite:///{folder}/.shoal/mlflow.db"
    assert found.artifacts == "s3://bucket/lake/_artifacts"
    url = "abfss://data@account.dfs.core.windows.net/x"
    project(folder, settings=f'[profiles.default]\nstorage = "{url}"\n')
    assert find_project(folder).storage == url


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        (
            "wasbs://c@a.blob.core.windows.net/x",
            "scheme 'wasbs'",
            "Did you mean abfss://container@",
        ),
        ("s4://bucket/x", "scheme 's4'", "Did you mean s3://bucket"),
        ("https://bucket/x", "scheme 'https'", "Write s3://"),
        ("s3:///x", "names no bucket", "s3://bucket/prefix"),
        ("abfss://container/x", "container and an account", "abfss://container@account"),
        ("s3://key:secret@bucket/x", "holds credentials", "AWS_ACCESS_KEY_ID"),
        ("s3://bucket/x?token=secret", "has '?'", "plain letters"),
        ("s3://bucket/größe", "has 'ö'", "plain letters"),
        ("s3://bucket/a//b", "has '//'", "single slashes"),
        ("gs://bucket/../b", "has '/../'", "plain letters"),
    ],
)
def test_a_storage_url_that_cannot_be_meant_is_refused(tmp_path, url, message, hint) -> None:
    folder = project(tmp_path / "p", f"name: small\nstorage: '{url}'\n")
    with pytest.raises(ProjectError) as error:
        _ = find_project(folder).storage
    assert message in error.value.message
    assert hint in error.value.hint
    assert "secret" not in str(error.value)


def test_a_database_in_an_object_store_is_refused(tmp_path) -> None:
    settings = '[profiles.default]\nstorage = "s3://b/l"\ntracking = "sqlite:///s3://b/m.db"\n'
    folder = project(tmp_path / "p", settings=settings)
    with pytest.raises(ProjectError, match="where no database can be") as error:
        _ = find_project(folder).tracking
    assert "postgresql://" in error.value.hint


@pytest.mark.parametrize("name", ["a lake", "größe", "100%", "[v1]", "a#b", "what?"])
def test_storage_that_delta_readers_cannot_find_is_refused(tmp_path, name) -> None:
    """Sail, Polars and delta-rs each lose tables below such a folder."""
    folder = project(tmp_path / name)
    with pytest.raises(ProjectError, match="Delta readers cannot find") as error:
        _ = find_project(folder).storage
    assert "Set 'storage' in shoal.toml" in error.value.hint
    project(folder, settings=f'[profiles.default]\nstorage = "{tmp_path}/elsewhere"\n')
    assert find_project(folder).storage == tmp_path / "elsewhere"


SETTINGS = """
default_profile = "laptop"

[profiles.laptop]
storage = "elsewhere"
workers = 3

[profiles.cluster]
engine = "sc://host:15002"
tracking = "http://mlflow:5000"
"""


def test_profiles_say_where_a_project_runs(tmp_path) -> None:
    folder = project(tmp_path, settings=SETTINGS)
    laptop = find_project(folder)
    assert laptop.storage == tmp_path / "elsewhere"
    assert (laptop.profile.engine, laptop.profile.workers) == ("embedded", 3)
    cluster = find_project(folder, profile="cluster")
    assert (cluster.profile.engine, cluster.profile.workers) == ("sc://host:15002", None)
    assert cluster.tracking == "http://mlflow:5000"
    assert cluster.artifacts is None
    assert cluster.storage == tmp_path / "lake"
    assert find_project(folder, profile="default").storage == tmp_path / "lake"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("[profiles.a\n", "is no valid TOML"),
        ("[profile.a]\n", "unknown key 'profile'.*\nHint: Did you mean 'profiles'"),
        ('profiles = "a"\n', "'profiles' must hold keys and values"),
        ('[profiles]\na = "b"\n', "profile 'a' must be a table"),
        ('[profiles.a]\nengin = "x"\n', "unknown key 'engin' in profiles.a.*\n.*'engine'"),
        ("[profiles.a]\nengine = 3\n", "'engine' must be text; found 3"),
        ('[profiles.a]\nstorage = ""\n', "'storage' must be text"),
        ("[profiles.a]\nworkers = 0\n", "'workers' must be a whole number of at least 1; found 0"),
        ("[profiles.a]\nworkers = 2.5\n", "'workers' must be a whole number"),
        ("[profiles.a]\nworkers = true\n", "'workers' must be a whole number"),
        ('[profiles.a]\nworkers = "2"\n', "'workers' must be a whole number"),
        ('default_profile = "b"\n[profiles.a]\n', "no profile 'b'; it has a, default"),
        ("default_profile = 1\n", "'default_profile' must be text"),
    ],
)
def test_wrong_settings_are_named(tmp_path, settings, message) -> None:
    with pytest.raises(ProjectError) as error:
        find_project(project(tmp_path, settings=settings))
    assert re.search(message, str(error.value))
    assert "shoal.toml" in str(error.value)
    assert error.value.hint


def test_an_unknown_profile_names_the_nearest(tmp_path) -> None:
    folder = project(tmp_path, settings=SETTINGS)
    with pytest.raises(ProjectError, match="has no profile 'clutser'") as error:
        find_project(folder, profile="clutser")
    assert error.value.hint == "Did you mean 'cluster'?"


def test_settings_that_are_no_text_are_named(tmp_path) -> None:
    folder = project(tmp_path)
    (folder / "shoal.toml").write_bytes(b'default_profile = "caf\xe9"\n')
    with pytest.raises(ProjectError, match="shoal.toml is no valid TOML"):
        find_project(folder)
