// The js-libp2p peer of the interoperability matrix.

import { readFileSync } from 'node:fs'
import { quic } from '@chainsafe/libp2p-quic'
import { generateKeyPair, generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { watchEnds } from './closing.mjs'
import { operations } from './operations.mjs'
import { serve } from './protocols.mjs'

const USAGE = `peer listen MULTIADDR [--OPTION VALUE]…
peer dial MULTIADDR OPERATION [--OPTION VALUE]…`

const KEYS = { ecdsa: 'ECDSA', ed25519: 'Ed25519', rsa: 'RSA', secp256k1: 'secp256k1' }

/** Connections that one host may make in a second. Those who test are in a hurry. */
const MAX_CONNECTIONS_PER_SECOND = 1000

/** Streams of one protocol that a connection may have. A ping may overlap with the end of the one before. */
const MAX_STREAMS = 10_000

/** Connections that one host may begin in a second. */
const MAX_DIALS = 1000

function parse (args) {
  const options = { code: 42, count: 100, 'in-flight': Infinity, key: 'ed25519', parallel: 100, seconds: 5, seed: null, size: 1 << 20, timeout: 60 }
  const words = []
  for (let i = 0; i < args.length; i++) {
    if (!args[i].startsWith('--')) {
      words.push(args[i])
      continue
    }
    const name = args[i].slice(2)
    if (!(name in options)) {
      fail(3, `no option ${args[i]}`)
    }
    i++
    options[name] = name === 'key' ? args[i] : Number(args[i])
  }
  return { words, options }
}

async function createNode (options, listen) {
  if (!(options.key in KEYS)) {
    fail(3, `no key of type ${options.key}`)
  }
  const node = await createLibp2p({
    addresses: { listen },
    // A dialer on a fast machine connects more often than five times a second.
    connectionManager: { inboundConnectionThreshold: MAX_DIALS },
    connectionGater: { denyDialMultiaddr: () => false },
    connectionManager: { inboundConnectionThreshold: MAX_CONNECTIONS_PER_SECOND },
    privateKey: options.seed == null
      ? await generateKeyPair(KEYS[options.key])
      : await generateKeyPairFromSeed('Ed25519', Buffer.alloc(32, options.seed)),
    nodeInfo: { name: 'js-libp2p', version: version('libp2p') },
    services: { identify: identify(), ping: ping({ maxInboundStreams: MAX_STREAMS, maxOutboundStreams: MAX_STREAMS }) },
    transports: [quic()]
  })
  await serve(node, MAX_STREAMS, print)
  return node
}

function version (name) {
  return JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version
}

async function listen (address, options) {
  const node = await createNode(options, [address])
  node.addEventListener('connection:open', event => {
    const { remoteAddr, remotePeer } = event.detail
    print({ connected: remotePeer.toString(), from: remoteAddr.toString(), facts: null })
  })
  watchEnds(node, print)
  const bound = node.getMultiaddrs()[0]
  if (bound == null) {
    fail(1, 'no address')
  }
  print({ listen: bound.toString() })
  process.on('SIGTERM', () => process.exit(0))
  process.stdin.on('end', () => process.exit(0))
  process.stdin.resume()
}

async function dial (address, name, options) {
  setTimeout(() => fail(2, 'timed out'), options.timeout * 1000)
  const node = await createNode(options, [])
  if (name === 'wrong-peer') {
    const wrong = peerIdFromPrivateKey(await generateKeyPair('Ed25519'))
    const [withoutPeer] = address.split('/p2p/')
    const error = await node.dial(multiaddr(`${withoutPeer}/p2p/${wrong}`)).then(
      connection => fail(1, `connected to ${connection.remotePeer}`),
      error => error)
    print({ ok: true, error: String(error.message) })
    process.exit(0)
  }
  const operation = operations[name]
  if (operation == null) {
    fail(3, `no operation ${name}`)
  }
  const identified = new Promise(resolve => {
    node.addEventListener('peer:identify', event => resolve(event.detail))
  })
  let start = Date.now()
  const connection = await node.dial(multiaddr(address))
  const dialMs = Date.now() - start
  start = Date.now()
  const streamOptions = { maxOutboundStreams: MAX_STREAMS }
  const open = protocol => connection.newStream(protocol, streamOptions)
  const peerId = connection.remotePeer
  const remote = { connection, open, identified, print, peerId, node, streamOptions }
  const seen = await operation(remote, options)
  print({ ...seen, ok: true, dial_ms: dialMs, ms: Date.now() - start, facts: null })
  process.exit(0)
}

function print (line) {
  process.stdout.write(JSON.stringify(line) + '\n')
}

function fail (code, error) {
  print({ ok: false, error })
  process.exit(code)
}

// An error that nobody waits for any more must not end the peer, but is told.
process.on('unhandledRejection', error => console.error('unhandled:', error))

const { words, options } = parse(process.argv.slice(2))
try {
  if (words[0] === 'listen' && words.length === 2) {
    await listen(words[1], options)
  } else if (words[0] === 'dial' && words.length === 3) {
    await dial(words[1], words[2], options)
  } else {
    fail(1, USAGE)
  }
} catch (error) {
  fail(error.name === 'UnsupportedKeyTypeError' ? 3 : 1, `${error.name}: ${error.message}`)
}
