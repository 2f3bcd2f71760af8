"""A real Kafka broker for tests: Apache Kafka (KRaft, one node) in a process of its own.

``python tests/kafka.py`` fetches the broker's jars with Maven into a cache folder, once; the tests
themselves fetch nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

POM = Path(__file__).parent / "brokers" / "pom.xml"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "shoal-tests"
SETTINGS = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{guarded},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{guarded}
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
  required user_reader="open sesame";
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
log.dirs={folder}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
auto.create.topics.enable=false
log.retention.check.interval.ms=500
"""
SETTINGS_FILE = "server.properties"
CLUSTER = "4L6g3nShT-eMCtK--X86sw"
JAVA = ["java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
JAVA += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]


def jars() -> Path:
    """Where the jars of this POM lie, or will lie."""
    return CACHE / f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:16]}"


def missing() -> str | None:
    """Why no broker can be started here, or None when one can."""
    if shutil.which("java") is None:
        return "no Java: apt-get install openjdk-17-jre-headless"
    if not jars().is_dir():
        why = "Kafka's jars are missing: python tests/kafka.py fetches them"
        if os.environ.get("SHOAL_TEST_KAFKA") == "1":  # whoever asks for the tests gets no skip
            raise RuntimeError(why)
        return why
    return None


def fetch() -> None:
    """Resolves the POM with Maven, checking each jar against the repository's checksum."""
    if jars().is_dir():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    draft = CACHE / f".draft-{os.getpid()}"
    command = [
        "mvn",
        "--quiet",
        "--batch-mode",
        "--strict-checksums",
        "-Dstyle.color=never",
        "--file",
        str(POM),
    ]
    command += ["dependency:copy-dependencies", "-DincludeScope=runtime"]
    try:
        subprocess.run([*command, f"-DoutputDirectory={draft}"], check=True)
        draft.rename(jars())
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@dataclass(kw_only=True)
class Kafka:
    """A running broker, and short ways to fill and read topics."""

    servers: str
    guarded: str  # the same broker, for the user "reader" with the password "open sesame"
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the broker and waits until it answers for itself."""
        from confluent_kafka import KafkaException

        path = self.folder / "broker.log"
        command = [*JAVA, "-cp", f"{jars()}/*", "kafka.Kafka", str(self.folder / SETTINGS_FILE)]
        with path.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + 90
        while True:
            assert self.process.poll() is None, f"the broker ended:\n{path.read_text()}"
            assert time.monotonic() < until, f"the broker does not answer:\n{path.read_text()}"
            with contextlib.suppress(KafkaException):
                if self._admin.list_topics(timeout=1).brokers:
                    return

    def stop(self) -> None:
        """Ends the broker; what it has is kept for the next start."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    @cached_property
    def _admin(self) -> Any:
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

    def topic(self, name: str, partitions: int = 1, **settings: str) -> str:
        """Makes a topic."""
        from confluent_kafka.admin import NewTopic

        config = {key.replace("_", "."): value for key, value in settings.items()}
        made = self._admin.create_topics([NewTopic(name, partitions, 1, config=config)])
        made[name].result(30)
        self._until(lambda there: len(there.get(name, ())) == partitions)
        return name

    def partitions(self, name: str, number: int) -> None:
        """Gives a topic more partitions."""
        from confluent_kafka.admin import NewPartitions

        self._admin.create_partitions([NewPartitions(name, number)])[name].result(30)
        self._until(lambda there: len(there.get(name, ())) == number)

    def delete(self, name: str) -> None:
        self._admin.delete_topics([name])[name].result(30)
        self._until(lambda there: name not in there)

    def forget(self, name: str, before: int, partition: int = 0) -> None:
        """Removes a partition's messages before an offset, as retention does."""
        from confluent_kafka import TopicPartition

        one = TopicPartition(name, partition, before)
        next(iter(self._admin.delete_records([one]).values())).result(30)

    def _until(self, met: Any) -> None:
        until = time.monotonic() + 30
        while not met({n: t.partitions for n, t in self._admin.list_topics().topics.items()}):
            assert time.monotonic() < until, "the broker's topics do not become as asked"

    def send(
        self,
        topic: str,
        values: Iterable[str | bytes | None],
        *,
        partition: int = -1,
        key: str | None = None,
        headers: Mapping[str, bytes] | None = None,
    ) -> None:
        """Produces messages and waits until the broker has them."""
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.servers, "linger.ms": 5, "log_level": 0})
        for value in values:
            where = {} if partition < 0 else {"partition": partition}
            given = dict(headers) if headers else None
            while True:
                try:
                    producer.produce(topic, value, key, headers=given, **where)
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(60) == 0

    def transactions(self, identity: str) -> Any:
        """A transactional producer, ready to begin."""
        from confluent_kafka import Producer

        settings = {"bootstrap.servers": self.servers, "transactional.id": identity}
        producer = Producer({**settings, "log_level": 0})
        producer.init_transactions(30)
        return producer

    def messages(self, topic: str) -> list[Any]:
        """All committed messages of a topic."""
        from confluent_kafka import Consumer, KafkaError, TopicPartition

        consumer = Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": "test",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )
        numbers = self._admin.list_topics().topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
        found, open_ = [], set(numbers)
        while open_:
            for message in consumer.consume(1000, timeout=0.2):
                if message.error() is None:
                    found.append(message)
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    open_.discard(message.partition())
        consumer.close()
        return found


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at now."""
    with contextlib.ExitStack() as open_:
        found = [open_.enter_context(contextlib.closing(socket.socket())) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


@contextlib.contextmanager
def running_kafka(folder: Path) -> Iterator[Kafka]:
    """A broker over a folder."""
    ports = dict(zip(("port", "guarded", "controller"), free_ports(3), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / SETTINGS_FILE
    settings.write_text(SETTINGS.format(folder=folder, **ports))
    command = [*JAVA, "-cp", f"{jars()}/*", "kafka.tools.StorageTool", "format", "-t", CLUSTER]
    told = subprocess.run(
        [*command, "-c", str(settings)], capture_output=True, check=False, text=True
    )
    assert told.returncode == 0, told.stdout + told.stderr
    servers, guarded = (f"127.0.0.1:{ports[name]}" for name in ("port", "guarded"))
    kafka = Kafka(servers=servers, guarded=guarded, folder=folder)
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop()


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(f"{__doc__}")
    fetch()
    print(jars())
