// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ModelRegistry} from "./ModelRegistry.sol";
import {IERC2981} from "@openzeppelin/contracts/interfaces/IERC2981.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";

/// @title CreationNFT
/// @notice Works that were generated with a DAO's models, each with its provenance: model, checkpoint, digests of the
/// prompt and of the work. Royalties of later sales go to the model's contributors, at the model's rate.
/// @dev A clone (EIP-1167), so name and symbol are constants. That the checkpoint is the model's is checked on chain.
/// That the work came out of it is the minter's claim; anyone with checkpoint, prompt and seed can repeat it. A token's
/// id contains the minter, so nobody can take another's by minting first.
contract CreationNFT is ERC721, IERC2981, Initializable {
    /// @notice Where a work comes from.
    /// @param model The model's id in the registry.
    /// @param round Which of its rounds.
    /// @param checkpoint SHA-256 of that round's checkpoint.
    /// @param prompt SHA-256 of the prompt with its sampling parameters.
    /// @param content SHA-256 of the work.
    /// @param creator Who minted it.
    struct Provenance {
        uint256 model;
        uint64 round;
        bytes32 checkpoint;
        bytes32 prompt;
        bytes32 content;
        address creator;
    }

    /// @notice The DAO's models.
    ModelRegistry public registry;

    mapping(uint256 creation => Provenance) private _provenance;
    mapping(uint256 creation => string) private _uris;

    /// @notice A work was minted; see {Provenance}.
    event Created(
        uint256 indexed creation,
        address indexed creator,
        uint256 indexed model,
        uint64 round,
        bytes32 checkpoint,
        bytes32 prompt,
        bytes32 content
    );

    /// @notice An address that is needed was zero.
    error ZeroAddress(string field);

    constructor() ERC721("", "") {
        _disableInitializers();
    }

    /// @notice Sets up a clone, once.
    /// @param registry_ The DAO's models.
    function initialize(ModelRegistry registry_) external initializer {
        if (address(registry_) == address(0)) revert ZeroAddress("registry");
        registry = registry_;
    }

    /// @notice Mints a work. Anyone may, once for the same prompt, content and checkpoint.
    /// @param to Who shall own it.
    /// @param model The model's id.
    /// @param round Which of its rounds on record.
    /// @param prompt SHA-256 of the prompt with its sampling parameters.
    /// @param content SHA-256 of the work.
    /// @param uri Where the work is, e.g. `ipfs://CID`.
    /// @return creation The token's id.
    function mint(address to, uint256 model, uint64 round, bytes32 prompt, bytes32 content, string calldata uri)
        external
        returns (uint256 creation)
    {
        bytes32 checkpoint = registry.checkpointOf(model, round);
        creation = creationId(msg.sender, model, checkpoint, prompt, content);
        _provenance[creation] = Provenance(model, round, checkpoint, prompt, content, msg.sender);
        _uris[creation] = uri;
        emit Created(creation, msg.sender, model, round, checkpoint, prompt, content);
        _mint(to, creation);
    }

    /// @notice The id of a work.
    /// @param creator Who mints it.
    /// @param model The model's id.
    /// @param checkpoint SHA-256 of the checkpoint.
    /// @param prompt SHA-256 of the prompt.
    /// @param content SHA-256 of the work.
    /// @return The token's id.
    function creationId(address creator, uint256 model, bytes32 checkpoint, bytes32 prompt, bytes32 content)
        public
        pure
        returns (uint256)
    {
        return uint256(keccak256(abi.encode(creator, model, checkpoint, prompt, content)));
    }

    /// @notice Where a work comes from. Reverts for one that does not exist.
    /// @param creation The token.
    /// @return See {Provenance}.
    function provenance(uint256 creation) external view returns (Provenance memory) {
        _requireOwned(creation);
        return _provenance[creation];
    }

    /// @inheritdoc IERC2981
    function royaltyInfo(uint256 creation, uint256 salePrice) external view returns (address, uint256) {
        _requireOwned(creation);
        return registry.royaltyInfo(_provenance[creation].model, salePrice);
    }

    /// @notice ERC-721 name.
    /// @return The same for every DAO.
    function name() public pure override returns (string memory) {
        return "Eigen Creation";
    }

    /// @notice ERC-721 symbol.
    /// @return The same for every DAO.
    function symbol() public pure override returns (string memory) {
        return "EGNC";
    }

    /// @notice Where a work is.
    /// @param creation The token.
    /// @return The URI given when it was minted.
    function tokenURI(uint256 creation) public view override returns (string memory) {
        _requireOwned(creation);
        return _uris[creation];
    }

    /// @notice ERC-165.
    /// @param interfaceId Which interface.
    /// @return Whether this contract has it.
    function supportsInterface(bytes4 interfaceId) public view override(ERC721, IERC165) returns (bool) {
        return interfaceId == type(IERC2981).interfaceId || super.supportsInterface(interfaceId);
    }
}
