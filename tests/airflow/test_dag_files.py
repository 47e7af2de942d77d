"""DAG files in the folder of an existing Airflow: copied, brought up to date, and never overwritten unasked."""

from __future__ import annotations

import hashlib
import json

import pytest

from bigtcp_bench.airflow import dag_files
from bigtcp_bench.commands.main import main
from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.resources import dags_dir

NAMES = ["bigtcp_benchmark.py", "bigtcp_restore.py", "bigtcp_upgrade_watch.py"]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "dags"


def test_installing_twice_is_installing_once(folder, capsys):
    assert main(["install-dags", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{folder / name}: written" for name in NAMES]
    first = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.py")}
    assert main(["install-dags", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{folder / name}: unchanged" for name in NAMES]
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.py")} == first
    assert first.keys() == set(NAMES)
    assert all(content == (dags_dir() / name).read_bytes() for name, (content, _) in first.items())


def test_a_changed_file_is_not_overwritten_unasked(folder, capsys):
    dag_files.install(folder)
    mine = folder / NAMES[1]
    mine.write_text("# mine\n")
    (folder / NAMES[0]).unlink()
    assert main(["install-dags", str(folder)]) == 1
    assert "bigtcp_restore.py was not written by install-dags, or has been changed" in capsys.readouterr().err
    assert mine.read_text() == "# mine\n"
    assert not (folder / NAMES[0]).exists(), "refused, and yet half of it was done"
    assert main(["install-dags", str(folder), "--force"]) == 0
    assert mine.read_bytes() == (dags_dir() / NAMES[1]).read_bytes()


def test_files_of_an_earlier_version_are_brought_up_to_date(folder):
    folder.mkdir()
    before = {NAMES[0]: b"# version 0\n", "bigtcp_gone.py": b"# a DAG that is no more\n"}
    for name, content in before.items():
        (folder / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in before.items()}
    (folder / dag_files.RECORD).write_text(json.dumps({"version": "0.0.1", "files": digests}))
    (folder / "theirs.py").write_text("# not ours\n")
    assert dag_files.install(folder) == {
        NAMES[0]: "updated",
        NAMES[1]: "written",
        NAMES[2]: "written",
        "bigtcp_gone.py": "deleted",
    }
    assert sorted(path.name for path in folder.glob("*.py")) == [*NAMES, "theirs.py"]


def test_a_record_cannot_point_outside_of_the_folder(folder, tmp_path):
    outside = tmp_path / "outside.py"
    outside.write_text("# keep\n")
    folder.mkdir()
    digest = hashlib.sha256(b"# keep\n").hexdigest()
    (folder / dag_files.RECORD).write_text(json.dumps({"files": {"../outside.py": digest}}))
    dag_files.install(folder)
    assert outside.exists()


def test_what_is_no_folder_is_one_sentence(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path in (file, tmp_path / "no" / "such"):
        with pytest.raises(InvalidInput, match="cannot be used as a DAG folder"):
            dag_files.install(path)
    with pytest.raises(InvalidInput, match="is where the DAG files come from"):
        dag_files.install(dags_dir())
