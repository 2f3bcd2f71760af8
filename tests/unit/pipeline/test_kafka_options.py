"""Options of Kafka sources: what is understood, and what is refused before a broker is asked."""

import pytest

from shoal.engines import KafkaRead
from shoal.errors import PipelineError
from shoal.pipeline.broker import client_settings
from shoal.pipeline.kafka import KafkaSource

SERVERS = {"kafka.bootstrap.servers": "localhost:9092"}


def source(*, streaming: bool = True, **options: str) -> KafkaSource:
    return KafkaSource.of(KafkaRead.of({**SERVERS, **options}, streaming=streaming))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of subscribe, subscribePattern and assign; it has none"),
        ({"subscribe": "a", "assign": "{}"}, "it has subscribe and assign"),
        ({"subscribe": "a", "startingOffset": "earliest"}, "Did you mean 'startingOffsets'"),
        ({"subscribe": "a", "startingOffsets": "first"}, "must be 'earliest', 'latest' or JSON"),
        ({"subscribe": "a", "startingOffsets": "[1]"}, "must be 'earliest', 'latest' or JSON"),
        ({"subscribe": "a", "startingTimestamp": "today"}, "must be milliseconds since 1970"),
        ({"subscribe": "a", "endingOffsets": "latest"}, "a stream has no ending offsets"),
        ({"subscribePattern": "("}, "is no regular expression"),
        ({"assign": "[1]"}, "must be JSON of topics and partitions"),
        ({"subscribe": "a", "maxOffsetsPerTrigger": "0"}, "must be a number of messages above 0"),
        ({"subscribe": "a", "kafka.no.such": "1"}, "it has no such setting"),
        ({"subscribe": "a", "kafka.socket.timeout.ms": "soon"}, "refuses its settings"),
        ({"subscribe": "a", "kafka.enable.auto.commit": "true"}, "offsets are kept in the table"),
        ({"subscribe": "a", "kafka.bootstrap.servers": ""}, "no broker is named"),
        ({"subscribe": "a", "kafka.ssl.truststore.location": "x.jks"}, "a Java key store"),
    ],
)
def test_wrong_options_are_refused(options, message) -> None:
    with pytest.raises(PipelineError) as caught:
        source(**options)
    assert message in str(caught.value)


def test_a_flow_with_wrong_options_is_refused_at_its_line(project) -> None:
    project.python("""
    @dp.table(name="bronze.events")
    def events():
        return (spark.readStream.format("kafka").option("subscribe", "a")
            .option("kafka.bootstrap.servers", "localhost:9092").option("from", "0").load())
    """)
    with pytest.raises(
        PipelineError, match=r"tables\.py:\d+: the Kafka source has no option 'from'"
    ):
        project.plan()


def test_names_are_read_in_any_case_and_as_in_sql() -> None:
    read = KafkaRead.of({"bootstrapServers": "h:1", "SUBSCRIBE": "a, b"}, streaming=True)
    found = KafkaSource.of(read)
    assert found.servers == "h:1"
    assert [found.covers(topic) for topic in "abc"] == [True, True, False]


def test_the_options_of_spark_that_change_nothing_here_are_accepted() -> None:
    assert source(subscribe="a", minPartitions="4", failOnDataLoss="false").tolerant


def test_javas_settings_become_the_clients() -> None:
    login = (
        "kafkashaded.org.apache.kafka.common.security.scram.ScramLoginModule required "
        'username="me" password="a \'b\'; c";'
    )
    found = client_settings(
        {
            **SERVERS,
            "kafka.security.protocol": "SASL_SSL",
            "kafka.sasl.mechanism": "SCRAM-SHA-256",
            "kafka.sasl.jaas.config": login,
            "kafka.ssl.endpoint.identification.algorithm": "",
            "kafka.key.deserializer": "org.apache.kafka.common.serialization.StringDeserializer",
            "subscribe": "a",
        }
    )
    assert found == {
        "bootstrap.servers": "localhost:9092",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "me",
        "sasl.password": "a 'b'; c",
        "ssl.endpoint.identification.algorithm": "none",
    }


def test_a_password_is_not_shown() -> None:
    read = KafkaRead.of({**SERVERS, "kafka.sasl.password": "secret"}, streaming=True)
    assert "secret" not in repr(read)
