"""Kafka topics as sinks of streaming flows, against a real broker."""

import json

import pytest

from projects import SmallProject

pytestmark = pytest.mark.slow

SOURCE = """
@dp.table(name="bronze.events")
def bronze():
    return spark.readStream.schema("id BIGINT, kind STRING").json("landing")

dp.create_sink("out", "kafka", {options!r})

@dp.append_flow(target="out")
def events():
    return spark.readStream.table("bronze.events").{query}
"""
ROW = 'select(F.col("kind").alias("key"), F.to_json(F.struct("id", "kind")).alias("value"))'


def declare(project: SmallProject, kafka, query: str = ROW, **options: str) -> None:
    given = {"kafka.bootstrap.servers": kafka.servers, **options}
    project.python(SOURCE.format(options=given, query=query))


def test_rows_become_messages(project, kafka, topic) -> None:
    kafka.topic(topic, 2)
    declare(project, kafka, topic=topic)
    project.land("1.json", [{"id": i, "kind": "ab"[i % 2]} for i in range(500)])
    assert project.ok()["default.out"].rows == 500
    assert project.ok()["default.out"].status == "unchanged"
    project.land("2.json", [{"id": 500, "kind": "a"}])
    assert project.ok()["default.out"].rows == 1
    found = kafka.messages(topic)
    assert sorted(json.loads(m.value())["id"] for m in found) == list(range(501))
    assert {m.key() for m in found} == {b"a", b"b"}
    assert all(json.loads(m.value())["kind"].encode() == m.key() for m in found)


def test_the_columns_say_where_a_message_goes(project, kafka, topic) -> None:
    kafka.topic(topic, 3)
    declare(
        project, kafka,
        'selectExpr("CAST(id AS STRING) AS value", "CAST(id AS INT) AS partition", '
        f'"IF(id = 1, \'{topic}\', NULL) AS topic", '
        '"array(named_struct(\'key\', kind, \'value\', CAST(kind AS BINARY))) AS headers")',
        topic=topic,
    )  # fmt: skip
    project.land("1.json", [{"id": 1, "kind": "a"}, {"id": 2, "kind": "b"}])
    project.ok()
    found = sorted(kafka.messages(topic), key=lambda m: m.value())
    assert [(m.partition(), m.value(), m.headers()) for m in found] == [
        (1, b"1", [("a", b"a")]),
        (2, b"2", [("b", b"b")]),
    ]


def test_a_sink_of_kafka_to_kafka_goes_through_a_table(project, kafka, topic) -> None:
    kafka.topic(f"{topic}-in", 2)
    kafka.topic(f"{topic}-out")
    kafka.send(f"{topic}-in", [str(i) for i in range(100)])
    project.python(f"""
    dp.create_sink("out", "kafka",
        {{"kafka.bootstrap.servers": "{kafka.servers}", "topic": "{topic}-out"}})

    @dp.append_flow(target="out")
    def squares():
        rows = (spark.readStream.format("kafka").option("subscribe", "{topic}-in")
            .option("kafka.bootstrap.servers", "{kafka.servers}")
            .option("startingOffsets", "earliest").load())
        return rows.selectExpr("CAST(pow(CAST(CAST(value AS STRING) AS INT), 2) AS STRING) AS value")
    """)
    project.ok()
    assert project.ok()["default.out"].status == "unchanged"
    found = kafka.messages(f"{topic}-out")
    assert sorted(float(m.value()) for m in found) == [i * i for i in range(100)]


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ('select("id")', {"topic": "x"}, "has the column 'id'"),
        ('select(F.col("kind").alias("key"))', {"topic": "x"}, "lacks the column 'value'"),
        ('select(F.col("id").alias("value"))', {"topic": "x"}, "must be text or binary"),
        (ROW, {}, "has 1 rows without a topic"),
    ],
)
def test_rows_that_are_no_messages_are_refused(project, kafka, query, options, message) -> None:
    declare(project, kafka, query, **options)
    project.land("1.json", [{"id": 1, "kind": "a"}])
    found = project.run()
    assert message in (found["default.out"].error or "")
    assert "transformations/tables.py:" in (found["default.out"].error or "")
    assert found["bronze.events"].status == "refreshed"


def test_a_missing_topic_or_broker_keeps_the_rows_for_later(project, kafka, topic) -> None:
    declare(project, kafka, topic=topic)
    project.land("1.json", [{"id": 1, "kind": "a"}])
    error = project.run()["default.out"].error or ""
    assert "has no such topic" in error
    kafka.topic(topic)
    assert project.ok()["default.out"].rows == 1
    assert [m.key() for m in kafka.messages(topic)] == [b"a"]
