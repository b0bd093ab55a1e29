// Regenerates cid.json with the JavaScript implementation of IPFS:
//   npm install ipfs-unixfs-importer@17.1.1 multiformats@14.0.5 && node cid.mjs > cid.json
// A content is the 251-byte pattern (7 i + 3) mod 251, repeated and cut to `bytes`.
import { fixedSize } from "ipfs-unixfs-importer/chunker";
import { balanced } from "ipfs-unixfs-importer/layout";
import { importer } from "ipfs-unixfs-importer";
import { CID } from "multiformats/cid";
import { sha256 } from "multiformats/hashes/sha2";

const MiB = 1024 * 1024;
const pattern = Buffer.from(Array.from({ length: 251 }, (_, i) => (7 * i + 3) % 251));
const content = (bytes) => Buffer.alloc(bytes, pattern);

const vectors = [];
for (const bytes of [0, 1, MiB - 1, MiB, MiB + 1, 3.5 * MiB, 174 * MiB, 174 * MiB + 1]) {
  let blocks = 0;
  const store = {
    async put(cid, block) {
      blocks += 1;
      const again = CID.createV1(cid.code, await sha256.digest(block));
      if (!again.equals(cid)) throw new Error(`${cid} is not the id of its block`);
      return cid;
    },
  };
  const source = [{ content: content(bytes) }];
  const options = {
    cidVersion: 1,
    rawLeaves: true,
    reduceSingleLeafToSelf: true,
    chunker: fixedSize({ chunkSize: MiB }),
    layout: balanced({ maxChildrenPerNode: 174 }),
  };
  for await (const entry of importer(source, store, options)) {
    vectors.push({ bytes, blocks, cid: entry.cid.toString() });
  }
}
process.stdout.write(JSON.stringify(vectors, null, 1) + "\n");
