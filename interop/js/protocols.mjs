// What every peer serves; the README says what each protocol is. Ping and identify are js-libp2p's
// own.

import { createHash } from 'node:crypto'
import { handlers as closing } from './closing.mjs'
import { ABORT, ECHO, HALF_CLOSE, PERF, REPORT, SLOW } from './names.mjs'
import { Reader, sleep, write, writeUntilError, writeZeros } from './streams.mjs'

export const HALF_CLOSE_BYTES = 64 * 1024

/** What the last stream that had something to remember has seen. */
let remembered = null

export async function serve (node, maxStreams, print) {
  for (const [protocol, handle] of Object.entries({ ...handlers, ...closing(print) })) {
    await node.handle(protocol, async (stream, connection) => {
      try {
        await handle(stream, connection)
      } catch (error) {
        console.error(protocol, error)
        stream.abort(error)
      }
    }, { maxInboundStreams: maxStreams, maxOutboundStreams: maxStreams })
  }
}

const handlers = {
  [ABORT]: async stream => {
    const reader = new Reader(stream)
    const request = String.fromCharCode((await reader.exactly(1))[0])
    await reader.exactly(8)
    switch (request) {
      case 'R':
      case 'S':
        // Ends both halves, always with code 0.
        stream.abort(new Error('as asked'))
        break
      case 'r':
        remembered = null
        await write(stream, Buffer.from('K'))
        remembered = await reader.toEnd().then(() => ({ eof: true }), error => ({ code: null, error: String(error) }))
        break
      case 's':
        remembered = null
        await write(stream, Buffer.from('K'))
        remembered = { code: null, error: String(await writeUntilError(stream)) }
        break
      default:
        throw new Error('unknown request')
    }
  },
  [ECHO]: async stream => {
    await new Reader(stream).toEnd(bytes => write(stream, bytes))
    await stream.close()
  },
  [HALF_CLOSE]: async stream => {
    remembered = null
    const reader = new Reader(stream)
    await writeZeros(stream, HALF_CLOSE_BYTES)
    await stream.close()
    remembered = { received: await reader.toEnd() }
  },
  [PERF]: async stream => {
    const reader = new Reader(stream)
    const download = await reader.number()
    await reader.toEnd()
    await writeZeros(stream, download)
    await stream.close()
  },
  [REPORT]: async stream => {
    await write(stream, Buffer.from(JSON.stringify(remembered)))
    await stream.close()
  },
  [SLOW]: async stream => {
    const reader = new Reader(stream)
    const delay = await reader.number()
    stream.pause()
    await sleep(delay)
    stream.resume()
    const hash = createHash('sha256')
    await reader.toEnd(bytes => hash.update(bytes))
    await write(stream, hash.digest())
    await stream.close()
  }
}
