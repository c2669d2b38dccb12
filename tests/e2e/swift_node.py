"""A whole OpenStack Swift with its S3 interface in one process; run with a Python that has ``swift`` installed.

    python -P swift_node.py FOLDER PORT ACCESS_KEY SECRET

The proxy, the account, the container and the object server are Swift's own, as ``swift-*-server`` run them, each on a
loopback socket. PORT is the proxy's, 0 for a free one. The others' are new at each start, and so are the rings, of one
device and one replica; where an object stands does not depend on a port. All of it stands in FOLDER: there
is no /etc/swift and no memcached. When it listens it prints ``listening port=N``; its log goes to stderr.

Source: Swift's deployment guide and ``etc/*.conf-sample``; its own tests run it in one process too.
"""

import logging
import os
import sys
from pathlib import Path

import eventlet
import eventlet.wsgi
from swift.common import utils

STORAGE = ("account", "container", "object")

_SWIFT_CONF = "[swift-hash]\nswift_hash_path_suffix = sipdump\n[storage-policy:0]\nname = one\ndefault = yes\n"
_STORAGE_CONF = """
[DEFAULT]
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
recon_cache_path = {folder}
log_custom_handlers = {handler}
[app:main]
use = egg:swift#{kind}
"""
_PROXY_CONF = """
[DEFAULT]
swift_dir = {folder}
log_custom_handlers = {handler}
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats s3api tempauth bulk slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
allow_no_owner = true
[filter:tempauth]
use = egg:swift#tempauth
user_{access_key} = {secret} .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
"""


def to_stderr(*args: object) -> None:
    """Log to stderr too; Swift calls it for each logger: conf, name, to console, route, format, logger, adapter."""
    logger = args[5]
    assert isinstance(logger, logging.Logger)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger.addHandler(handler)


def write_rings(folder: Path, ports: dict[str, int]) -> None:
    """Write a ring of one device for each storage server."""
    from swift.common.ring import RingBuilder  # it reads swift.conf when it is imported

    for kind, port in ports.items():
        builder = RingBuilder(part_power=1, replicas=1, min_part_hours=0)
        builder.add_dev(
            {"id": 0, "region": 1, "zone": 1, "weight": 1.0, "ip": "127.0.0.1", "port": port, "device": "d"}
        )
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{kind}.ring.gz"))


def main(folder: Path, port: int, access_key: str, secret: str) -> None:
    (folder / "devices" / "d").mkdir(parents=True, exist_ok=True)
    (folder / "swift.conf").write_text(_SWIFT_CONF)
    utils.set_swift_dir(str(folder))

    from swift.common.wsgi import SwiftHttpProtocol, loadapp  # as above

    sockets = {kind: eventlet.listen(("127.0.0.1", 0)) for kind in STORAGE}
    sockets["proxy"] = eventlet.listen(("127.0.0.1", port))
    write_rings(folder, {kind: sockets[kind].getsockname()[1] for kind in STORAGE})
    threads = []
    for kind, sock in sockets.items():
        conf = folder / f"{kind}.conf"
        values = {"folder": folder, "kind": kind, "access_key": access_key.replace(":", "_"), "secret": secret}
        template = _PROXY_CONF if kind == "proxy" else _STORAGE_CONF
        conf.write_text(template.format(handler=f"__main__.{to_stderr.__name__}", **values))
        app = loadapp(str(conf), global_conf={"log_name": kind})
        # header names must keep their case: S3 clients look for ETag, not Etag (as in swift.common.wsgi.run_server)
        options = {"protocol": SwiftHttpProtocol, "capitalize_response_headers": False, "log_output": False}
        threads.append(eventlet.spawn(eventlet.wsgi.server, sock, app, **options))
    print(f"listening port={sockets['proxy'].getsockname()[1]}", flush=True)
    for thread in threads:
        thread.wait()


if __name__ == "__main__":
    os.umask(0o077)
    utils.monkey_patch()
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), *sys.argv[3:])
