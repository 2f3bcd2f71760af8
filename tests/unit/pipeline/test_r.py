"""Flows in R: files that declare tables, and R code in Python files, run by a real R."""

import os
import select
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pytest

import rcode
from rcode import call_r, need_r
from shoal.errors import PipelineError, ShoalError

EVENTS = """
@dp.table(name="bronze.events")
def events():
    rows = spark.readStream.format("json").schema("id BIGINT, kind STRING, amount DOUBLE")
    return rows.load("landing")
"""
TOTALS = """
# Totals by kind.
materialized_view("gold.totals",
  inputs = c(events = "bronze.events"),
  comment = "by kind",
  expect = c(known = "kind IS NOT NULL"),
  function(events) {
    totals <- aggregate(amount ~ kind, events, sum)
    names(totals)[2] <- "total"
    totals
  })
"""


@pytest.fixture(autouse=True)
def r() -> None:
    need_r()


def write_r(project, text: str, name: str = "gold.R") -> Path:
    path = project.root / "transformations" / name
    path.write_text(textwrap.dedent(text).lstrip())
    return path


def land(project, *numbers: int) -> None:
    rows = [{"id": n, "kind": "ab"[n % 2], "amount": float(n)} for n in numbers]
    project.land(f"{numbers[0]}.jsonl", rows)


def refused(project) -> str:
    with pytest.raises(ShoalError) as error, project.open() as space:
        space.graph  # noqa: B018
    return str(error.value)


def test_an_r_file_declares_a_view_that_follows_its_inputs(project) -> None:
    project.python(EVENTS)
    write_r(project, TOTALS)
    land(project, 1, 2)
    first = project.ok()["gold.totals"]
    assert first.expectations == {"known": {"action": "warn", "passed": 2, "failed": 0}}
    assert project.rows("gold.totals", "kind", "total") == [("a", 2.0), ("b", 1.0)]
    assert project.lake.table("gold.totals").comment() == "by kind"
    assert project.plan()["gold.totals"] == ("none", "nothing changed")
    land(project, 4)
    project.ok()
    assert project.rows("gold.totals", "kind", "total") == [("a", 6.0), ("b", 1.0)]


def test_a_definition_is_the_code_that_a_table_depends_on(project) -> None:
    """Not its layout, comments or its neighbours; but what the file includes, and its helpers."""
    helper = project.root / "R" / "helpers.R"
    helper.parent.mkdir()
    helper.write_text("double <- function(x) x * 2\n")
    one = 'materialized_view("gold.one", fun = function() data.frame(x = double(FACTOR)))\n'
    two = 'materialized_view("gold.two", fun = function() data.frame(x = 2))\n'
    head = 'source("R/helpers.R")\nFACTOR <- 3\n'
    write_r(project, head + one + two)
    project.ok()
    assert project.rows("gold.one", "x") == [6.0]

    def stale() -> set[str]:
        return {name for name, (action, _) in project.plan().items() if action != "none"}

    write_r(project, f"# a comment\n\n{head}{one}{two}")
    assert stale() == set()
    write_r(project, head + one + two.replace("x = 2", "x = 3"))
    assert stale() == {"gold.two"}
    write_r(project, head.replace("3", "4") + one + two)
    assert stale() == {"gold.one", "gold.two"}
    write_r(project, head + one + two)
    assert stale() == set()
    helper.write_text("double <- function(x) x + x\n")
    assert stale() == {"gold.one", "gold.two"}


def test_a_streaming_table_in_r_gets_only_new_rows(project) -> None:
    project.lake.table("raw.names").append(
        pa.table({"kind": ["a", "b"], "name": ["Alpha", "Beta"]})
    )
    project.python(EVENTS)
    write_r(
        project,
        """
        streaming_table("silver.named",
          inputs = c(new = stream("bronze.events"), names = "raw.names"),
          partition_by = "kind",
          expect_or_drop = c(small = "amount < 10"),
          properties = c(delta.appendOnly = "false", "my.key" = "x"),
          schema = "id BIGINT, kind STRING, amount DECIMAL(10, 2), name STRING",
          function(names, new) merge(new, names)[c("id", "kind", "amount", "name")])
    """,
    )
    land(project, 1, 2, 11)
    first = project.ok()["silver.named"]
    assert (first.rows, first.dropped) == (2, 1)
    land(project, 3)
    second = project.ok()["silver.named"]
    assert (second.rows, second.refresh) == (1, "incremental")
    table = project.lake.table("silver.named")
    assert project.rows("silver.named", "id", "name") == [(1, "Beta"), (2, "Alpha"), (3, "Beta")]
    assert str(table.schema().field("amount").type).lower() == "decimal128(10, 2)"
    assert table.partitions() == ("kind",)


def test_a_failed_expectation_of_an_r_table_commits_nothing(project) -> None:
    write_r(
        project,
        """
        materialized_view("gold.x", expect_or_fail = c(positive = "x > 0"),
          function() data.frame(x = -1))
    """.replace("expect_or_fail", "inputs = character(), expect_or_fail"),
    )
    report = project.run()["gold.x"]
    assert "'positive' (x > 0)" in report.error
    assert report.error.startswith("transformations/gold.R:1:")
    assert not project.lake.table("gold.x").exists()


