"""What every peer serves; the README says what each protocol is. Identify is py-libp2p's own."""

import hashlib
import json
import sys

import trio
from libp2p.custom_types import TProtocol
from libp2p.host.ping import ID as PING
from libp2p.host.ping import handle_ping

from closing import CLOSE, SINK, serve_close, sink
from streams import (
    close_write,
    read,
    read_exactly,
    read_number,
    read_to_end,
    reset,
    reset_code,
    write,
    write_until_error,
    write_zeros,
)

ABORT = TProtocol("/interop/abort/1.0.0")
ECHO = TProtocol("/echo/1.0.0")
HALF_CLOSE = TProtocol("/interop/half-close/1.0.0")
PERF = TProtocol("/perf/1.0.0")
REPORT = TProtocol("/interop/report/1.0.0")
SLOW = TProtocol("/interop/slow/1.0.0")

HALF_CLOSE_BYTES = 64 * 1024

# What the last stream that had something to remember has seen.
remembered = None


def serve(host, ends):
    host.set_stream_handler(PING, handle_ping)
    host.set_stream_handler(CLOSE, logged(CLOSE, serve_close(ends)))
    for protocol, handle in HANDLERS.items():
        host.set_stream_handler(protocol, logged(protocol, handle))


def logged(protocol, handle):
    async def handler(stream):
        try:
            await handle(stream)
        except Exception as error:
            print(f"{protocol}: {type(error).__name__}: {error}", file=sys.stderr)
            await reset(stream, 0)

    return handler


async def abort(stream):
    global remembered
    request = await read_exactly(stream, 1)
    code = await read_number(stream)
    if request == b"R":
        await reset(stream, code)
    elif request == b"S":
        await write(stream, b"U")
        await close_write(stream)
        await read_to_end(stream)
    elif request == b"r":
        remembered = None
        await write(stream, b"K")
        try:
            await read_to_end(stream)
            remembered = {"eof": True}
        except Exception as error:
            remembered = {"code": reset_code(stream), "error": repr(error)}
    elif request == b"s":
        remembered = None
        await write(stream, b"K")
        remembered = {"code": None, "error": repr(await write_until_error(stream))}


async def echo(stream):
    while data := await read(stream):
        await write(stream, data)
    await close_write(stream)


async def half_close(stream):
    global remembered
    remembered = None
    await write_zeros(stream, HALF_CLOSE_BYTES)
    await close_write(stream)
    remembered = {"received": await read_to_end(stream)}


async def perf(stream):
    download = await read_number(stream)
    await read_to_end(stream)
    await write_zeros(stream, download)
    await close_write(stream)


async def report(stream):
    await write(stream, json.dumps(remembered).encode())
    await close_write(stream)


async def slow(stream):
    await trio.sleep(await read_number(stream) / 1000)
    digest = hashlib.sha256()
    await read_to_end(stream, digest.update)
    await write(stream, digest.digest())
    await close_write(stream)


HANDLERS = {
    ABORT: abort,
    ECHO: echo,
    HALF_CLOSE: half_close,
    PERF: perf,
    REPORT: report,
    SINK: sink,
    SLOW: slow,
}
