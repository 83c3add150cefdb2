"""The py-libp2p peer of the interoperability matrix."""

import argparse
import logging
import os
import signal
import sys
from importlib.metadata import version

import trio
from libp2p import new_host
from libp2p.crypto import ed25519, rsa, secp256k1
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.transport.quic.config import QUICTransportConfig
from multiaddr import Multiaddr

from closing import Ends, say
from operations import OPERATIONS, wrong_peer
from protocols import serve

# Its ECDSA keys cannot sign (NotImplementedError in crypto/ecc.py).
KEYS = {
    "ed25519": ed25519.create_new_key_pair,
    "rsa": rsa.create_new_key_pair,
    "secp256k1": secp256k1.create_new_key_pair,
}


def parse():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("command", choices=["listen", "dial"])
    parser.add_argument("address")
    parser.add_argument("operation", nargs="?")
    parser.add_argument("--code", type=int, default=42)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--in-flight", type=int, default=1 << 62)
    parser.add_argument("--key", default="ed25519")
    parser.add_argument("--parallel", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--size", type=int, default=1 << 20)
    parser.add_argument("--timeout", type=int, default=60)
    return parser.parse_intermixed_args()


def create_host(options, addresses=()):
    if options.key not in KEYS:
        fail(3, f"no key of type {options.key}")
    # What is unread beyond this is dropped without a word, so no stream may get there.
    config = QUICTransportConfig(MAX_STREAM_RECEIVE_BUFFER=1 << 30)
    key_pair = KEYS[options.key]()
    if options.seed is not None:
        key_pair = ed25519.create_new_key_pair(bytes([options.seed] * 32))
    return new_host(
        key_pair=key_pair,
        listen_addrs=list(addresses) or None,
        enable_quic=True,
        quic_transport_opt=config,
    )


async def listen(options):
    address = Multiaddr(options.address)
    host = create_host(options, [address])
    async with host.run(listen_addrs=[address]):
        serve(host, Ends(host, heard=say, opened=say))
        bound = str(host.get_addrs()[0])
        if "/p2p/" not in bound:
            bound += f"/p2p/{host.get_id()}"
        say({"listen": bound, "version": version("libp2p")})
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end_of_input, scope)
                nursery.start_soon(terminated, scope)
    # Its tasks may take long to end, and nobody needs them to.
    leave(0)


async def end_of_input(scope):
    while await trio.to_thread.run_sync(os.read, 0, 64, abandon_on_cancel=True):
        pass
    scope.cancel()


async def terminated(scope):
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


async def dial(options):
    host = create_host(options)
    async with host.run(listen_addrs=[]):
        serve(host, Ends(host, heard=lambda line: None))
        info = info_from_p2p_addr(Multiaddr(options.address))
        with trio.move_on_after(options.timeout):
            try:
                if options.operation == "wrong-peer":
                    seen = await wrong_peer(host, info)
                elif options.operation in OPERATIONS:
                    start = trio.current_time()
                    await host.connect(info)
                    connected = trio.current_time()
                    seen = await OPERATIONS[options.operation](host, info.peer_id, options)
                    seen["dial_ms"] = round((connected - start) * 1000)
                    seen["ms"] = round((trio.current_time() - connected) * 1000)
                else:
                    fail(3, f"no operation {options.operation}")
            except Exception as error:
                fail(1, f"{type(error).__name__}: {error}")
            say({"ok": True, "facts": None, **seen})
            leave(0)
        fail(2, "timed out")


def fail(code, error):
    say({"ok": False, "error": error})
    leave(code)


def leave(code):
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    options = parse()
    trio.run(listen if options.command == "listen" else dial, options)
