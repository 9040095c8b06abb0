"""A program that makes pictures, each in a process of its own with limits.

It reads files from its input, each after its length, and forks for each. So a file that crashes a decoder, takes too
long or needs too much memory ends only its own process. The worker has no threads, no secrets and no connections.
"""

import os
import resource
import select
import signal
import struct
import sys
import time

from services.conversations.attachments.pictures import Pictures, load_decoders, make_pictures

CPU_SECONDS = 10
SECONDS = 20.0
MEMORY = 768 * 2**20  # bytes of address space beyond those of the worker
LENGTH = struct.Struct(">Q")
RESULT = struct.Struct(">IIII")  # width, height, lengths of thumbnail and picture; all zero if there is none
FAILED = RESULT.pack(0, 0, 0, 0)


def encode(pictures: Pictures) -> bytes:
    """Return pictures as the worker sends them."""
    head = RESULT.pack(pictures.width, pictures.height, len(pictures.thumbnail), len(pictures.picture))
    return head + pictures.thumbnail + pictures.picture


def main() -> None:
    """Answer each file on standard input, until it is closed."""
    load_decoders()  # once, instead of in each fork
    while head := sys.stdin.buffer.read(LENGTH.size):
        (size,) = LENGTH.unpack(head)
        content = sys.stdin.buffer.read(size)
        sys.stdout.buffer.write(answer(content))
        sys.stdout.buffer.flush()


def answer(content: bytes) -> bytes:
    """Return the encoded pictures of a file, or `FAILED`."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        os.close(reading)
        _make_and_exit(content, writing)
    os.close(writing)
    try:
        result = _read(reading)
    finally:
        os.close(reading)
        os.kill(process, signal.SIGKILL)  # it has answered, or takes too long
        os.waitpid(process, 0)
    return result if _is_complete(result) else FAILED


def _make_and_exit(content: bytes, writing: int) -> None:
    """Write the encoded pictures to a pipe, within the limits."""
    try:
        _limit()
        with os.fdopen(writing, "wb") as target:
            target.write(encode(make_pictures(content)))
    finally:
        os._exit(0)  # without the parent's buffers and exit handlers


def _limit() -> None:
    in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() if _HAS_PROC else 0  # noqa: PTH123, SIM115 - the process ends
    for kind, limit in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, in_use + MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def _read(pipe: int) -> bytes:
    result, deadline = bytearray(), time.monotonic() + SECONDS
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([pipe], [], [], left)[0]:
            break
        if not (chunk := os.read(pipe, 2**20)):
            break
        result += chunk
    return bytes(result)


def _is_complete(result: bytes) -> bool:
    if len(result) < RESULT.size:
        return False
    width, height, *lengths = RESULT.unpack_from(result)
    return bool(width and height and all(lengths) and len(result) == RESULT.size + sum(lengths))


_HAS_PROC = os.path.exists("/proc/self/statm")  # noqa: PTH110 - no other use of paths

if __name__ == "__main__":
    main()
