// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";

/// @notice Builds payout trees for the tests: sorted pairs, an odd node moves up as it is.
library Payouts {
    function leaf(address account, uint256 cumulative) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(account, cumulative))));
    }

    function leaves(address[] memory accounts, uint256[] memory cumulative)
        internal
        pure
        returns (bytes32[] memory row)
    {
        row = new bytes32[](accounts.length);
        for (uint256 i = 0; i < row.length; ++i) {
            row[i] = leaf(accounts[i], cumulative[i]);
        }
    }

    function root(bytes32[] memory row) internal pure returns (bytes32) {
        while (row.length > 1) {
            row = _parents(row);
        }
        return row[0];
    }

    function proof(bytes32[] memory row, uint256 index) internal pure returns (bytes32[] memory path) {
        path = new bytes32[](0);
        while (row.length > 1) {
            uint256 sibling = index ^ 1;
            if (sibling < row.length) path = _append(path, row[sibling]);
            row = _parents(row);
            index /= 2;
        }
    }

    function _parents(bytes32[] memory row) private pure returns (bytes32[] memory above) {
        above = new bytes32[]((row.length + 1) / 2);
        for (uint256 i = 0; i < above.length; ++i) {
            above[i] = 2 * i + 1 < row.length ? Hashes.commutativeKeccak256(row[2 * i], row[2 * i + 1]) : row[2 * i];
        }
    }

    function _append(bytes32[] memory path, bytes32 node) private pure returns (bytes32[] memory longer) {
        longer = new bytes32[](path.length + 1);
        for (uint256 i = 0; i < path.length; ++i) {
            longer[i] = path[i];
        }
        longer[path.length] = node;
    }
}
