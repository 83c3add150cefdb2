// How connections end: what a listener closes and sees, and what a dialer does and sees.

import { CLOSE, ECHO, PERF, PING, SINK } from './names.mjs'
import { BLOCK_BYTES, Reader, sleep, write, writeZeros } from './streams.mjs'

/** How many connections are made one after the other. */
const CONNECTIONS = 10

/** Milliseconds for which an upload goes on that the end of the connection then cuts off. */
const UPLOAD = 500

/** The connections that were closed here. */
const closed = new WeakSet()

/** Tells `heard` of every connection that the other side has ended. */
export function watchEnds (node, heard) {
  node.addEventListener('connection:close', ({ detail: connection }) => {
    if (!closed.has(connection)) {
      // Neither the code nor the reason gets here.
      const disconnected = connection.remotePeer.toString()
      heard({ disconnected, code: null, error: null, at_ms: Date.now() })
    }
  })
}

/** Closes at once, always with code 0. Returns what the peer should hear. */
function closeConnection (connection) {
  closed.add(connection)
  const closing = { closing: connection.remotePeer.toString(), code: 0, at_ms: Date.now() }
  // Its `close` would first wait for all the streams, the peer's half included.
  connection.abort(new Error('as planned'))
  return closing
}

/** Serves those that want this side to close, and those that close themselves. */
export function handlers (print) {
  return {
    /** Sends as much as it is asked to, and closes the connection. */
    [CLOSE]: async (stream, connection) => {
      const reader = new Reader(stream)
      await reader.number()
      const size = await reader.number()
      if (size > 0) {
        await writeZeros(stream, size)
        await stream.close()
      }
      print(closeConnection(connection))
    },

    /** Prints what has come when nothing more does. */
    [SINK]: async (stream, connection) => {
      let received = 0
      const count = bytes => { received += bytes.byteLength }
      const error = await new Reader(stream).toEnd(count).then(() => null, String)
      print({ sunk: connection.remotePeer.toString(), bytes: received, error })
    }
  }
}

/** A dialer that makes one connection after the other. */
class Closer {
  #connection
  #node
  #options
  #heard = Promise.withResolvers()
  seen

  constructor ({ connection, node, streamOptions }) {
    this.#connection = connection
    this.#node = node
    this.#options = streamOptions
    this.seen = { closed: [], heard: [], peer_id: node.peerId.toString() }
    watchEnds(node, ended => this.#heard.resolve(ended))
  }

  open (protocol) {
    return this.#connection.newStream(protocol, this.#options)
  }

  async redial () {
    this.#connection = await this.#node.dial(this.#connection.remoteAddr)
  }

  /** Sends something and has it echoed, and leaves the stream open. */
  async exchange (protocol) {
    const stream = await this.open(protocol)
    const reader = new Reader(stream)
    const sent = Buffer.alloc(32, 7)
    await write(stream, sent)
    if (!sent.equals(Buffer.from(await reader.exactly(sent.byteLength)))) {
      throw new Error('what came back is not what was sent')
    }
  }

  close () {
    this.seen.closed.push(closeConnection(this.#connection))
  }

  async letPeerClose (code) {
    await this.ask(code, 0)
    this.seen.heard.push(await this.#heard.promise)
    this.#heard = Promise.withResolvers()
  }

  /** Makes the peer send so many bytes, and then close the connection with this code, or with 0. */
  async ask (code, size) {
    const stream = await this.open(CLOSE)
    const reader = new Reader(stream)
    const header = Buffer.alloc(16)
    header.writeBigUInt64BE(BigInt(code))
    header.writeBigUInt64BE(BigInt(size), 8)
    // Not waited for: the connection may be gone before the stream says that it was sent.
    stream.send(header)
    return reader
  }
}

export const operations = {
  async 'close-fetches' (remote, { size }) {
    const closer = new Closer(remote)
    const reader = await closer.ask(0, size)
    let received = 0
    try {
      await reader.toEnd(bytes => { received += bytes.byteLength })
    } catch (error) {
      throw new Error(`${received} bytes of ${size}, and then: ${error}`)
    }
    if (received !== size) {
      throw new Error(`the end after ${received} bytes of ${size}`)
    }
    return { bytes: received }
  },

  async 'close-hears' (remote, { code }) {
    const closer = new Closer(remote)
    for (const each of [0, code]) {
      await closer.exchange(ECHO)
      closer.close()
      await closer.redial()
      await closer.exchange(ECHO)
      await closer.letPeerClose(each)
      await closer.redial()
    }
    return closer.seen
  },

  async 'close-mid-upload' (remote) {
    const closer = new Closer(remote)
    const stream = await closer.open(PERF)
    await write(stream, new Uint8Array(8 + BLOCK_BYTES))
    remote.print({ transferring: true })
    writeZeros(stream, Number.MAX_SAFE_INTEGER).catch(() => {})
    await sleep(UPLOAD)
    closer.close()
    // The goodbye leaves on a thread of its own.
    await sleep(1000)
    return closer.seen
  },

  async 'close-redial' (remote) {
    const closer = new Closer(remote)
    for (let turn = 0; turn < CONNECTIONS; turn++) {
      if (turn > 0) {
        await closer.redial()
      }
      await closer.exchange(PING)
      if (turn % 2 === 0) {
        closer.close()
      } else {
        await closer.letPeerClose(0)
      }
    }
    return closer.seen
  }
}
