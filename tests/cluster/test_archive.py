import io
import os
import tarfile

import pytest

from stabsearch.cluster import archive
from stabsearch.errors import ClusterError


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    (folder / "reports").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "study.json").write_text("{}")
    (folder / "reports" / "0000-0.parquet").write_bytes(os.urandom(100_000))
    (folder / "reports" / ".0001-0.parquet.tmp").write_text("a draft")
    (folder / "checkpoints" / "0000-0.safetensors").write_bytes(b"large")
    return folder


def printed(folder, nonce="n0"):
    out = io.StringIO()
    archive.send(folder, nonce, out)
    return out.getvalue().splitlines()


def unpacked(lines, folder, nonce="n0"):
    content = io.BytesIO()
    archive.receive(lines, nonce, content)
    content.seek(0)
    archive.unpack(content, folder)


def test_what_is_sent_is_received_without_drafts_and_checkpoints(study, tmp_path):
    lines = printed(study)

    unpacked(["Running entrypoint", *lines[:3], "a warning of Ray", *lines[3:]], tmp_path / "home")

    names = {p.relative_to(tmp_path / "home").as_posix() for p in (tmp_path / "home").rglob("*")}
    assert names == {"study.json", "reports", "reports/0000-0.parquet"}
    sent = (study / "reports" / "0000-0.parquet").read_bytes()
    assert (tmp_path / "home" / "reports" / "0000-0.parquet").read_bytes() == sent


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[:-1],
        lambda lines: [],
        lambda lines: lines[:2] + lines[3:],
        lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
        lambda lines: [line.replace(" n0 ", " n1 ") for line in lines],
    ],
    ids=["cut", "empty", "line lost", "lines swapped", "another fetch"],
)
def test_damage_is_noticed(study, tmp_path, damage):
    with pytest.raises(ClusterError, match="fetch them once more"):
        unpacked(damage(printed(study)), tmp_path / "home")


def test_a_study_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ClusterError, match=r"There is no .*/nothing on the cluster's head node"):
        unpacked(printed(tmp_path / "nothing"), tmp_path / "home")


@pytest.mark.parametrize("kind", ["climbs out", "absolute", "link", "device"])
def test_an_archive_that_reaches_outside_is_refused(tmp_path, kind):
    entry = tarfile.TarInfo({"climbs out": "../evil", "absolute": "/../evil"}.get(kind, "evil"))
    if kind == "link":
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    if kind == "device":
        entry.type = tarfile.CHRTYPE
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        tar.addfile(entry, io.BytesIO(b""))
    content.seek(0)
    home = tmp_path / "deep" / "home"
    home.mkdir(parents=True)

    with pytest.raises(ClusterError):
        archive.unpack(content, home)

    assert list(tmp_path.rglob("evil")) == []
