// Regenerates payout_tree_vectors.json with OpenZeppelin's own library:
//   npm install @openzeppelin/merkle-tree@1.0.8 && node payout_tree_vectors.mjs > payout_tree_vectors.json
import { createHash } from "node:crypto";
import { StandardMerkleTree } from "@openzeppelin/merkle-tree";

const bytes = (text) => createHash("sha256").update(text).digest("hex");
const table = (size) =>
  Array.from({ length: size }, (_, i) => [
    "0x" + bytes(`account ${size} ${i}`).slice(0, 40),
    BigInt("0x" + bytes(`amount ${size} ${i}`).slice(0, 2 + 2 * (i % 30))).toString(),
  ]);

const vectors = [1, 2, 3, 4, 5, 7, 8, 13].map((size) => {
  const rows = table(size);
  const tree = StandardMerkleTree.of(rows, ["address", "uint256"]);
  return {
    root: tree.root,
    rows: rows.map(([account, amount], i) => ({ account, amount, proof: tree.getProof(i) })),
  };
});
console.log(JSON.stringify(vectors, null, 1));