def test_r_code_in_a_python_file(project) -> None:
    (project.root / "R").mkdir()
    (project.root / "R" / "count.R").write_text("function(rows) data.frame(n = nrow(rows))\n")
    project.python(
        EVENTS
        + '''
from pathlib import Path

@dp.materialized_view(name="gold.fit")
@shoal.r(rows="bronze.events")
@shoal.expect("fitted", "value IS NOT NULL")
def fit():
    return """
    function(rows) {
      fit <- lm(amount ~ id, rows)
      data.frame(term = names(coef(fit)), value = unname(coef(fit)))
    }
    """

@dp.materialized_view(name="gold.count")
@shoal.r("bronze.events")
def count():
    return Path("R/count.R")
'''
    )
    land(project, 1, 2, 3)
    project.ok()
    terms = dict(project.rows("gold.fit", "term", "value"))
    assert terms == {"(Intercept)": pytest.approx(0, abs=1e-9), "id": pytest.approx(1)}
    assert project.rows("gold.count", "n") == [3]
    assert {action for action, _ in project.plan().values()} == {"none"}
    (project.root / "R" / "count.R").write_text("function(rows) data.frame(n = -nrow(rows))\n")
    assert project.plan()["gold.count"] == ("full", "its definition changed")


def test_an_error_in_r_has_its_message_file_and_line(project) -> None:
    (project.root / "R").mkdir()
    (project.root / "R" / "deep.R").write_text(
        "deep <- function(x) {\n  log(-1)\n  stop('too deep: ', x)\n}\n"
    )
    write_r(
        project,
        """
        source("R/deep.R")
        materialized_view("gold.deep", fun = function() {
          deep(7)
        })
        materialized_view("gold.here", fun = function() {
          frame <- data.frame(x = 1:3)

          frame[, "missing"]
        })
        materialized_view("gold.model", fun = function() {
          lm(nothing ~ x, data.frame(x = 1))
        })
    """,
    )
    found = project.run()
    assert found["gold.deep"].error == "transformations/gold.R:2: R/deep.R:3: R: too deep: 7"
    assert found["gold.here"].error == (
        "transformations/gold.R:5: transformations/gold.R:8: R: undefined columns selected"
    )
    assert found["gold.model"].error.endswith(":11: R: object 'nothing' not found")
    assert not list((project.storage / "gold").rglob("*.parquet"))


def test_warnings_of_r_are_notes_of_the_refresh(project) -> None:
    write_r(
        project,
        """
        materialized_view("gold.x", fun = function() {
          data.frame(x = as.integer(c("1", "b")))
        })
    """,
    )
    notes = project.ok()["gold.x"].notes
    assert list(notes) == ["R warning: NAs introduced by coercion (transformations/gold.R:2)"]
    assert project.rows("gold.x", "x") == [1, None]


