import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import stabsearch
from stabsearch.cluster.code_package import write_code_package
from stabsearch.errors import ClusterError


@pytest.fixture
def code(tmp_path):
    folder = tmp_path / "code"
    for name in (
        *("models.py", "lib/results/store.py", "data/big.bin", "stabsearch/__init__.py"),
        *("results/old/trials.parquet", ".venv/bin/python", "lib/__pycache__/x.pyc", ".git/HEAD"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}")
    return folder


def names_in(path):
    with zipfile.ZipFile(path) as package:
        return {name for name in package.namelist() if not name.startswith("stabsearch/")}


def test_own_code_goes_along_without_environments_caches_and_results(code, tmp_path):
    write_code_package(tmp_path / "a.zip", working_dir=code, texts={"study.yaml": "name: x"})

    expected = {"models.py", "lib/results/store.py", "data/big.bin", "study.yaml"}
    assert names_in(tmp_path / "a.zip") == expected


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_what_git_ignores_stays_here(code, tmp_path):
    shutil.rmtree(code / ".git")
    subprocess.run(["git", "init", "-q", str(code)], check=True)
    (code / ".gitignore").write_text("data/\n*.yaml\n")

    write_code_package(tmp_path / "a.zip", working_dir=code, texts={"study.yaml": "name: x"})

    expected = {".gitignore", "models.py", "lib/results/store.py", "study.yaml"}
    assert names_in(tmp_path / "a.zip") == expected


def test_the_package_holds_this_very_stabsearch_and_runs(code, tmp_path):
    write_code_package(tmp_path / "a.zip", working_dir=code)
    with zipfile.ZipFile(tmp_path / "a.zip") as package:
        package.extractall(tmp_path / "there")
    asked = "import stabsearch.results.store, stabsearch; print(stabsearch.__file__)"

    answer = subprocess.run(
        [sys.executable, "-c", asked], cwd=tmp_path / "there", capture_output=True, text=True
    )

    assert answer.stdout.strip() == str(tmp_path / "there" / "stabsearch" / "__init__.py")
    source = Path(stabsearch.__file__)
    assert (tmp_path / "there" / "stabsearch" / "__init__.py").read_text() == source.read_text()


def test_same_content_gives_the_same_bytes(code, tmp_path):
    write_code_package(tmp_path / "a.zip", working_dir=code)
    (code / "models.py").touch()
    write_code_package(tmp_path / "b.zip", working_dir=code)

    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_too_large_names_the_largest_files(code, tmp_path):
    (code / "data" / "noise.txt").write_bytes(bytes(range(256)) * 8192)

    with pytest.raises(ClusterError, match=r"Largest files: data/noise\.txt \(2\.0 MiB\)"):
        write_code_package(tmp_path / "a.zip", working_dir=code, max_bytes=5000)


def test_a_working_dir_that_is_no_folder_is_an_error(tmp_path):
    with pytest.raises(ClusterError, match="is not a folder"):
        write_code_package(tmp_path / "a.zip", working_dir=tmp_path / "none")
