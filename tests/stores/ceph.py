"""Run a real S3 server: Ceph's object gateway, one monitor and one in-memory storage daemon, as plain processes.

It verifies signatures as AWS does. Debian: ``apt-get install --no-install-recommends ceph-mon ceph-osd radosgw``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port
from tests.stores.processes import Processes, is_answering, is_listening, need

_CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}]
mon data = {folder}/mon
mon data avail crit = 1
osd data = {folder}/osd
osd objectstore = memstore
osd memory target = 939524096
memstore device bytes = 2147483648
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
pid file =
log file = {folder}/$name.log
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{s3_port}
rgw thread pool size = 16
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable quota threads = false
"""
_CAPABILITIES = {
    "mon.": ["mon", "allow *"],
    "client.admin": ["mon", "allow *", "osd", "allow *"],
    "client.rgw": ["mon", "allow *", "osd", "allow *"],
    "osd.0": ["mon", "allow profile osd", "osd", "allow *"],
}


@dataclass(frozen=True)
class S3:
    """An S3 server and the credentials of a user."""

    endpoint: str
    access_key: str
    secret_key: str


@contextmanager
def running(folder: Path) -> Iterator[S3]:
    """Run the server, which starts in seconds. `folder` must have a short path, because it contains sockets."""
    need("ceph-mon", "ceph-osd", "radosgw", package="ceph-mon ceph-osd radosgw", folders=("/usr/sbin",))
    fsid, osd, mon_port, s3_port = str(uuid.uuid4()), str(uuid.uuid4()), free_port(), free_port()
    for part in ("mon", "osd", "rgw"):
        (folder / part).mkdir()
    conf = folder / "ceph.conf"
    conf.write_text(_CONFIGURATION.format(folder=folder, fsid=fsid, mon_port=mon_port, s3_port=s3_port))
    with Processes(folder) as ceph:
        for name, capabilities in _CAPABILITIES.items():
            caps = [
                part for kind in zip(capabilities[::2], capabilities[1::2], strict=True) for part in ("--cap", *kind)
            ]
            create = [] if (folder / "keyring").exists() else ["--create-keyring"]
            ceph.run("ceph-authtool", "keyring", *create, "--gen-key", "-n", name, *caps)
        ceph.run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", "monmap")
        of = ["-c", str(conf)]
        ceph.run("ceph-mon", *of, "-i", "a", "--mkfs", "--monmap", "monmap", "--keyring", "keyring")
        ceph.start("mon", ["ceph-mon", *of, "-i", "a", "-f"], lambda: is_listening(mon_port))
        ceph.run("ceph", *of, "osd", "new", osd, "0")
        ceph.run("ceph-osd", *of, "-i", "0", "--mkfs", "--osd-uuid", osd)
        ceph.start("osd", ["ceph-osd", *of, "-i", "0", "-f"], lambda: "1 up" in ceph.run("ceph", *of, "osd", "stat"))
        url = f"http://127.0.0.1:{s3_port}"
        ceph.start("rgw", ["radosgw", *of, "-n", "client.rgw", "-f"], lambda: is_answering(url))
        s3 = S3(url, "accesskeyofthetests", "secretkeyofthetests")
        keys = ["--access-key", s3.access_key, "--secret-key", s3.secret_key]
        ceph.run(
            "radosgw-admin", *of, "-n", "client.rgw", "user", "create", "--uid=tests", "--display-name=tests", *keys
        )
        yield s3
