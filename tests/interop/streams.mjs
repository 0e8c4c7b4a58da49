// The test protocols, both sides; the Python half is streams_kit.py and says what each does.

import { createHash } from 'node:crypto'
import { tell, describe } from './lines.mjs'

export const ECHO = '/test/echo/1.0.0'
export const SINK = '/test/sink/1.0.0'
export const SOURCE = '/test/source/1.0.0'
export const HOLD = '/test/hold/1.0.0'
export const RESET = '/test/reset/1.0.0'

const PIECE = 65_537 // prime: pieces never line up with frames
const BLOCK = Uint8Array.from({ length: PIECE }, (_, i) => (i * i + (i >> 7)) & 255)

// Bytes [from, from + size) of the endless test pattern.
function * pattern (size) {
  for (let left = size; left > 0; left -= PIECE) {
    yield left >= PIECE ? BLOCK : BLOCK.subarray(0, left)
  }
}

async function sendAll (stream, data) {
  if (!stream.send(data)) {
    await stream.onDrain()
  }
}

async function sendPattern (stream, size) {
  for (const piece of pattern(size)) {
    await sendAll(stream, piece)
  }
}

// Reads to the end of the stream; the count and the SHA-256 of what came.
async function digest (stream) {
  const hash = createHash('sha256')
  let count = 0
  for await (const piece of stream) {
    for (const part of piece instanceof Uint8Array ? [piece] : piece) {
      hash.update(part)
      count += part.byteLength
    }
  }
  return { count, sha256: hash.digest('hex') }
}

export async function readAll (stream) {
  const parts = []
  for await (const piece of stream) {
    parts.push(piece.subarray())
  }
  return Buffer.concat(parts)
}

const held = []

export function serveStreams (node) {
  const handlers = {
    [ECHO]: async stream => {
      for await (const piece of stream) {
        await sendAll(stream, piece.subarray())
      }
      await stream.close()
    },
    [SINK]: async stream => {
      const found = await digest(stream)
      stream.send(Buffer.from(JSON.stringify(found)))
      await stream.close()
    },
    [SOURCE]: async stream => {
      const asked = await readAll(stream)
      await sendPattern(stream, Number(asked.toString()))
      await stream.close()
    },
    [HOLD]: async stream => {
      stream.pause()
      held.push(stream)
    },
    [RESET]: async stream => {
      stream.addEventListener('message', () => stream.abort(new Error('asked for')), { once: true })
    }
  }
  for (const [protocol, handler] of Object.entries(handlers)) {
    node.handle(protocol, stream => {
      handler(stream).catch(error => tell({ event: 'handler failed', protocol, error: describe(error) }))
    }, { runOnLimitedConnection: true, maxInboundStreams: 1_000, maxOutboundStreams: 1_000 })
  }
}

// Commands; `open` makes a stream of a protocol to whoever the arguments name.
export function streamCommands (open) {
  return {
    async echo (to) {
      const stream = await open(to, ECHO)
      stream.send(Buffer.from(to.text))
      await stream.close()
      return (await readAll(stream)).toString()
    },
    async sink (to) {
      const stream = await open(to, SINK)
      const answer = readAll(stream)
      await sendPattern(stream, to.size)
      await stream.close()
      return JSON.parse((await answer).toString())
    },
    async source (to) {
      const stream = await open(to, SOURCE)
      stream.send(Buffer.from(String(to.size)))
      const found = digest(stream)
      await stream.close()
      return found
    },
    // Many echoes at once, all open before the first one ends.
    async many (to) {
      const streams = await Promise.all(Array.from({ length: to.count }, () => open(to, ECHO)))
      const answers = streams.map(readAll)
      streams.forEach((stream, i) => stream.send(Buffer.from(`number ${i}`)))
      await Promise.all(streams.map(async stream => stream.close()))
      const texts = (await Promise.all(answers)).map(String)
      return texts.filter((text, i) => text === `number ${i}`).length
    },
    // Sends one byte to the protocol that resets, and tells how the stream ended.
    async provoke (to) {
      const stream = await open(to, RESET)
      const ended = new Promise(resolve => stream.addEventListener('close', resolve, { once: true }))
      stream.send(Uint8Array.of(1))
      return { error: (await ended).error?.name ?? null, status: stream.status }
    },
    // Opens, sends a little, resets.
    async reset (to) {
      const stream = await open(to, to.protocol)
      stream.send(Buffer.from('torso'))
      stream.abort(new Error('asked for'))
    },
    // Sends to a reader that doesn't read yet, and half-closes; returns before that is done.
    async stuff (to) {
      const stream = await open(to, HOLD)
      held.push(stream)
      sendPattern(stream, to.size).then(() => stream.close())
        .catch(error => tell({ event: 'handler failed', protocol: HOLD, error: describe(error) }))
    },
    // Lets go of what HOLD keeps: reads all to the end of the stream.
    async release () {
      const stream = held.shift()
      const found = digest(stream)
      stream.resume()
      return found
    },
    async held () {
      return held.map(stream => stream.status)
    }
  }
}