MISTAKES = {
    "syntax": ("x <- 1\nmaterialized_view(\n  'a.b' 'c')", "gold.R:3: R: unexpected string constant"),
    "an unfinished file": ("x <- function() {\n", "R: unexpected end of input"),
    "an error on its way": ("x <- 1\n\nstop('not here')", "gold.R:3: R: not here"),
    "no function": ("materialized_view('a.b', inputs = 'c.d')", "'a.b' has no function"),
    "another argument": (
        "materialized_view('a.b', inputs = c(y = 'c.d'), function(x) x)",
        "takes (x); its inputs are (y)",
    ),
    "a missing input": ("materialized_view('a.b', fun = function(x) x)", "no input is given for 'x'"),
    "no name": ("materialized_view(1, fun = function() 1)", "a table's name is one piece of text"),
    "an unknown setting": ("materialized_view('a.b', coment = 'x', fun = function() 1)", "unused argument"),
    "an unknown table": ("x <- 1\nmaterialized_view('a.b', 'bronze.event', function(x) x)", "gold.R:2: 'a.b' reads 'bronze.event'"),
    "twice": ("f <- function() 1\nfor (i in 1:2) materialized_view('a.b', fun = f)", "is declared twice"),
    "no stream": ("streaming_table('a.b', 'bronze.events', function(x) x)", "reads no stream"),
    "a streamed view": ("materialized_view('a.b', stream('bronze.events'), function(x) x)", "reads a stream"),
    "a bad name": ("materialized_view('a b', fun = function() 1)", "gold.R:1: "),
    "a bad condition": (
        "materialized_view('a.b', expect = c(e = 'x >'), fun = function() 1)",
        "gold.R:1: Expectation 'e' does not parse",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_in_r_are_found_before_anything_runs(project, case) -> None:
    code, said = MISTAKES[case]
    project.python(EVENTS)
    write_r(project, code)
    error = refused(project)
    assert said in error
    assert "transformations/gold.R:" in error


def test_mistakes_in_r_code_of_a_python_file_are_found_before_anything_runs(project) -> None:
    text = '\n@dp.materialized_view\n@shoal.r(rows="bronze.events")\ndef fit():\n    return CODE\n'
    for code, said in {
        "function(rows) { rows +": "R code of fit():2: R: unexpected end of input",
        "1": "must end with a function",
        "function(x) x": "takes (x); its inputs are (rows)",
    }.items():
        project.python(EVENTS + text.replace("CODE", repr(code + "\n")))
        error = refused(project)
        assert said in error
        assert error.startswith("transformations/tables.py:")
    project.python(EVENTS + text.replace("CODE", "3"))
    assert "must return R code" in refused(project)
    project.python(EVENTS + "from pathlib import Path" + text.replace("CODE", "Path('R/none.R')"))
    assert "'R/none.R', which does not exist" in refused(project)


def test_without_r_the_sources_that_need_it_are_named(project, monkeypatch, tmp_path) -> None:
    project.python(EVENTS)
    land(project, 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    project.ok()
    write_r(project, TOTALS)
    error = refused(project)
    assert "transformations/gold.R needs R, and R is not installed" in error
    assert "apt-get install r-base-core" in error


DEAD = {
    "killed": ("tools::pskill(Sys.getpid(), tools::SIGKILL); Sys.sleep(60)", "ended by the signal SIGKILL"),
    "hanging": ("repeat {}", "longer than its timeout of 1 seconds"),
    "quitting": ("quit()", "no result"),
    "recursing": ("{ f <- function(n) f(n + 1); f(1) }", "infinite recursion"),
}  # fmt: skip


@pytest.mark.parametrize("case", DEAD)
def test_when_r_ends_badly_nothing_is_committed(project, case) -> None:
    code, said = DEAD[case]
    seconds = 1 if case == "hanging" else 60
    call = f"'gold.x', timeout = {seconds}, fun = function() {{ {code} }}"
    write_r(project, f"materialized_view({call})")
    report = project.run()["gold.x"]
    assert report.status == "failed"
    assert said in report.error
    assert not (project.storage / "gold").exists()


def forever(seen: Path) -> str:
    """An R function that says which process it is, and never ends."""
    return f"""function() {{ writeLines(as.character(Sys.getpid()), '{seen}.new')
      file.rename('{seen}.new', '{seen}'); repeat {{}} }}"""


def test_a_stopped_run_ends_its_r_process(tmp_path) -> None:
    seen = tmp_path / "pid"
    with pytest.raises(KeyboardInterrupt):
        call_r(forever(seen), stopped=seen.exists)
    with pytest.raises(ProcessLookupError):
        os.kill(int(seen.read_text()), signal.SIG_DFL)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="util-linux's setpriv does it")
def test_r_does_not_outlive_a_killed_run(tmp_path) -> None:
    seen = tmp_path / "pid"
    script = f"import rcode; rcode.call_r({forever(seen)!r})"
    tests = str(Path(rcode.__file__).parent)
    with subprocess.Popen([sys.executable, "-c", script], cwd=tests) as run:
        while not seen.exists():
            assert run.poll() is None
        r = os.pidfd_open(int(seen.read_text()))
        run.kill()
    # A process's descriptor becomes readable when it ends.
    assert select.select([r], [], [], 30)[0]
    os.close(r)


def test_exchange_files_are_private_and_gone_afterwards(project) -> None:
    project.python(EVENTS)
    write_r(
        project,
        """
        materialized_view("gold.modes", "bronze.events", function(events) {
          folder <- commandArgs(TRUE)[1]
          data.frame(mode = as.character(file.mode(folder)), cwd = basename(getwd()))
        })
    """,
    )
    land(project, 1)
    project.ok()
    assert project.rows("gold.modes", "cwd", "mode") == [("project", "700")]
    assert not list(project.storage.rglob("*.bin"))
    assert not list(project.storage.rglob("scratch"))


def test_r_prints_and_reads_stdin_without_harm(project) -> None:
    write_r(
        project,
        """
        cat("declaring\\n")
        materialized_view("gold.x", fun = function() {
          print(1:10); message("hello"); data.frame(n = length(readLines(file("stdin"))))
        })
    """,
    )
    project.ok()
    assert project.rows("gold.x", "n") == [0]


def test_a_nested_column_is_refused_by_name_and_fits_through_a_view(project) -> None:
    project.lake.table("raw.nested").append(pa.table({"id": [1], "tags": [["a"]]}))
    write_r(project, 'materialized_view("gold.x", "raw.nested", function(x) x)')
    error = project.run()["gold.x"].error
    assert "the column 'tags' of 'raw.nested'" in error
    project.python("""
@dp.temporary_view
def flat():
    return spark.read.table("raw.nested").selectExpr("id", "tags[0] AS tag")
""")
    write_r(project, 'materialized_view("gold.x", "flat", function(x) x)')
    project.ok()
    assert project.rows("gold.x", "id", "tag") == [(1, "a")]


def test_an_error_class_is_of_the_pipeline() -> None:
    with pytest.raises(PipelineError, match="R: boom"):
        call_r("function() stop('boom')")
