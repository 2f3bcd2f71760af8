"""A project's settings and source files.

Any folder with a ``spark-pipeline.yml`` (the open Spark Declarative Pipelines specification) is a
project; ``shoal.toml`` beside it says where it runs.
"""

from shoal.project.monitor import AlertSettings, MonitorSettings, Watched
from shoal.project.project import Project, SourceFile, find_project
from shoal.project.settings import Profile, Settings, read_settings
from shoal.project.spec import PipelineSpec, read_spec

__all__ = [
    "AlertSettings",
    "MonitorSettings",
    "PipelineSpec",
    "Profile",
    "Project",
    "Settings",
    "SourceFile",
    "Watched",
    "find_project",
    "read_settings",
    "read_spec",
]
