// A js-libp2p node that serves the DHT of this network; see `peer.mjs` for how it is spoken to.
// `node kad.mjs multiaddr`; commands are `provide CID` and `find CID`.
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
const { kadDHT, passthroughMapper } = await import('@libp2p/kad-dht')
const { generateKeyPair } = await import('@libp2p/crypto/keys')
const { multiaddr } = await import('@multiformats/multiaddr')
const { CID } = await import('multiformats/cid')

const say = (fields) => console.log(JSON.stringify(fields))
const dht = kadDHT({
  protocol: '/eigen/kad/1.0.0',
  clientMode: false,
  peerInfoMapper: passthroughMapper, // keeps loopback addresses
  initialQuerySelfInterval: 100
})
const node = await createLibp2p({
  privateKey: await generateKeyPair('secp256k1'),
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping(), dht }
})

const commands = {
  provide: async (cid) => {
    await node.contentRouting.provide(CID.parse(cid))
    say({ provided: cid })
  },
  find: async (cid) => {
    const found = []
    for await (const provider of node.contentRouting.findProviders(CID.parse(cid))) {
      found.push([provider.id.toString(), provider.multiaddrs.map(String)])
    }
    say({ found })
  }
}

const connection = await node.dial(multiaddr(process.argv[2]))
say({ address: node.getMultiaddrs()[0].toString(), dialled: connection.remotePeer.toString() })
for await (const line of createInterface({ input: process.stdin })) {
  const [command, ...args] = line.split(' ')
  commands[command](...args).catch((error) => say({ error: `${command}: ${error.message}` }))
}
process.exit(0)
