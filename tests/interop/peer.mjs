// One js-libp2p node, made as the options (JSON, first argument) say, and obeying the commands of lines.mjs.
//
//   listen: [...]          addresses to listen on
//   yamux: {...}           options of the muxer
//   relay: {...}           serves as a relay, with these reservation limits
//   via: [...]             listens through these relays
//   dcutr, autonat: true   services that are on
//   announce: true         takes the addresses listened on as proved, as AutoNAT would
//   kad: "server"|"client" serves or uses /p2pe/kad/1.0.0

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { autoNATv2 } from '@libp2p/autonat-v2'
import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { dcutr } from '@libp2p/dcutr'
import { identify } from '@libp2p/identify'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { kadCommands, kadService } from './kad.mjs'
import { describe, serve, tell } from './lines.mjs'
import { serveStreams, streamCommands } from './streams.mjs'

const options = JSON.parse(process.argv[2] ?? '{}')
const LIMITED = { runOnLimitedConnection: true }

function services () {
  const chosen = { identify: identify({ runOnLimitedConnection: true }), ping: ping({ runOnLimitedConnection: true }) }
  if (options.relay != null) {
    const { data, duration, ...rest } = options.relay
    const limits = { ...rest }
    if (data != null) limits.defaultDataLimit = BigInt(data)
    if (duration != null) limits.defaultDurationLimit = duration
    chosen.relay = circuitRelayServer({ reservations: limits })
  }
  if (options.dcutr) chosen.dcutr = dcutr()
  if (options.autonat) chosen.autonat = autoNATv2({ startupDelay: 0 })
  if (options.kad != null) chosen.dht = kadService(options.kad)
  return chosen
}

function failed (error) {
  tell({ event: 'failed', error: describe(error) })
  process.exit(1)
}

const node = await createLibp2p({
  addresses: { listen: [...(options.listen ?? ['/ip4/127.0.0.1/tcp/0']), ...(options.via ?? []).map(a => `${a}/p2p-circuit`)] },
  transports: [tcp(), circuitRelayTransport()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux(options.yamux ?? {})],
  connectionManager: { inboundConnectionThreshold: 10_000, reconnectRetries: 0 },
  services: services()
}).catch(failed)

// A peer id, or an address that is dialled unless there is a connection to its peer.
function target (to) {
  return to.startsWith('/') ? multiaddr(to) : peerIdFromString(to)
}

async function open (to, protocol) {
  return node.dialProtocol(target(to.to), protocol, { ...LIMITED, maxOutboundStreams: 1_000 })
}

const commands = {
  ...streamCommands(open),
  ...kadCommands(node),
  async connect ({ to }) {
    const connection = await node.dial(target(to), { force: true })
    return { peer: connection.remotePeer.toString(), limited: connection.limits != null }
  },
  async disconnect ({ to }) {
    await node.hangUp(peerIdFromString(to))
  },
  async connections () {
    return node.getConnections().map(c => ({
      peer: c.remotePeer.toString(),
      address: c.remoteAddr.toString(),
      direction: c.direction,
      limited: c.limits != null,
      bytes: c.limits?.bytes == null ? null : Number(c.limits.bytes),
      status: c.status
    }))
  },
  async ping ({ to }) {
    return node.services.ping.ping(target(to), LIMITED)
  },
  // What identify found, once it did: it runs by itself on each new connection.
  async known ({ to }) {
    const peer = await node.peerStore.get(peerIdFromString(to))
    return {
      protocols: peer.protocols,
      addresses: peer.addresses.map(a => a.multiaddr.toString()),
      agent: Buffer.from(peer.metadata.get('AgentVersion') ?? []).toString()
    }
  },
  async addresses () {
    return node.getMultiaddrs().map(String)
  },
  async confirmed () {
    return node.components.addressManager.getAddressesWithMetadata()
      .map(a => ({ address: a.multiaddr.toString(), verified: a.verified, type: a.type }))
  },
  // Opens a stream of any protocol and sends raw bytes; the answer until the stream ends, in hex.
  async raw (to) {
    const stream = await open(to, to.protocol)
    stream.send(Buffer.from(to.hex, 'hex'))
    await stream.close()
    const parts = []
    for await (const piece of stream) {
      parts.push(piece.subarray())
    }
    return Buffer.concat(parts).toString('hex')
  }
}

serveStreams(node)
// With AutoNAT on, an address that isn't verified yet isn't announced; it is listened on all the same.
const listening = node.components.addressManager.getAddressesWithMetadata()
  .map(a => `${a.multiaddr}`).filter(a => !a.includes('/p2p-circuit')).map(a => a.split('/p2p/')[0])
if (options.announce) {
  listening.forEach(a => node.components.addressManager.confirmObservedAddr(multiaddr(a)))
}
tell({ event: 'ready', peer: node.peerId.toString(), addresses: listening.map(a => `${a}/p2p/${node.peerId}`) })
await serve(commands)
await node.stop()
process.exit(0)
