"""Kafka topics as a source of streaming tables, against a real broker."""

import datetime as dt
import json

import pytest

from projects import SmallProject
from shoal.errors import Unavailable

pytestmark = pytest.mark.slow

BRONZE = """
@dp.table(name="bronze.events")
def bronze():
    rows = (spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", "{servers}"){options}
        .load())
    return rows.selectExpr("CAST(value AS STRING) AS value", "partition", "offset")
"""


def declare(project: SmallProject, kafka, **options: object) -> None:
    given = "".join(f".option({key!r}, {str(value)!r})" for key, value in options.items())
    project.python(BRONZE.format(servers=kafka.servers, options=given))


def values(project: SmallProject) -> list[str]:
    return project.rows("bronze.events", "value")


def test_a_stream_reads_each_message_once(project, kafka, topic) -> None:
    kafka.topic(topic, 3)
    kafka.send(topic, [str(i) for i in range(100)])
    declare(project, kafka, subscribe=topic, startingOffsets="earliest")
    assert project.plan()["bronze.events"] == ("full", "the table is new, 100 messages")
    assert project.ok()["bronze.events"].rows == 100
    assert project.plan()["bronze.events"] == ("none", "nothing new")
    kafka.send(topic, ["100"])
    assert project.plan()["bronze.events"] == ("incremental", "1 new message")
    assert project.ok()["bronze.events"].rows == 1
    assert project.ok()["bronze.events"].status == "unchanged"
    assert values(project) == sorted(map(str, range(101)))


def test_the_columns_are_those_of_sparks_source(project, kafka, topic) -> None:
    kafka.topic(topic)
    kafka.send(topic, ["a"], key="k", headers={"h": b"\x00\xff"})
    kafka.send(topic, [None])
    project.python(f"""
    @dp.table(name="bronze.raw")
    def raw():
        return (spark.readStream.format("kafka")
            .options(**{{"kafka.bootstrap.servers": "{kafka.servers}", "subscribe": "{topic}",
                        "startingOffsets": "earliest", "includeHeaders": "true"}}).load())
    """)
    project.ok()
    frame = project.lake.table("bronze.raw").scan().sort("offset").collect()
    assert {name: str(kind) for name, kind in frame.schema.items()} == {
        "key": "Binary",
        "value": "Binary",
        "topic": "String",
        "partition": "Int32",
        "offset": "Int64",
        "timestamp": "Datetime(time_unit='us', time_zone='UTC')",
        "timestampType": "Int32",
        "headers": "List(Struct({'key': String, 'value': Binary}))",
    }
    first, second = frame.to_dicts()
    age = dt.datetime.now(dt.UTC) - first.pop("timestamp")
    assert dt.timedelta(0) <= age < dt.timedelta(minutes=5)
    assert first == {
        "key": b"k",
        "value": b"a",
        "topic": topic,
        "partition": 0,
        "offset": 0,
        "timestampType": 0,
        "headers": [{"key": "h", "value": b"\x00\xff"}],
    }
    assert (second["key"], second["value"], second["headers"]) == (None, None, None)


def test_latest_begins_behind_what_was_there_when_the_table_was_made(project, kafka, topic) -> None:
    kafka.topic(topic)
    kafka.send(topic, ["before"])
    declare(project, kafka, subscribe=topic)
    assert project.ok()["bronze.events"].rows == 0
    kafka.send(topic, ["after"])
    project.ok()
    assert values(project) == ["after"]


def test_a_new_partition_and_a_new_topic_are_read_from_their_beginning(
    project, kafka, topic
) -> None:
    kafka.topic(f"{topic}-a")
    declare(project, kafka, subscribePattern=f"{topic}-.")
    project.ok()
    kafka.partitions(f"{topic}-a", 2)
    kafka.send(f"{topic}-a", ["partition"], partition=1)
    kafka.topic(f"{topic}-b")
    kafka.send(f"{topic}-b", ["topic"])
    project.ok()
    assert values(project) == ["partition", "topic"]


def test_offsets_by_partition_say_where_to_begin(project, kafka, topic) -> None:
    kafka.topic(topic, 2)
    kafka.send(topic, ["a", "b", "c"], partition=0)
    kafka.send(topic, ["d", "e"], partition=1)
    declare(
        project, kafka, assign=json.dumps({topic: [0, 1]}),
        startingOffsets=json.dumps({topic: {"0": 2, "1": -2}}),
    )  # fmt: skip
    project.ok()
    assert values(project) == ["c", "d", "e"]


