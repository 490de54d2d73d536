"""The embedded PostgreSQL of a user who is not root."""

import contextlib
import os
import pathlib
import pwd
import subprocess
import sys

import pytest

from tests.support.embedded import ANOTHER_PROCESS, CHECKOUT, kill_server, runs


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")
def test_an_ordinary_user_can_do_all_of_it() -> None:
    nobody = pwd.getpwnam("nobody")
    python = _python_for(nobody)
    home = pathlib.Path(f"/var/tmp/threadfold-nobody-{os.getpid()}")
    home.mkdir(mode=0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    try:
        for _ in range(2):
            done = _as(nobody, [*python, "-c", ANOTHER_PROCESS, str(home / ".data" / "postgres")])
            assert done.returncode == 0, done.stderr
            assert not runs(home / ".data" / "postgres")
        owners = {path.stat().st_uid for path in home.rglob("*")}
        assert owners == {nobody.pw_uid}
    finally:
        kill_server(home / ".data" / "postgres")
        subprocess.run(["rm", "-rf", home], check=True)


def _as(user: pwd.struct_passwd, command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        check=False,
        cwd="/",
        env={"PYTHONPATH": os.pathsep.join([str(CHECKOUT), *(path for path in sys.path if "site-packages" in path)])},
        input="",
        capture_output=True,
        text=True,
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
    )


def _python_for(user: pwd.struct_passwd) -> list[str]:
    """A Python that this user can run, with our packages; the one of the tests may be in root's home."""
    for name in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with contextlib.suppress(OSError):
            if _as(user, [name, "-B", "-c", "import infrastructure.embedded"]).returncode == 0:
                return [name, "-B"]
    pytest.skip("nobody can execute no Python that has our packages")
