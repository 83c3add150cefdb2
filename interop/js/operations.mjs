// What a dialer does. Each operation returns what it has seen, or throws why it failed.

import { createHash, randomBytes } from 'node:crypto'
import { operations as closing } from './closing.mjs'
import { ABORT, ECHO, HALF_CLOSE, PERF, REPORT, SLOW } from './names.mjs'
import { HALF_CLOSE_BYTES } from './protocols.mjs'
import { BLOCK_BYTES, Reader, sleep, write, writeNumber, writeUntilError, writeZeros } from './streams.mjs'

/** Payload of each of many streams. */
const STREAM_BYTES = 1024

export const operations = {
  ...closing,

  async echo ({ open }, { size, 'in-flight': inFlight }) {
    return { bytes: size, sha256: await echo(open, size, inFlight) }
  },

  async 'half-close' ({ open }) {
    // First by us: the peer answers when our half has ended.
    await perf(open, BLOCK_BYTES, BLOCK_BYTES)
    // Then by the peer: our half still carries data when its has ended.
    const stream = await open(HALF_CLOSE)
    const received = await new Reader(stream).toEnd()
    if (received !== HALF_CLOSE_BYTES) {
      throw new Error(`${received} bytes before the peer's half ended`)
    }
    await writeZeros(stream, HALF_CLOSE_BYTES)
    await stream.close()
    const seen = await report(open)
    if (seen?.received !== HALF_CLOSE_BYTES) {
      throw new Error(`the peer has received ${JSON.stringify(seen)}`)
    }
    return {}
  },

  async identify ({ identified, peerId }) {
    const info = await identified
    if (!info.peerId.equals(peerId)) {
      throw new Error('identified as another peer')
    }
    return { agent_version: info.agentVersion, protocols: info.protocols, peer_id: info.peerId.toString() }
  },

  async idle ({ open }, { seconds }) {
    await sleep(seconds * 1000)
    await echo(open, STREAM_BYTES, STREAM_BYTES)
    return { seconds }
  },

  async killed ({ open, print }) {
    const stream = await open(ECHO)
    const start = Date.now()
    let writeError = null
    const reader = new Reader(stream)
    const writing = writeZeros(stream, Number.MAX_SAFE_INTEGER).catch(error => { writeError = error })
    let announced = false
    const readError = await reader.toEnd(() => {
      if (!announced) {
        print({ transferring: true })
        announced = true
      }
    }).then(() => 'end of the stream', String)
    await writing
    return { after_ms: Date.now() - start, read_error: readError, write_error: String(writeError) }
  },

  async perf ({ open }, { size }) {
    const upload = await perf(open, size, 0)
    const download = await perf(open, 0, size)
    const rate = ms => Math.floor(size / (1 << 20) / (ms / 1000))
    return { bytes: size, upload_mib_s: rate(upload), download_mib_s: rate(download) }
  },

  async ping ({ node, peerId }, { count }) {
    const rtts = []
    for (let i = 0; i < count; i++) {
      const start = performance.now()
      await node.services.ping.ping(peerId)
      rtts.push(Math.round((performance.now() - start) * 1000))
    }
    rtts.sort((a, b) => a - b)
    return { count, median_us: rtts[count >> 1] }
  },

  async reset ({ open }, { code }) {
    const { reader } = await request(open, 'R', code)
    const answer = []
    const error = await reader.toEnd(bytes => answer.push(...bytes)).then(() => null, error => error)
    if (error == null && answer[0] !== 'U'.charCodeAt(0)) {
      throw new Error('the peer\'s half ended, and was not reset')
    }
    return { seen: error == null ? 'unsupported' : null, peer_saw: await watch(open, 'r', code) }
  },

  async 'slow-reader' ({ open }, { size, seconds }) {
    const stream = await open(SLOW)
    const reader = new Reader(stream)
    await writeNumber(stream, seconds * 1000)
    let sent = 0
    let unread = null
    // Long enough for the sender to have filled all that it can, not so long that the peer reads.
    setTimeout(() => { unread = sent }, seconds * 800)
    const hash = createHash('sha256')
    const block = randomBytes(BLOCK_BYTES)
    while (sent < size) {
      const bytes = Buffer.from(block.subarray(0, Math.min(BLOCK_BYTES, size - sent)))
      bytes.writeUInt32BE(sent / BLOCK_BYTES)
      hash.update(bytes)
      await write(stream, bytes)
      sent += bytes.byteLength
    }
    await stream.close()
    const answer = await reader.exactly(32)
    if (!hash.digest().equals(Buffer.from(answer))) {
      throw new Error('the hash of what the peer has read is wrong')
    }
    if (unread == null || unread >= size) {
      throw new Error('the sender was not blocked')
    }
    return { bytes: size, unread_bytes: unread }
  },

  async stop ({ open }, { code }) {
    const { reader, stream } = await request(open, 'S', code)
    const answer = await reader.next().catch(() => null)
    let seen = 'unsupported'
    if (answer?.[0] !== 'U'.charCodeAt(0)) {
      await writeUntilError(stream)
      seen = null
    }
    return { seen, peer_saw: await watch(open, 's', code) }
  },

  async streams ({ open }, { count, parallel }) {
    let left = count
    await Promise.all(Array.from({ length: parallel }, async () => {
      while (left > 0) {
        left--
        await echo(open, STREAM_BYTES, STREAM_BYTES)
      }
    }))
    return { count, parallel }
  }
}