def test_a_time_says_where_to_begin(project, kafka, topic) -> None:
    kafka.topic(topic)
    kafka.send(topic, ["old"])
    stamp = kafka.messages(topic)[0].timestamp()[1]
    declare(project, kafka, subscribe=topic, startingTimestamp=stamp + 1)
    project.ok()
    assert values(project) == []
    declare(project, kafka, subscribe=topic, startingTimestamp=stamp)
    project.ok(full_refresh_all=True)
    assert values(project) == ["old"]


def test_a_limit_leaves_the_rest_to_the_next_run(project, kafka, topic) -> None:
    kafka.topic(topic, 2)
    kafka.send(topic, [str(i) for i in range(30)], partition=0)
    kafka.send(topic, [str(i) for i in range(30, 40)], partition=1)
    declare(project, kafka, subscribe=topic, startingOffsets="earliest", maxOffsetsPerTrigger=20)
    first = project.ok()["bronze.events"]
    assert first.rows == 20
    assert "20 messages wait for a later run (maxOffsetsPerTrigger)" in first.notes
    assert sorted(project.rows("bronze.events", "partition")) == [0] * 15 + [1] * 5
    assert [project.ok()["bronze.events"].rows for _ in range(2)] == [20, 0]
    assert values(project) == sorted(map(str, range(40)))


def test_a_full_refresh_reads_the_topic_again(project, kafka, topic) -> None:
    kafka.topic(topic)
    kafka.send(topic, ["a", "b"])
    declare(project, kafka, subscribe=topic, startingOffsets="earliest")
    project.ok()
    assert project.ok(full_refresh_all=True)["bronze.events"].rows == 2
    assert values(project) == ["a", "b"]


def test_messages_that_are_gone_stop_the_table_unless_told_otherwise(project, kafka, topic) -> None:
    kafka.topic(topic)
    kafka.send(topic, ["a", "b"])
    declare(project, kafka, subscribe=topic, startingOffsets="earliest")
    project.ok()
    kafka.send(topic, ["c", "d", "e"])
    kafka.forget(topic, 4)
    failed = project.run()["bronze.events"]
    assert failed.status == "failed"
    assert failed.error is not None
    assert f"{topic}-0 begins at offset 4, and 2 was next to read" in failed.error
    assert 'option("failOnDataLoss", "false")' in failed.error
    assert "transformations/tables.py:" in failed.error
    assert values(project) == ["a", "b"]
    declare(project, kafka, subscribe=topic, startingOffsets="earliest", failOnDataLoss="false")
    done = project.ok()["bronze.events"]
    assert any("messages were lost" in note for note in done.notes)
    assert values(project) == ["a", "b", "e"]


def test_a_topic_made_anew_is_noticed(project, kafka, topic) -> None:
    kafka.topic(topic)
    kafka.send(topic, ["a", "b"])
    declare(project, kafka, subscribe=topic, startingOffsets="earliest")
    project.ok()
    kafka.delete(topic)
    missing = project.run()["bronze.events"]
    assert f"has no topic '{topic}'" in (missing.error or "")
    kafka.topic(topic)
    kafka.send(topic, ["c"])
    failed = project.run()["bronze.events"]
    assert f"{topic}-0 ends at offset 1, and 2 was next to read" in (failed.error or "")
    assert values(project) == ["a", "b"]


def test_only_committed_messages_are_read(project, kafka, topic) -> None:
    kafka.topic(topic)
    declare(project, kafka, subscribe=topic, startingOffsets="earliest")
    producer = kafka.transactions(topic)
    for text, commit in (("a", True), ("b", False), ("c", True), ("d", False)):
        producer.begin_transaction()
        producer.produce(topic, text)
        (producer.commit_transaction if commit else producer.abort_transaction)(30)
    project.ok()
    assert values(project) == ["a", "c"]
    producer.begin_transaction()
    producer.produce(topic, "e")
    producer.flush(30)
    assert project.ok()["bronze.events"].status == "unchanged"
    producer.commit_transaction(30)
    project.ok()
    assert values(project) == ["a", "c", "e"]


def test_a_broker_that_is_down_costs_only_its_own_tables(project, kafka, topic) -> None:
    kafka.topic(topic)
    kafka.send(topic, ["a"])
    declare(project, kafka, subscribe=topic, startingOffsets="earliest")
    project.python(
        """
        @dp.table(name="bronze.files")
        def files():
            return spark.readStream.schema("id BIGINT").json("landing")
        """,
        name="files.py",
    )
    project.ok()
    text = (project.root / "transformations" / "tables.py").read_text()
    (project.root / "transformations" / "tables.py").write_text(
        text.replace(kafka.servers, "127.0.0.1:1")
    )
    project.land("1.json", [{"id": 1}])
    with project.open() as space:
        report = space.run(space.options())
    assert report.exit_code == 75
    found = {table.table: table for table in report.tables}
    assert "Kafka at 127.0.0.1:1 did not tell its topics" in (found["bronze.events"].error or "")
    assert found["bronze.files"].rows == 1
    with pytest.raises(Unavailable, match=r"tables\.py:\d+: Kafka at 127\.0\.0\.1:1"):
        project.plan()
    declare(project, kafka, subscribe=topic, startingOffsets="earliest")
    kafka.send(topic, ["b"])
    project.ok()
    assert values(project) == ["a", "b"]


