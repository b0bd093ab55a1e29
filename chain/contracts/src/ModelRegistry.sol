// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ContributionLedger} from "./ContributionLedger.sol";
import {RoyaltyVault} from "./RoyaltyVault.sol";
import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {ERC2981} from "@openzeppelin/contracts/token/common/ERC2981.sol";

/// @title ModelRegistry
/// @notice A DAO's models, each an NFT (ERC-721) that pays royalties to its contributors (ERC-2981): which run trained
/// it, from which checkpoint of which other model, and what its attested rounds came to. From a model one finds its
/// ancestors, their rounds, and by each round's payout root whoever contributed.
/// @dev A clone (EIP-1167), so name and symbol are constants. A model's id is its run's id. It copies rounds from the
/// ledger, where a quorum attested them, and takes nobody's word.
contract ModelRegistry is ERC721, ERC2981, Initializable {
    /// @notice A model.
    /// @param spec SHA-256 of its canonical run spec.
    /// @param parent The model that it was fine-tuned from; 0: none.
    /// @param parentCheckpoint SHA-256 of the parent's checkpoint that it started from.
    /// @param vault Where its royalties are collected.
    struct Model {
        bytes32 spec;
        uint256 parent;
        bytes32 parentCheckpoint;
        address vault;
    }

    /// @notice What a quorum attested of a round, see `Rounds.RoundRoot`.
    struct Round {
        bytes32 checkpoint;
        bytes32 record;
        bytes32 payoutRoot;
    }

    /// @notice Most ancestors of a model, so that {lineage} can be read in one call.
    uint256 public constant ANCESTORS_MAX = 64;

    /// @notice Where runs are attested.
    ContributionLedger public ledger;
    /// @notice What royalty vaults are clones of.
    address public vaultCode;
    /// @notice How many ancestors a model has.
    mapping(uint256 model => uint256) public ancestors;

    mapping(uint256 model => Model) private _models;
    mapping(uint256 model => mapping(uint64 round => Round)) private _rounds;
    mapping(uint256 model => string) private _uris;

    /// @notice A model was registered.
    event ModelRegistered(
        uint256 indexed model, uint256 indexed parent, bytes32 spec, bytes32 parentCheckpoint, address vault
    );
    /// @notice An attested round is on a model's record.
    event RoundRecorded(
        uint256 indexed model, uint64 indexed round, bytes32 checkpoint, bytes32 record, bytes32 payoutRoot
    );

    /// @notice An address that is needed was zero.
    error ZeroAddress(string field);
    /// @notice Only the DAO may do this, by a passed proposal.
    error OnlyDao(address caller, address dao);
    /// @notice The ledger does not know this run.
    error UnknownRun(bytes32 run);
    /// @notice This round of this model is not on record; {recordRound} puts it there once it pays.
    error UnknownRound(uint256 model, uint64 round);
    /// @notice The last round that pays is on record already, or there is none.
    error NothingToRecord(uint256 model, uint64 round);
    /// @notice The model would have more ancestors than can be listed.
    error LineageTooLong(uint256 parent, uint256 max);

    constructor() ERC721("", "") {
        _disableInitializers();
    }

    /// @notice Sets up a clone, once.
    /// @param ledger_ The DAO's ledger.
    /// @param vaultCode_ A `RoyaltyVault` to clone.
    function initialize(ContributionLedger ledger_, address vaultCode_) external initializer {
        if (address(ledger_) == address(0)) revert ZeroAddress("ledger");
        if (vaultCode_ == address(0)) revert ZeroAddress("vaultCode");
        (ledger, vaultCode) = (ledger_, vaultCode_);
    }

    /// @notice Registers the model of a run, once the ledger knows the run. Only the DAO.
    /// @param run The training run.
    /// @param to Who shall own the NFT, as a rule the DAO's timelock.
    /// @param parent The model that it is fine-tuned from; 0: none.
    /// @param parentRound Which round's checkpoint of the parent it starts from; it must be on record.
    /// @param royaltyBps Share of each sale for its contributors, in hundredths of a percent, at most 10,000.
    /// @param uri Where a description is, e.g. `ipfs://CID`.
    /// @return model The model's id.
    function register(
        bytes32 run,
        address to,
        uint256 parent,
        uint64 parentRound,
        uint96 royaltyBps,
        string calldata uri
    ) external returns (uint256 model) {
        if (msg.sender != ledger.dao()) revert OnlyDao(msg.sender, ledger.dao());
        // slither-disable-next-line unused-return (what else a run has is not needed)
        (bytes32 spec, uint64 length,,,) = ledger.runs(run);
        if (length == 0) revert UnknownRun(run);
        model = uint256(run);
        bytes32 start = 0;
        if (parent != 0) {
            start = checkpointOf(parent, parentRound);
            ancestors[model] = ancestors[parent] + 1;
            if (ancestors[model] > ANCESTORS_MAX) revert LineageTooLong(parent, ANCESTORS_MAX);
        }
        address vault = Clones.clone(vaultCode);
        _models[model] = Model(spec, parent, start, vault);
        _uris[model] = uri;
        _setTokenRoyalty(model, vault, royaltyBps);
        emit ModelRegistered(model, parent, spec, start, vault);
        _mint(to, model);
        RoyaltyVault(vault).initialize(ledger, run);
    }

    /// @notice Puts the round of a model that pays now on record. Anyone may.
    /// @param model The model.
    function recordRound(uint256 model) external {
        _requireOwned(model);
        // slither-disable-next-line unused-return (the total is not needed)
        (uint64 round, bytes32 checkpoint, bytes32 record, bytes32 payoutRoot,) = ledger.paying(bytes32(model));
        if (round == 0 || _rounds[model][round].checkpoint != 0) revert NothingToRecord(model, round);
        _rounds[model][round] = Round(checkpoint, record, payoutRoot);
        emit RoundRecorded(model, round, checkpoint, record, payoutRoot);
    }

    // ------------------------------------------------------------------ views

    /// @notice A registered model. Reverts for another.
    /// @param model The model.
    /// @return See {Model}.
    function models(uint256 model) external view returns (Model memory) {
        _requireOwned(model);
        return _models[model];
    }

    /// @notice An attested round of a model. Reverts with {UnknownRound} where it is not on record.
    /// @param model The model.
    /// @param round The round.
    /// @return See {Round}.
    function rounds(uint256 model, uint64 round) external view returns (Round memory) {
        checkpointOf(model, round);
        return _rounds[model][round];
    }

    /// @notice The checkpoint of a round on record.
    /// @param model The model.
    /// @param round The round.
    /// @return checkpoint Its SHA-256.
    function checkpointOf(uint256 model, uint64 round) public view returns (bytes32 checkpoint) {
        checkpoint = _rounds[model][round].checkpoint;
        if (checkpoint == 0) revert UnknownRound(model, round);
    }

    /// @notice The models that a model descends from, the nearest first.
    /// @param model The model.
    /// @return line At most {ANCESTORS_MAX} ids.
    function lineage(uint256 model) external view returns (uint256[] memory line) {
        _requireOwned(model);
        line = new uint256[](ancestors[model]);
        for (uint256 i = 0; i < line.length; ++i) {
            model = line[i] = _models[model].parent;
        }
    }

    /// @notice ERC-721 name.
    /// @return The same for every DAO.
    function name() public pure override returns (string memory) {
        return "Eigen Model";
    }

    /// @notice ERC-721 symbol.
    /// @return The same for every DAO.
    function symbol() public pure override returns (string memory) {
        return "EGNM";
    }

    /// @notice Where a model's description is.
    /// @param model The model.
    /// @return The URI given at registration.
    function tokenURI(uint256 model) public view override returns (string memory) {
        _requireOwned(model);
        return _uris[model];
    }

    /// @inheritdoc ERC721
    function supportsInterface(bytes4 interfaceId) public view override(ERC721, ERC2981) returns (bool) {
        return super.supportsInterface(interfaceId);
    }
}
