// /p2pe/kad/1.0.0 on js-libp2p's kad-dht: the validator and selector that a stranger's node needs to serve our records.
//
// The rules are those of core/records.py; here only what a storer must check: form, key, times, signature.

import { createPublicKey, verify } from 'node:crypto'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { peerIdFromString } from '@libp2p/peer-id'

const PREFIX = Buffer.from('/p2pe/')
const KEY_BYTES = PREFIX.length + 32 + 1
const MAX_BYTES = 1024
const PAYLOAD_BYTES = 512
const SLOTS = 4
const MAX_TTL = 24 * 3600 * 1000
const SKEW = 600 * 1000
const CONTEXT = Buffer.from('p2pe/1 record')
const SPKI_ED25519 = Buffer.from('302a300506032b6570032100', 'hex')

class BadRecord extends Error {
  name = 'BadRecord'
}

function refuse (why) {
  throw new BadRecord(why)
}

function varint (raw, at) {
  let value = 0n
  for (let i = 0; i < 10 && at + i < raw.length; i++) {
    value |= BigInt(raw[at + i] & 127) << BigInt(7 * i)
    if (raw[at + i] < 128) return [value, at + i + 1]
  }
  return refuse('a cut varint')
}

// The fields of a message, each at most once and in rising order, as its canonical form has them.
function fields (raw, known) {
  const found = {}
  let last = 0
  for (let at = 0; at < raw.length;) {
    let tag, value
    ;[tag, at] = varint(raw, at)
    const number = Number(tag >> 3n)
    if (!known.includes(number) || number <= last) refuse('an unknown, repeated or misplaced field')
    last = number
    ;[value, at] = varint(raw, at)
    if ((tag & 7n) === 2n) {
      const end = at + Number(value)
      if (end > raw.length) refuse('a cut field')
      found[number] = raw.subarray(at, end)
      at = end
    } else if ((tag & 7n) === 0n) {
      found[number] = value
    } else {
      refuse('an unexpected wire type')
    }
  }
  return found
}

function parse (raw) {
  const { 1: body, 2: signature } = fields(raw, [1, 2])
  if (!(body instanceof Uint8Array) || signature?.length !== 64) refuse('no body or no signature')
  const { 1: publicKey, 2: slot = 0n, 3: sequence = 0n, 4: expires = 0n, 5: payload } = fields(body, [1, 2, 3, 4, 5])
  if (publicKey?.length !== 32 || payload?.length !== PAYLOAD_BYTES) refuse('a key or payload of the wrong size')
  return { body, signature, publicKey, slot: Number(slot), sequence: Number(sequence), expires: Number(expires) }
}

export function validate (key, value) {
  const [k, raw, now] = [Buffer.from(key), Buffer.from(value), Date.now()]
  if (raw.length > MAX_BYTES) refuse('too large')
  const record = parse(raw)
  if (k.length !== KEY_BYTES || record.slot >= SLOTS) refuse('not a record key')
  if (!k.equals(Buffer.concat([PREFIX, record.publicKey, Buffer.of(record.slot)]))) refuse('under a key not its own')
  if (record.sequence > now + SKEW) refuse('made in the future')
  if (record.expires <= now) refuse('expired')
  if (record.expires <= record.sequence || record.expires - record.sequence > MAX_TTL) refuse('valid for too long')
  const spki = Buffer.concat([SPKI_ED25519, record.publicKey])
  const signer = createPublicKey({ key: spki, format: 'der', type: 'spki' })
  if (!verify(null, Buffer.concat([CONTEXT, record.body]), signer, record.signature)) refuse('a wrong signature')
}

export function select (_, values) {
  const sequences = values.map(value => parse(Buffer.from(value)).sequence)
  return sequences.indexOf(Math.max(...sequences))
}

export function kadService (mode) {
  return kadDHT({
    protocol: '/p2pe/kad/1.0.0',
    clientMode: mode !== 'server',
    peerInfoMapper: passthroughMapper,
    validators: { p2pe: validate },
    selectors: { p2pe: select },
    allowQueryWithZeroPeers: true,
    initialQuerySelfInterval: 10_000_000
  })
}

async function collect (events) {
  const found = []
  for await (const event of events) {
    found.push({
      name: event.name,
      from: event.from?.toString(),
      message: event.messageName,
      value: event.value == null ? undefined : Buffer.from(event.value).toString('hex'),
      closer: event.closer?.map(peer => peer.id.toString()),
      record: event.record == null ? undefined : Buffer.from(event.record.value).toString('hex'),
      peer: (event.peer?.id ?? event.peer)?.toString(),
      error: event.error == null ? undefined : `${event.error.name}: ${event.error.message}`
    })
  }
  return found
}

export function kadCommands (node) {
  const dht = () => node.services.dht
  return {
    async kadClosest ({ key }) {
      return collect(dht().getClosestPeers(Buffer.from(key, 'hex')))
    },
    async kadFindPeer ({ peer }) {
      return collect(dht().findPeer(peerIdFromString(peer)))
    },
    async kadPut ({ key, value }) {
      return collect(dht().put(Buffer.from(key, 'hex'), Buffer.from(value, 'hex')))
    },
    async kadGet ({ key }) {
      return collect(dht().get(Buffer.from(key, 'hex')))
    },
    async kadTable () {
      return dht().routingTable.size
    },
    async kadMode () {
      return dht().getMode()
    }
  }
}
