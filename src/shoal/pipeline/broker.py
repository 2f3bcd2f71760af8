"""A Kafka cluster through its client: settings as Spark writes them, topics, and offsets."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self

from shoal.errors import PipelineError, Unavailable, nearest

if TYPE_CHECKING:
    from confluent_kafka import KafkaError
    from confluent_kafka.admin import AdminClient

__all__ = ["Broker", "check_settings", "client_settings", "kafka_refused", "quiet"]

_ANSWER_SECONDS = 10.0
_DOWN_SECONDS = 2.5  # so long no broker may be reached at all
_LOGIN = re.compile(r"""(username|password)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)')""")
# Settings of Java's client that mean nothing to this one.
_JAVA_ONLY = {
    "key.deserializer",
    "key.serializer",
    "max.poll.records",
    "value.deserializer",
    "value.serializer",
}
# Shoal sets them itself: offsets belong to the table, never to the broker's group.
_OURS = {"auto.offset.reset", "enable.auto.commit", "enable.auto.offset.store"}


def client_settings(options: Mapping[str, str]) -> dict[str, Any]:
    """The client's settings in a source's or sink's options: those that begin with ``kafka.``.

    Java's ``sasl.jaas.config`` becomes the user and password in it, and a PEM trust store the
    client's authority file.

    Args:
        options: Options, names in lower case.

    Raises:
        PipelineError: The brokers' addresses are missing, or the client has no such setting.
    """
    settings = {
        name.removeprefix("kafka."): value
        for name, value in options.items()
        if name.startswith("kafka.")
    }
    if not settings.get("bootstrap.servers", "").strip():
        raise PipelineError(
            "Kafka's 'kafka.bootstrap.servers' is missing: no broker is named.",
            hint='Add .option("kafka.bootstrap.servers", "host:9092")',
        )
    if taken := sorted(_OURS & settings.keys()):
        raise PipelineError(
            f"'kafka.{taken[0]}' cannot be set: offsets are kept in the table, not by the broker.",
            hint="Use startingOffsets to say where a stream begins.",
        )
    for name in _JAVA_ONLY & settings.keys():
        del settings[name]
    if login := settings.pop("sasl.jaas.config", None):
        found = {key: one or other for key, one, other in _LOGIN.findall(login)}
        for key, value in found.items():
            settings.setdefault(f"sasl.{key}", value)
    if settings.pop("ssl.truststore.type", "").upper() == "PEM":
        settings["ssl.ca.location"] = settings.pop("ssl.truststore.location", "")
    if settings.get("ssl.endpoint.identification.algorithm") == "":
        settings["ssl.endpoint.identification.algorithm"] = "none"  # Java's word for it is empty
    if stores := [name for name in settings if "truststore" in name or "keystore.type" in name]:
        raise PipelineError(
            f"'kafka.{stores[0]}' names a Java key store, which this client cannot read.",
            hint="Export it to PEM and give kafka.ssl.ca.location, kafka.ssl.certificate.location "
            "and kafka.ssl.key.location.",
        )
    check_settings(settings)
    return settings


def check_settings(settings: Mapping[str, Any]) -> None:
    """Lets the client look at its settings; nothing is connected.

    Raises:
        PipelineError: It does not know one, or its value is wrong.
    """
    kafka = _kafka()
    try:
        kafka.Consumer({**quiet(), "group.id": "shoal", **settings, "bootstrap.servers": ""})
    except kafka.KafkaException as error:
        text = error.args[0].str().strip()
        unknown = re.search(r'No such configuration property: "(.+)"', text)
        raise PipelineError(
            f"Kafka's client refuses the option 'kafka.{unknown[1]}': it has no such setting."
            if unknown
            else f"Kafka's client refuses its settings: {text}",
            hint="The settings' names are librdkafka's; most are those of Kafka's Java client.",
        ) from error


def _kafka() -> Any:
    try:
        import confluent_kafka
    except ImportError as error:
        raise PipelineError(
            "Kafka's client is not installed.", hint="pip install 'shoal[kafka]'"
        ) from error
    return confluent_kafka


def quiet() -> dict[str, Any]:
    """Settings under which a client says nothing on its own."""
    # The client writes its log to standard error; what matters comes back as an error.
    return {"log_level": 0, "reconnect.backoff.max.ms": 1000, "socket.keepalive.enable": True}


