// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

/// @title CodeStore
/// @notice Creation code kept on chain as a contract's code, behind a STOP byte, so that it can be read and not run.
/// @dev The factory deploys from such stores: four contracts' creation code is more than a contract may hold (EIP-170),
/// and passing it in calldata would cost every DAO a million gas. Anyone can compare a store with the artifact.
contract CodeStore {
    /// @notice Stores `code`; at most 24,575 bytes (EIP-170 less one).
    /// @param code Creation code without constructor arguments.
    constructor(bytes memory code) {
        bytes memory stored = bytes.concat(hex"00", code);
        assembly ("memory-safe") {
            return(add(stored, 32), mload(stored))
        }
    }
}
