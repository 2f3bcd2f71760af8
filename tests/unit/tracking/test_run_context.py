"""Reading the context of a run from real folders and Git repositories."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from shoal.tracking import run_context


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "model.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_commit_and_changes(repository: Path) -> None:
    project = repository / "project"
    context = run_context(project, project="flights")
    assert context.project == "flights"
    assert context.code_commit == git(repository, "rev-parse", "HEAD")
    assert not context.code_dirty
    assert context.user
    (repository / "elsewhere.txt").write_text("not of this project")
    assert not run_context(project, project="flights").code_dirty
    (project / "new.py").write_text("y = 2\n")
    assert run_context(project, project="flights").code_dirty


def test_outside_a_repository(tmp_path: Path) -> None:
    context = run_context(tmp_path, project="flights")
    assert (context.code_commit, context.code_dirty) == (None, False)


def test_the_nearest_lock_file_counts(repository: Path) -> None:
    project = repository / "project"
    installed = run_context(project, project="flights").environment_hash
    assert installed == run_context(project, project="flights").environment_hash
    (repository / "uv.lock").write_bytes(b"one")
    found = run_context(project, project="flights").environment_hash
    assert found == hashlib.sha256(b"one").hexdigest() != installed
    (project / "requirements.txt").write_bytes(b"two")
    assert (
        run_context(project, project="flights").environment_hash
        == hashlib.sha256(b"two").hexdigest()
    )


def test_a_lock_file_outside_the_repository_does_not_count(repository: Path) -> None:
    alone = repository.parent / "uv.lock"
    alone.write_bytes(b"not mine")
    try:
        found = run_context(repository / "project", project="flights").environment_hash
        assert found != hashlib.sha256(b"not mine").hexdigest()
    finally:
        alone.unlink()
