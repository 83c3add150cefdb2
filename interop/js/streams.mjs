// Reading and writing js-libp2p's streams, which are event emitters, in order and with
// back-pressure.

export const BLOCK_BYTES = 64 * 1024

/**
 * Reads a stream; make it as soon as there is the stream, and only one.
 *
 * The stream's own iterator waits for ever if the peer's half has ended before the first read.
 */
export class Reader {
  #blocks = []
  #ended = false
  #error = null
  #changed = Promise.withResolvers()

  constructor (stream) {
    stream.addEventListener('message', event => {
      this.#blocks.push(event.data.subarray())
      this.#wake()
    })
    const end = event => {
      this.#ended = true
      this.#error ??= event?.error
      this.#wake()
    }
    stream.addEventListener('remoteCloseWrite', end)
    stream.addEventListener('close', end)
    if (stream.remoteWriteStatus === 'closed' && stream.readBufferLength === 0) {
      end()
    }
  }

  #wake () {
    this.#changed.resolve()
    this.#changed = Promise.withResolvers()
  }

  /** The next bytes, or null at the end. */
  async next () {
    while (this.#blocks.length === 0) {
      if (this.#error != null) {
        throw this.#error
      }
      if (this.#ended) {
        return null
      }
      await this.#changed.promise
    }
    return this.#blocks.shift()
  }

  async exactly (length) {
    let bytes = new Uint8Array(0)
    while (bytes.byteLength < length) {
      const more = await this.next()
      if (more == null) {
        throw new Error(`ended after ${bytes.byteLength} of ${length} bytes`)
      }
      bytes = Buffer.concat([bytes, more])
    }
    if (bytes.byteLength > length) {
      this.#blocks.unshift(bytes.subarray(length))
    }
    return bytes.subarray(0, length)
  }

  async number () {
    return Number(Buffer.from(await this.exactly(8)).readBigUInt64BE())
  }

  /** Reads until the end, waiting for `each`; returns how many bytes it was. */
  async toEnd (each = () => {}) {
    let length = 0
    for (let bytes = await this.next(); bytes != null; bytes = await this.next()) {
      await each(bytes)
      length += bytes.byteLength
    }
    return length
  }
}

export async function write (stream, bytes) {
  if (!stream.send(bytes)) {
    await drained(stream)
  }
}

/** Not the stream's own onDrain, whose promise stays resolved after the first time. */
function drained (stream) {
  return new Promise((resolve, reject) => {
    const end = event => {
      stream.removeEventListener('drain', end)
      stream.removeEventListener('close', end)
      event.type === 'drain' ? resolve() : reject(event.error ?? new Error('the stream is closed'))
    }
    stream.addEventListener('drain', end)
    stream.addEventListener('close', end)
  })
}

export async function writeNumber (stream, number) {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(number))
  await write(stream, bytes)
}

export async function writeZeros (stream, length) {
  for (let left = length; left > 0; left -= BLOCK_BYTES) {
    await write(stream, new Uint8Array(Math.min(left, BLOCK_BYTES)))
  }
}

/** Writes a little at a time until it fails, and returns how. */
export async function writeUntilError (stream) {
  try {
    for (;;) {
      await write(stream, new Uint8Array(1024))
      await sleep(5)
    }
  } catch (error) {
    return error
  }
}

export const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))
