// A js-libp2p node for the interop test: prints lines of JSON, takes commands on standard input.
// `node peer.mjs [multiaddr to dial]`, or `node peer.mjs behind RELAY` to be reached through a relay.
import { createInterface } from 'node:readline'

// js-libp2p 3 asks for Node 22; this one function is all that Node 20 lacks.
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new Promise((a, b) => { resolve = a; reject = b })
  return { promise, resolve, reject }
}

const { createLibp2p } = await import('libp2p')
const { tcp } = await import('@libp2p/tcp')
const { noise } = await import('@chainsafe/libp2p-noise')
const { yamux } = await import('@chainsafe/libp2p-yamux')
const { ping } = await import('@libp2p/ping')
const { identify } = await import('@libp2p/identify')
const { gossipsub } = await import('@libp2p/gossipsub')
const { generateKeyPair } = await import('@libp2p/crypto/keys')
const { multiaddr } = await import('@multiformats/multiaddr')

const { circuitRelayTransport } = await import('@libp2p/circuit-relay-v2')

const behind = process.argv[2] === 'behind'
const say = (fields) => console.log(JSON.stringify(fields))
const node = await createLibp2p({
  privateKey: await generateKeyPair('secp256k1'),
  addresses: { listen: [behind ? `${process.argv[3]}/p2p-circuit` : '/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp(), circuitRelayTransport()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping(), pubsub: gossipsub({ allowPublishToZeroTopicPeers: true }) }
})

node.services.pubsub.subscribe('t')
node.services.pubsub.addEventListener('message', (event) => {
  if (event.detail.topic === 't') say({ gossip: new TextDecoder().decode(event.detail.data) })
})

await node.handle('/test/sink/1', async (stream) => {
  let received = 0
  const start = Date.now()
  for await (const chunk of stream) received += chunk.byteLength
  say({ sink: received, seconds: (Date.now() - start) / 1000 })
  await stream.close()
})

while (node.getMultiaddrs().length === 0) await new Promise((resolve) => setTimeout(resolve, 50))
say({ address: node.getMultiaddrs()[0].toString() })

const commands = {
  ping: async (address) => say({ ping: await node.services.ping.ping(multiaddr(address)) }),
  protocols: async (address) => {
    const connection = await node.dial(multiaddr(address))
    await new Promise((resolve) => setTimeout(resolve, 500)) // identify runs by itself
    const peer = await node.peerStore.get(connection.remotePeer)
    say({ protocols: peer.protocols, muxer: connection.multiplexer, encryption: connection.encryption })
  },
  publish: async (text) => {
    const result = await node.services.pubsub.publish('t', new TextEncoder().encode(text))
    say({ published: result.recipients.length })
  },
  pour: async (address, megabytes) => {
    const stream = await node.dialProtocol(multiaddr(address), '/test/sink/1')
    const piece = new Uint8Array(65536)
    for (let i = 0; i < megabytes * 16; i++) {
      if (!stream.send(piece)) await stream.onDrain()
    }
    await stream.close()
    say({ poured: megabytes })
  }
}

if (process.argv[2] && !behind) {
  const connection = await node.dial(multiaddr(process.argv[2]))
  say({ dialled: connection.remotePeer.toString() })
}
for await (const line of createInterface({ input: process.stdin })) {
  const [command, ...args] = line.split(' ')
  commands[command](...args).catch((error) => say({ error: `${command}: ${error.message}` }))
}
process.exit(0)