class Broker:
    """A cluster to ask about topics and offsets; use it as a context manager.

    Args:
        settings: The client's settings.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from confluent_kafka.admin import AdminClient

        self.servers = str(settings["bootstrap.servers"])
        self._trouble: list[KafkaError] = []
        given = {**quiet(), **settings, "error_cb": self._trouble.append}
        self._admin: AdminClient = AdminClient(given)
        self._committed = settings.get("isolation.level", "read_committed") == "read_committed"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._admin.poll(0)

    def partitions(self) -> dict[str, list[int]]:
        """The topics and their partitions.

        Raises:
            Unavailable: No broker answers.
        """
        from confluent_kafka import KafkaError, KafkaException

        until = time.monotonic() + _ANSWER_SECONDS
        with self._asked("its topics"):
            while True:
                try:
                    listed = self._admin.list_topics(timeout=_DOWN_SECONDS)
                    break
                except KafkaException:
                    self._admin.poll(0)
                    down = KafkaError._ALL_BROKERS_DOWN
                    told = any(error.code() == down for error in self._trouble)
                    if told or time.monotonic() > until:
                        raise
        return {name: sorted(topic.partitions) for name, topic in listed.topics.items()}

    def check(self, topic: str, there: Mapping[str, Sequence[int]]) -> None:
        """Refuses a topic that does not exist (yet).

        Raises:
            Unavailable: It does not exist; the message has the nearest.
        """
        if there.get(topic):
            return
        close = nearest(topic, there)
        raise Unavailable(
            f"Kafka at {self.servers} has no topic {topic if ' ' in topic else repr(topic)}.",
            hint=f"Did you mean '{close}'?" if close else "Create it, then run again.",
        )

    def offsets(
        self, partitions: Sequence[tuple[str, int]], at: str | Mapping[tuple[str, int], int]
    ) -> dict[tuple[str, int], int]:
        """Offsets of partitions.

        Args:
            partitions: Topics and numbers.
            at: ``earliest``, ``latest`` (behind the last message; behind the last committed one
                where only those are read), or per partition a time in milliseconds, which gives
                its first message at or after it, or -1 when there is none.

        Raises:
            Unavailable: A broker does not answer.
        """
        from confluent_kafka import IsolationLevel, TopicPartition, admin

        kinds: Any = vars(admin)["OffsetSpec"]  # its stub does not export the name

        def spec(one: tuple[str, int]) -> Any:
            if isinstance(at, str):
                return getattr(kinds, at)()
            return kinds.for_timestamp(at[one])

        level = "READ_COMMITTED" if self._committed else "READ_UNCOMMITTED"
        with self._asked("offsets"):
            answers = self._admin.list_offsets(
                {TopicPartition(*one): spec(one) for one in partitions},
                isolation_level=IsolationLevel[level],
                request_timeout=_ANSWER_SECONDS,
            )
            return {
                (one.topic, one.partition): answer.result(_ANSWER_SECONDS).offset
                for one, answer in answers.items()
            }

    @contextlib.contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        from confluent_kafka import KafkaException

        try:
            yield
        except (KafkaException, TimeoutError) as error:
            self._admin.poll(0)  # hands over what went wrong below, such as a refused login
            cause = self._trouble[0] if self._trouble else None
            given = error.args[0] if isinstance(error, KafkaException) else None
            kafka_refused(self.servers, cause or given, what)


def kafka_refused(servers: str, error: KafkaError | None, what: str) -> NoReturn:
    """Raises what a client's error means to a person.

    Raises:
        PipelineError: The login or the right to read is refused: trying again will not help.
        Unavailable: Anything else.
    """
    from confluent_kafka import KafkaError as Kinds

    text = "no answer" if error is None else error.str()
    refused = {Kinds._AUTHENTICATION, Kinds.SASL_AUTHENTICATION_FAILED, Kinds._SSL}
    refused |= {Kinds.TOPIC_AUTHORIZATION_FAILED, Kinds.CLUSTER_AUTHORIZATION_FAILED}
    if error is not None and error.code() in refused:
        raise PipelineError(
            f"Kafka at {servers} refused to tell {what}: {text}",
            hint="Check the kafka.security.protocol, kafka.sasl.* and kafka.ssl.* options.",
        )
    raise Unavailable(
        f"Kafka at {servers} did not tell {what}: {text}",
        hint="Check that the broker runs and can be reached, then run again; nothing was lost.",
    )
