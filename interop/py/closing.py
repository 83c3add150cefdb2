"""How connections end: what a listener closes and sees, and what a dialer does and sees."""

import json
import time

import trio
from libp2p.abc import INotifee
from libp2p.custom_types import TProtocol
from libp2p.host.ping import ID as PING

from streams import (
    BLOCK_BYTES,
    close_write,
    read_exactly,
    read_number,
    read_to_end,
    write,
    write_zeros,
)

CLOSE = TProtocol("/interop/close/1.0.0")
SINK = TProtocol("/interop/sink/1.0.0")

# How many connections are made one after the other.
CONNECTIONS = 10

# Seconds for which an upload goes on that the end of the connection then cuts off.
UPLOAD = 0.5


class Ends(INotifee):
    """Tells `heard` of every connection that the peer has ended, and `opened` of every new one."""

    def __init__(self, host, heard, opened=lambda line: None):
        self._host = host
        self._heard = heard
        self._opened = opened
        # Those that were closed here.
        self._closed = set()
        host.get_network().register_notifee(self)

    async def close(self, quic):
        """Closes a connection, always with code 0. Returns what the peer should hear."""
        closing = {"closing": str(quic.peer_id), "code": 0, "at_ms": now_ms()}
        for conn in self._host.get_network().get_connections(quic.peer_id):
            if conn.muxed_conn is quic:
                self._closed.add(quic)
                # In a task of its own, because that of a stream's handler ends with the connection.
                trio.lowlevel.spawn_system_task(conn.close)
        return closing

    async def connected(self, network, conn):
        host, port = conn.muxed_conn.get_remote_address()[:2]
        self._opened(
            {
                "connected": str(conn.muxed_conn.peer_id),
                "from": f"{host}:{port}",
                "facts": None,
            }
        )
        trio.lowlevel.spawn_system_task(self.wait_for_end, conn.muxed_conn)

    async def wait_for_end(self, quic):
        """Waits for what py-libp2p does not show itself.

        A dialer is mostly not told that the peer has closed: the task that would tell it cancels
        itself before it does.
        """
        await quic._closed_event.wait()
        at_ms = now_ms()
        if quic in self._closed:
            self._closed.remove(quic)
            return
        # An application's CONNECTION_CLOSE names no frame.
        end = quic._quic._close_event
        is_ordinary = end is not None and end.frame_type is None
        self._heard(
            {
                "disconnected": str(quic.peer_id),
                "code": end.error_code if is_ordinary else None,
                "error": repr(end),
                "at_ms": at_ms,
            }
        )

    async def disconnected(self, network, conn):
        pass

    async def opened_stream(self, network, stream):
        pass

    async def closed_stream(self, network, stream):
        pass

    async def listen(self, network, multiaddr):
        pass

    async def listen_close(self, network, multiaddr):
        pass


def serve_close(ends):
    """Sends as much as it is asked to, and closes the connection; it cannot do that with a code."""

    async def close(stream):
        await read_number(stream)
        size = await read_number(stream)
        if size > 0:
            await write_zeros(stream, size)
            await close_write(stream)
        say(await ends.close(stream.muxed_conn))

    return close


async def sink(stream):
    """Prints what has come when nothing more does."""
    received = 0
    failure = None

    def count(data):
        nonlocal received
        received += len(data)

    try:
        await read_to_end(stream, count)
    except Exception as error:
        failure = repr(error)
    say({"sunk": str(stream.muxed_conn.peer_id), "bytes": received, "error": failure})


class Closer:
    """A dialer that makes one connection after the other."""

    def __init__(self, host, info):
        self._host = host
        self._info = info
        self._send, self._ended = trio.open_memory_channel(CONNECTIONS)
        self._ends = Ends(host, self._send.send_nowait)
        for conn in host.get_network().get_connections(info.peer_id):
            trio.lowlevel.spawn_system_task(self._ends.wait_for_end, conn.muxed_conn)
        self.seen = {"closed": [], "heard": [], "peer_id": str(host.get_id())}

    async def open(self, protocol):
        return await self._host.new_stream(self._info.peer_id, [protocol])

    async def exchange(self, protocol):
        """Sends something and has it echoed, and leaves the stream open."""
        stream = await self.open(protocol)
        sent = bytes(32)
        await write(stream, sent)
        if await read_exactly(stream, len(sent)) != sent:
            raise ValueError("what came back is not what was sent")

    async def close(self):
        [conn] = self._host.get_network().get_connections(self._info.peer_id)
        self.seen["closed"].append(await self._ends.close(conn.muxed_conn))

    async def let_peer_close(self, code):
        await self.ask(code, 0)
        self.seen["heard"].append(await self._ended.receive())

    async def ask(self, code, size):
        """Makes the peer send `size` bytes, and then close the connection, with this code or 0."""
        stream = await self.open(CLOSE)
        await write(stream, code.to_bytes(8, "big") + size.to_bytes(8, "big"))
        return stream

    async def redial(self):
        # What is closing still counts as a connection, with which there is nothing to dial.
        while self._host.get_network().get_connections(self._info.peer_id):
            await trio.sleep(0.01)
        await self._host.connect(self._info)


async def close_hears(host, info, options, echo):
    closer = Closer(host, info)
    for code in [0, options.code]:
        await closer.exchange(echo)
        await closer.close()
        await closer.redial()
        await closer.exchange(echo)
        await closer.let_peer_close(code)
        await closer.redial()
    return closer.seen


async def close_mid_upload(host, info, options, perf):
    closer = Closer(host, info)
    stream = await closer.open(perf)
    await write(stream, bytes(8 + BLOCK_BYTES))
    say({"transferring": True})
    with trio.move_on_after(UPLOAD):
        await write_zeros(stream, 1 << 62)
    await closer.close()
    # The goodbye leaves in a task of its own.
    await trio.sleep(1)
    return closer.seen


async def close_redial(host, info, options):
    closer = Closer(host, info)
    for turn in range(CONNECTIONS):
        if turn > 0:
            await closer.redial()
        await closer.exchange(PING)
        if turn % 2 == 0:
            await closer.close()
        else:
            await closer.let_peer_close(0)
    return closer.seen


async def close_fetches(host, info, options):
    closer = Closer(host, info)
    stream = await closer.ask(0, options.size)
    received = bytearray()
    try:
        await read_to_end(stream, received.extend)
    except Exception as error:
        raise ValueError(f"{len(received)} bytes of {options.size}, and then: {error!r}") from error
    if len(received) != options.size:
        raise ValueError(f"the end after {len(received)} bytes of {options.size}")
    return {"bytes": len(received)}


def now_ms():
    """Milliseconds since 1970, which all peers on this machine count alike."""
    return time.time_ns() // 1_000_000


def say(line):
    print(json.dumps(line), flush=True)
