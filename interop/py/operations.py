"""What a dialer does. Each operation returns what it has seen, or raises why it failed."""

import hashlib
import json
import os
import time

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.ping import ID as PING
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo

import closing
from protocols import ABORT, ECHO, HALF_CLOSE, HALF_CLOSE_BYTES, PERF, REPORT, SLOW
from streams import (
    BLOCK_BYTES,
    close_write,
    read,
    read_exactly,
    read_to_end,
    reset as reset_stream,
    reset_code,
    write,
    write_number,
    write_until_error,
    write_zeros,
)

# Payload of each of many streams.
STREAM_BYTES = 1024


async def ping(host, peer_id, options):
    stream = await host.new_stream(peer_id, [PING])
    rtts = []
    for _ in range(options.count):
        sent = os.urandom(32)
        start = time.monotonic()
        await write(stream, sent)
        if await read_exactly(stream, 32) != sent:
            raise ValueError("the pong is not the ping")
        rtts.append(round((time.monotonic() - start) * 1e6))
    await close_write(stream)
    return {"count": options.count, "median_us": sorted(rtts)[len(rtts) // 2]}


async def identify(host, peer_id, options):
    stream = await host.new_stream(peer_id, [IDENTIFY])
    data = bytearray()
    await read_to_end(stream, data.extend)
    info = parse_identify_response(bytes(data))
    if ID.from_pubkey(deserialize_public_key(info.public_key)) != peer_id:
        raise ValueError("the public key is that of another peer")
    return {
        "agent_version": info.agent_version,
        "peer_id": str(peer_id),
        "protocols": list(info.protocols),
    }


async def echo(host, peer_id, options):
    digest = await echo_once(host, peer_id, options.size, options.in_flight)
    return {"bytes": options.size, "sha256": digest}


async def echo_once(host, peer_id, size, in_flight):
    stream = await host.new_stream(peer_id, [ECHO])
    sent_digest = hashlib.sha256()
    echoed_digest = hashlib.sha256()
    received = 0
    progress = trio.Event()

    async def send():
        block = bytearray(os.urandom(BLOCK_BYTES))
        sent = 0
        while sent < size:
            length = min(size - sent, BLOCK_BYTES, in_flight)
            while sent + length - received > in_flight:
                await progress.wait()
            block[:4] = (sent // BLOCK_BYTES).to_bytes(4, "big")
            data = bytes(block[:length])
            sent_digest.update(data)
            await write(stream, data)
            sent += length
        await close_write(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while data := await read(stream):
            echoed_digest.update(data)
            received += len(data)
            progress.set()
            progress = trio.Event()
    if received != size:
        raise ValueError(f"{received} bytes of {size} came back")
    if sent_digest.digest() != echoed_digest.digest():
        raise ValueError("what came back is not what was sent")
    return sent_digest.hexdigest()


async def perf(host, peer_id, options):
    upload = await perf_once(host, peer_id, options.size, 0)
    download = await perf_once(host, peer_id, 0, options.size)
    mib = options.size / (1 << 20)
    return {
        "bytes": options.size,
        "upload_mib_s": int(mib / upload),
        "download_mib_s": int(mib / download),
    }


async def perf_once(host, peer_id, upload, download):
    stream = await host.new_stream(peer_id, [PERF])
    start = time.monotonic()
    await write_number(stream, download)
    await write_zeros(stream, upload)
    await close_write(stream)
    received = await read_to_end(stream)
    if received != download:
        raise ValueError(f"{received} bytes of {download}")
    return time.monotonic() - start


async def streams(host, peer_id, options):
    left = options.count

    async def work():
        nonlocal left
        while left > 0:
            left -= 1
            await echo_once(host, peer_id, STREAM_BYTES, STREAM_BYTES)

    async with trio.open_nursery() as nursery:
        for _ in range(options.parallel):
            nursery.start_soon(work)
    return {"count": options.count, "parallel": options.parallel}


async def half_close(host, peer_id, options):
    # First by us: the peer answers when our half has ended.
    await perf_once(host, peer_id, BLOCK_BYTES, BLOCK_BYTES)
    # Then by the peer: our half still carries data when its has ended.
    stream = await host.new_stream(peer_id, [HALF_CLOSE])
    received = await read_to_end(stream)
    if received != HALF_CLOSE_BYTES:
        raise ValueError(f"{received} bytes before the peer's half ended")
    await write_zeros(stream, HALF_CLOSE_BYTES)
    await close_write(stream)
    seen = await report(host, peer_id)
    if seen is None or seen.get("received") != HALF_CLOSE_BYTES:
        raise ValueError(f"the peer has received {seen}")
    return {}


async def reset(host, peer_id, options):
    stream = await request(host, peer_id, b"R", options.code)
    answer = bytearray()
    try:
        await read_to_end(stream, answer.extend)
        if answer != b"U":
            raise ValueError("the peer's half ended, and was not reset")
        seen = "unsupported"
    except ValueError:
        raise
    except Exception:
        seen = reset_code(stream)
    stream = await request(host, peer_id, b"r", options.code)
    await read_exactly(stream, 1)
    await reset_stream(stream, options.code)
    report_ = await report(host, peer_id)
    if report_ is None or "error" not in report_:
        raise ValueError(f"the peer has seen {report_} instead of a reset")
    return {"seen": seen, "peer_saw": report_["code"]}


async def stop(host, peer_id, options):
    stream = await request(host, peer_id, b"S", options.code)
    try:
        answer = await read_exactly(stream, 1)
    except Exception:
        answer = b""
    seen = "unsupported"
    if answer != b"U":
        await write_until_error(stream)
        # The code is not kept.
        seen = None
    return {"seen": seen, "peer_saw": "unsupported"}


async def killed(host, peer_id, options):
    stream = await host.new_stream(peer_id, [ECHO])
    start = time.monotonic()
    seen = {}

    async def send():
        try:
            await write_zeros(stream, 1 << 62)
        except Exception as error:
            seen["write_error"] = repr(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        try:
            announced = False
            while await read(stream):
                if not announced:
                    print(json.dumps({"transferring": True}), flush=True)
                    announced = True
            seen["read_error"] = "end of the stream"
        except Exception as error:
            seen["read_error"] = repr(error)
    return {"after_ms": round((time.monotonic() - start) * 1000), **seen}


async def idle(host, peer_id, options):
    await trio.sleep(options.seconds)
    await echo_once(host, peer_id, STREAM_BYTES, STREAM_BYTES)
    return {"seconds": options.seconds}


async def slow_reader(host, peer_id, options):
    stream = await host.new_stream(peer_id, [SLOW])
    await write_number(stream, options.seconds * 1000)
    digest = hashlib.sha256()
    sent = 0
    unread = None

    async def send():
        nonlocal sent
        block = bytearray(os.urandom(BLOCK_BYTES))
        while sent < options.size:
            length = min(BLOCK_BYTES, options.size - sent)
            block[:4] = (sent // BLOCK_BYTES).to_bytes(4, "big")
            data = bytes(block[:length])
            digest.update(data)
            await write(stream, data)
            sent += length
        await close_write(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        # Long enough for the sender to have filled all that it can, and not so long that the peer
        # reads.
        await trio.sleep(options.seconds * 0.8)
        unread = sent
    answer = bytearray()
    await read_to_end(stream, answer.extend)
    if answer != digest.digest():
        raise ValueError("the hash of what the peer has read is wrong")
    if unread >= options.size:
        raise ValueError("the sender was not blocked")
    return {"bytes": options.size, "unread_bytes": unread}


async def request(host, peer_id, letter, code):
    stream = await host.new_stream(peer_id, [ABORT])
    await write(stream, letter + code.to_bytes(8, "big"))
    return stream


async def report(host, peer_id):
    """What the peer has seen; it may take a moment to."""
    for _ in range(30):
        stream = await host.new_stream(peer_id, [REPORT])
        text = bytearray()
        await read_to_end(stream, text.extend)
        await close_write(stream)
        seen = json.loads(bytes(text))
        if seen is not None:
            return seen
        await trio.sleep(0.1)
    return None


async def wrong_peer(host, info):
    wrong = ID.from_pubkey(create_new_key_pair().public_key)
    try:
        await host.connect(PeerInfo(wrong, info.addrs))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    raise ValueError("connected")


async def close_fetches(host, peer_id, options):
    return await closing.close_fetches(host, target(host, peer_id), options)


async def close_hears(host, peer_id, options):
    return await closing.close_hears(host, target(host, peer_id), options, ECHO)


async def close_mid_upload(host, peer_id, options):
    return await closing.close_mid_upload(host, target(host, peer_id), options, PERF)


async def close_redial(host, peer_id, options):
    return await closing.close_redial(host, target(host, peer_id), options)


def target(host, peer_id):
    """Where the peer was dialled."""
    return PeerInfo(peer_id, host.get_peerstore().addrs(peer_id))


OPERATIONS = {
    "close-fetches": close_fetches,
    "close-hears": close_hears,
    "close-mid-upload": close_mid_upload,
    "close-redial": close_redial,
    "echo": echo,
    "half-close": half_close,
    "identify": identify,
    "idle": idle,
    "killed": killed,
    "perf": perf,
    "ping": ping,
    "reset": reset,
    "slow-reader": slow_reader,
    "stop": stop,
    "streams": streams,
}
