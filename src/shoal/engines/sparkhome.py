"""Where a local Apache Spark with Delta Lake is, and how it gets there.

The ``pyspark`` package brings the whole of Spark, but its files are also those of
``pyspark-client``, so it lives in a folder of its own, never in this environment.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from shoal.errors import EngineError

__all__ = ["DELTA", "SPARK", "SparkHome", "java", "make_spark_home"]

# The client's own version, so that code which the client ships fits the server's; the Delta release
# that is made for it. Both run on Java 17.
SPARK, DELTA = "4.2.0", "io.delta:delta-spark_2.13:4.4.0"
# What Hadoop 3.5 reads s3:// with: its own jar, and of Amazon's SDK only the parts that it needs
# (18 MB; the bundle that it names has 600).
_S3 = [
    "org.apache.hadoop:hadoop-aws:3.5.0",
    "software.amazon.s3.analyticsaccelerator:analyticsaccelerator-s3:1.3.1",
    *(
        f"software.amazon.awssdk:{part}:2.35.4"
        for part in ("s3-transfer-manager", "sts", "apache-client", "netty-nio-client")
    ),
]
_LEFT_OUT = ["software.amazon.awssdk:bundle", "org.wildfly.openssl:wildfly-openssl"]
_OLDEST_JAVA = 17
_SETUP = "shoal spark setup"
# Without the user's Maven cache, whose half-filled entries stop Ivy.
_CENTRAL = """<ivysettings><settings defaultResolver="central"/><resolvers>
<ibiblio name="central" m2compatible="true"/></resolvers></ivysettings>"""


@dataclass(frozen=True, kw_only=True)
class SparkHome:
    """An unpacked Spark.

    Args:
        root: The folder that holds ``python``, where pyspark is, and ``jars``, Delta's.
    """

    root: Path

    @property
    def folder(self) -> Path:
        """What Spark calls SPARK_HOME."""
        return self.root / "python/pyspark"

    @property
    def version(self) -> str:
        """Spark's version, from its own jars."""
        for jar in self.folder.glob("jars/spark-core_*.jar"):
            return jar.stem.rpartition("-")[2]
        return ""

    def jars(self) -> list[Path]:
        """Delta's jars, and those for S3: Spark itself brings the rest of what they need."""
        return sorted(self.root.glob("jars/*.jar"))

    @property
    def reads_s3(self) -> bool:
        """Whether it can read and write ``s3://``."""
        return any(self.root.glob("jars/hadoop-aws-*.jar"))

    @classmethod
    def place(cls) -> Self:
        """Where it is looked for: ``SHOAL_SPARK_HOME``, or a folder of the user's cache."""
        given = os.environ.get("SHOAL_SPARK_HOME")
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cls(root=Path(given) if given else cache / f"shoal/spark-{SPARK}")

    @classmethod
    def find(cls) -> Self:
        """The Spark of this machine.

        Raises:
            EngineError: There is none.
        """
        home = cls.place()
        if not home.version or not home.jars():
            raise EngineError(
                f"There is no Apache Spark with Delta Lake in {home.root}.",
                hint=f"{_SETUP} puts one there (about 500 MB); or name an existing one with "
                "SHOAL_SPARK_HOME",
            )
        return home


def java() -> str:
    """The folder of a Java that Spark runs on, as JAVA_HOME.

    Raises:
        EngineError: There is none, or it is too old.
    """
    given = os.environ.get("JAVA_HOME")
    program = Path(given) / "bin/java" if given else Path(shutil.which("java") or "")
    if not program.is_file():
        raise EngineError(
            f"Apache Spark needs Java {_OLDEST_JAVA} or newer; there is "
            + (f"none in JAVA_HOME={given}." if given else "no java on this machine's PATH."),
            hint="apt-get install openjdk-17-jre-headless, or set JAVA_HOME",
        )
    said = subprocess.run(  # noqa: S603 - the user's own Java
        [str(program), "-version"], capture_output=True, text=True, check=False
    ).stderr
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found.group(1)) < _OLDEST_JAVA:
        version = found.group(1) if found else said.strip()[:80] or "unknown"
        raise EngineError(
            f"Apache Spark needs Java {_OLDEST_JAVA} or newer; {program} is {version}.",
            hint="apt-get install openjdk-17-jre-headless, or set JAVA_HOME",
        )
    return str(program.resolve().parent.parent)


def make_spark_home(home: SparkHome | None = None) -> SparkHome:
    """Installs Spark from the Python package index and Delta's jars from Maven Central.

    Args:
        home: Where; None is where it is looked for.

    Raises:
        EngineError: One of them cannot be had.
    """
    home = home or SparkHome.place()
    runs = java()
    home.root.mkdir(parents=True, exist_ok=True)
    if not home.version:
        draft = home.root / f".python-{os.getpid()}"
        try:
            _done(
                [*_installer(), "--no-deps", "--target", str(draft), f"pyspark=={SPARK}"],
                f"pyspark {SPARK} could not be installed",
            )
            shutil.rmtree(home.root / "python", ignore_errors=True)
            draft.rename(home.root / "python")
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    if not home.jars() or not home.reads_s3:
        _fetch_jars(home, runs)
    return home


def _installer() -> list[str]:
    """A command that installs packages into a folder."""
    uv = shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    for python in (sys.executable, shutil.which("python3") or ""):
        if (
            python
            and not subprocess.run(  # noqa: S603 - a Python of this machine
                [python, "-m", "pip", "--version"], capture_output=True, check=False
            ).returncode
        ):
            return [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    raise EngineError("There is neither uv nor pip to install pyspark with.", hint="pip install uv")


def _fetch_jars(home: SparkHome, runs: str) -> None:
    """Lets Spark's own resolver fetch Delta and what S3 needs, which checks what it fetched."""
    draft = home.root / f".ivy-{os.getpid()}"
    draft.mkdir()
    settings = draft / "settings.xml"
    settings.write_text(_CENTRAL)
    command = [str(home.folder / "bin/spark-submit"), "--packages", ",".join([DELTA, *_S3])]
    command += ["--exclude-packages", ",".join(_LEFT_OUT)]
    command += ["--conf", f"spark.jars.ivySettings={settings}"]
    command += ["--conf", f"spark.jars.ivy={draft}", "--conf", "spark.ui.enabled=false"]
    command += ["--class", "org.apache.spark.deploy.SparkSubmit", "spark-internal", "--version"]
    try:
        _done(
            command,
            f"{DELTA} and {_S3[0]} could not be fetched from Maven Central",
            {"JAVA_HOME": runs, "SPARK_HOME": str(home.folder)},
        )
        (home.root / "jars").mkdir(exist_ok=True)
        # Of another version, or not: what Spark has, it has.
        there = {_artifact(jar.name) for jar in home.folder.glob("jars/*.jar")}
        for jar in (draft / "jars").glob("*.jar"):
            name = jar.name.partition("_")[2]
            if _artifact(name) not in there:
                jar.rename(home.root / "jars" / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if not home.jars():
        raise EngineError(f"{DELTA} was fetched, but its jars are not there.", hint=_SETUP)


def _done(command: list[str], failed: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(  # noqa: S603 - no shell, and our own arguments
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise EngineError(f"{failed}:\n{said}", hint=f"Look at the network, then: {_SETUP}")


def _artifact(jar: str) -> str:
    """A jar's name without its version."""
    return re.sub(r"-\d.*", "", jar.removesuffix(".jar"))
