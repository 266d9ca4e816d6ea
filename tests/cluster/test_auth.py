import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stabsearch.cluster import auth
from stabsearch.errors import ClusterError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (auth.TOKEN_VARIABLE, auth.PATH_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_sources_are_tried_in_rays_order(home, monkeypatch):
    named = home / "named"
    named.write_text("by-path\n")
    auth.ensure_token()

    assert auth.find_token().source == str(home / ".ray" / "auth_token")
    monkeypatch.setenv(auth.PATH_VARIABLE, str(named))
    assert (auth.find_token().value, auth.find_token().source) == ("by-path", str(named))
    monkeypatch.setenv(auth.TOKEN_VARIABLE, "by-variable")
    assert auth.find_token() == auth.Token("by-variable", "RAY_AUTH_TOKEN")


def test_no_token_is_none():
    assert auth.find_token() is None


def test_a_path_that_holds_no_token_is_an_error(home, monkeypatch):
    monkeypatch.setenv(auth.PATH_VARIABLE, str(home / "missing"))

    with pytest.raises(ClusterError, match=r"RAY_AUTH_TOKEN_PATH names .*missing"):
        auth.find_token()


def test_a_new_token_is_its_owners_alone_whatever_the_umask(home):
    before = os.umask(0)
    try:
        token = auth.ensure_token()
    finally:
        os.umask(before)

    path = home / ".ray" / "auth_token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == token.value
    assert len(token.value) == 64
    assert [each.name for each in path.parent.iterdir()] == ["auth_token"]
    assert auth.ensure_token() == token


def test_a_token_that_ray_left_readable_is_closed(home):
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("from-ray")
    path.chmod(0o644)

    assert auth.ensure_token().value == "from-ray"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_many_at_once_agree_on_one_token():
    barrier = threading.Barrier(8)

    def ensure(_):
        barrier.wait()
        return auth.ensure_token().value

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ensure, range(8)))) == 1


def test_an_empty_token_file_is_replaced(home):
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("\n")

    assert auth.ensure_token().value == path.read_text() != ""


def test_a_token_does_not_show_itself():
    token = auth.Token("secret", "RAY_AUTH_TOKEN")

    assert "secret" not in f"{token} {token!r}"
    assert token.headers == {"Authorization": "Bearer secret"}