async function echo (open, size, inFlight) {
  const stream = await open(ECHO)
  const sent = createHash('sha256')
  const echoed = createHash('sha256')
  const reader = new Reader(stream)
  let received = 0
  let progress = Promise.withResolvers()
  const writing = (async () => {
    const block = randomBytes(BLOCK_BYTES)
    for (let total = 0; total < size;) {
      const length = Math.min(size - total, BLOCK_BYTES, inFlight)
      while (total + length - received > inFlight) {
        await progress.promise
      }
      const bytes = Buffer.from(block.subarray(0, length))
      bytes.writeUInt32BE(total / BLOCK_BYTES)
      sent.update(bytes)
      await write(stream, bytes)
      total += length
    }
    await stream.close()
  })()
  const reading = reader.toEnd(bytes => {
    echoed.update(bytes)
    received += bytes.byteLength
    progress.resolve()
    progress = Promise.withResolvers()
  })
  await Promise.all([writing, reading])
  if (received !== size) {
    throw new Error(`${received} bytes of ${size} came back`)
  }
  const hash = sent.digest('hex')
  if (hash !== echoed.digest('hex')) {
    throw new Error('what came back is not what was sent')
  }
  return hash
}

async function perf (open, upload, download) {
  const stream = await open(PERF)
  const start = Date.now()
  const reading = new Reader(stream).toEnd()
  await writeNumber(stream, download)
  await writeZeros(stream, upload)
  await stream.close()
  const received = await reading
  if (received !== download) {
    throw new Error(`${received} bytes of ${download}`)
  }
  return Date.now() - start
}

async function request (open, letter, code) {
  const stream = await open(ABORT)
  const reader = new Reader(stream)
  const bytes = Buffer.alloc(9)
  bytes.write(letter)
  bytes.writeBigUInt64BE(BigInt(code), 1)
  await write(stream, bytes)
  return { reader, stream }
}

/** Ends both halves, and returns the code that the peer has seen. */
async function watch (open, letter, code) {
  const { reader, stream } = await request(open, letter, code)
  await reader.exactly(1)
  stream.abort(new Error('as planned'))
  const seen = await report(open)
  if (seen?.error == null) {
    throw new Error(`the peer has seen ${JSON.stringify(seen)} instead of an error`)
  }
  return seen.code
}

/** What the peer has seen; it may take a moment to. */
async function report (open) {
  for (let i = 0; i < 30; i++) {
    const stream = await open(REPORT)
    const reading = (async () => {
      const text = []
      await new Reader(stream).toEnd(bytes => text.push(Buffer.from(bytes)))
      return JSON.parse(Buffer.concat(text).toString())
    })()
    await stream.close()
    const seen = await reading
    if (seen != null) {
      return seen
    }
    await sleep(100)
  }
  return null
}
