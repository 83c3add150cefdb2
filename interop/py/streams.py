"""Reading and writing py-libp2p's QUIC streams."""

import trio
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from libp2p.transport.quic.exceptions import QUICStreamClosedError

BLOCK_BYTES = 64 * 1024

# Seconds in which what came in one packet is in its buffer.
ARRIVAL = 0.1


async def read(stream):
    """The next bytes, or none at the end.

    Goes to the QUIC stream itself: the stream around it reports the end of the peer's half as a reset once our
    own half is closed, and both may report an end with bytes still in the buffer, or about to come there when the
    peer has stopped our half.
    """
    quic = stream.muxed_stream
    waited = False
    while True:
        try:
            data = await quic.read(BLOCK_BYTES)
        except (MuxedStreamEOF, StreamEOF, QUICStreamClosedError):
            if quic._receive_buffer:
                continue
            if quic.is_reset():
                raise
            if waited or quic._read_closed:
                return b""
            await trio.sleep(ARRIVAL)
            waited = True
            continue
        if data:
            return data


async def read_exactly(stream, length):
    data = b""
    while len(data) < length:
        more = await stream.muxed_stream.read(length - len(data))
        if not more:
            raise EOFError(f"ended after {len(data)} of {length} bytes")
        data += more
    return data


async def read_number(stream):
    return int.from_bytes(await read_exactly(stream, 8), "big")


async def read_to_end(stream, each=lambda data: None):
    """Reads until the end; returns how many bytes it was."""
    length = 0
    while data := await read(stream):
        each(data)
        length += len(data)
    return length


async def write(stream, data):
    await stream.muxed_stream.write(data)


async def write_number(stream, number):
    await write(stream, number.to_bytes(8, "big"))


async def write_zeros(stream, length):
    while length > 0:
        await write(stream, bytes(min(length, BLOCK_BYTES)))
        length -= BLOCK_BYTES


async def write_until_error(stream):
    """Writes a little at a time until it fails, and returns how."""
    while True:
        try:
            await write(stream, bytes(1024))
        except Exception as error:
            return error
        await trio.sleep(0.005)


async def close_write(stream):
    await stream.muxed_stream.close_write()


async def reset(stream, code):
    """Resets our half; to stop the peer's is not possible."""
    await stream.muxed_stream.reset(code)


def reset_code(stream):
    """The code of the peer's RESET_STREAM. That of its STOP_SENDING is not kept."""
    return stream.muxed_stream._reset_error_code if stream.muxed_stream.is_reset() else None