def test_a_view_reads_all_messages_and_follows_new_ones(project, kafka, topic) -> None:
    kafka.topic(topic)
    kafka.send(topic, ["a", "b", "c"])
    project.python(f"""
    @dp.materialized_view(name="gold.count")
    def count():
        rows = (spark.read.format("kafka").option("kafka.bootstrap.servers", "{kafka.servers}")
            .option("subscribe", "{topic}").load())
        return rows.groupBy("topic").agg(F.count("*").alias("n"))

    @dp.materialized_view(name="gold.first")
    def first():
        return (spark.read.format("kafka").option("kafka.bootstrap.servers", "{kafka.servers}")
            .option("subscribe", "{topic}")
            .option("endingOffsets", '{{"{topic}": {{"0": 1}}}}').load()
            .selectExpr("CAST(value AS STRING) AS value"))
    """)
    project.ok()
    assert project.rows("gold.count", "n") == [3]
    assert project.rows("gold.first", "value") == ["a"]
    assert {name: action for name, (action, _) in project.plan().items()} == {
        "gold.count": "none",
        "gold.first": "none",
    }
    kafka.send(topic, ["d"])
    assert project.plan()["gold.count"] == ("full", "new messages")
    project.ok()
    assert project.rows("gold.count", "n") == [4]


def test_a_view_of_a_stream_is_seen_through_and_joined(project, kafka, topic) -> None:
    kafka.topic(topic)
    kafka.send(topic, ['{"id": 1, "kind": "a"}', '{"id": 2, "kind": "b"}'])
    project.land("kinds.json", [{"kind": "a", "name": "first"}])
    project.python(f"""
    @dp.temporary_view
    def parsed():
        rows = (spark.readStream.format("kafka")
            .option("kafka.bootstrap.servers", "{kafka.servers}")
            .option("subscribe", "{topic}").option("startingOffsets", "earliest").load())
        given = F.from_json(F.col("value").cast("string"), "id BIGINT, kind STRING")
        return rows.select(given.alias("e")).select("e.*")

    @dp.table(name="silver.events")
    @shoal.expect_or_drop("known", "name IS NOT NULL")
    def events():
        kinds = spark.read.schema("kind STRING, name STRING").json("landing")
        return spark.readStream.table("parsed").join(kinds, "kind", "left")
    """)
    found = project.ok()["silver.events"]
    assert (found.rows, found.dropped) == (1, 1)
    assert project.rows("silver.events", "id", "name") == [(1, "first")]


def test_large_and_many_messages(project, kafka, topic) -> None:
    kafka.topic(topic, 4, max_message_bytes="3000000")
    kafka.send(topic, [b"x" * 900_000] * 20)
    kafka.send(topic, [str(i) for i in range(50_000)])
    declare(project, kafka, subscribe=topic, startingOffsets="earliest")
    assert project.ok()["bronze.events"].rows == 50_020
    assert len(set(project.rows("bronze.events", "partition", "offset"))) == 50_020
    left = {path.name for path in (project.storage / "bronze" / "events").rglob("*messages*")}
    assert left == set()  # what was read from the broker is not kept twice


LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required "


def test_a_login_is_given_as_for_javas_client(project, kafka, topic) -> None:
    kafka.topic(topic)
    kafka.send(topic, ["a"])
    given = {
        "subscribe": topic,
        "startingOffsets": "earliest",
        "kafka.bootstrap.servers": kafka.guarded,
        "kafka.security.protocol": "SASL_PLAINTEXT",
        "kafka.sasl.mechanism": "PLAIN",
    }
    login = LOGIN + 'username="reader" password="open sesame";'
    wrong = LOGIN + 'username="reader" password="open barley";'
    declare(project, kafka, **given, **{"kafka.sasl.jaas.config": wrong})
    with project.open() as space:
        report = space.run(space.options())
    error = report.tables[0].error or ""
    assert report.exit_code == 1  # trying again would not help
    assert "refused" in error
    assert "kafka.sasl.*" in error
    assert "barley" not in error
    declare(project, kafka, **given, **{"kafka.sasl.jaas.config": login})
    project.ok()
    assert values(project) == ["a"]
