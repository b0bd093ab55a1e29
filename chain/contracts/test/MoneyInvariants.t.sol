// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ContributionLedger} from "../src/ContributionLedger.sol";
import {JobEscrow} from "../src/JobEscrow.sol";
import {Rounds} from "../src/Rounds.sol";
import {Streams} from "../src/Streams.sol";
import {Validators} from "../src/Validators.sol";
import {Dao} from "./Dao.sol";
import {Foundry} from "./Foundry.sol";
import {Money} from "./Money.sol";
import {Payouts} from "./Payouts.sol";

/// @notice Plays everybody who has to do with money in a founded DAO: contributors of a minted and of a funded stream
/// with changing windows, a guardian, validators that equivocate, a client with jobs, stakers, whoever brings revenue.
contract MoneyActors is Foundry {
    uint256 public constant ACCOUNTS = 4;
    uint256 public constant JOBS = 8;
    uint128 private constant PRICE = 1000;

    struct Posted {
        uint256 total;
        uint256 claimableAt;
        bool vetoed;
    }

    Money public money = new Money();
    address public client = vm.addr(850);
    bytes32[] public streams; // minted, funded, then of jobs
    mapping(bytes32 stream => mapping(uint64 round => Posted)) public posted;
    mapping(bytes32 stream => mapping(uint64 round => uint256[4])) private _earned;
    mapping(bytes32 stream => uint64 round) public lastRound;
    mapping(bytes32 stream => uint256) public paidOf;
    mapping(address account => uint256) public paidTo;
    uint256 public jobsOpened;
    uint256 public slashings;
    uint256 public outcomes; // a bit for each kind of event that came to pass

    constructor() {
        foundDao(address(money));
        streams.push(RUN);
        openRun();
        streams.push(ledger.openFunded(SPEC, Streams.Kind.Revenue, SPEC, ROUNDS, 1e6, money));
        money.give(address(this), 1e24);
        money.give(client, 1e24);
        money.approve(address(ledger), type(uint256).max);
        money.approve(address(revenue), type(uint256).max);
        vm.prank(client);
        money.approve(address(escrow), type(uint256).max);
        for (uint256 i = 0; i < 3; ++i) {
            vm.prank(vm.addr(600 + i));
            token.approve(address(revenue), type(uint256).max);
        }
    }

    // ------------------------------------------------------------------ rounds and claims

    function attest(uint256 which, uint64[4] memory earned, uint256 total) external {
        bytes32 stream = streams[which % streams.length];
        (, uint64 rounds, uint128 reward,,) = ledger.runs(stream);
        uint64 round = lastRound[stream] + 1;
        if (round > rounds || ledger.validators().length < QUORUM) return;
        (,,,, uint256 least) = ledger.head(stream);
        total = bound(total, least, uint256(reward) * round);
        (address[] memory who, uint256[] memory cumulative) = (new address[](ACCOUNTS), new uint256[](ACCOUNTS));
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            (who[i], cumulative[i]) = (account(i), bound(earned[i], 0, uint256(reward) * round / 3));
            _earned[stream][round][i] = cumulative[i];
        }
        Rounds.RoundRoot memory root = roundRoot(round, Payouts.root(Payouts.leaves(who, cumulative)), total);
        root.run = stream;
        ledger.postRound(root, signatures(root, present(), QUORUM));
        lastRound[stream] = round;
        posted[stream][round] = Posted(total, block.timestamp + ledger.terms().challengeWindowS, false);
        outcomes |= 1;
    }

    function claimAll(uint256 which) external {
        bytes32 stream = streams[which % streams.length];
        (bytes32[] memory leaves, uint64 round) = payingLeaves(stream);
        if (round == 0) return;
        ContributionLedger.Earning[] memory batch = new ContributionLedger.Earning[](ACCOUNTS);
        uint256[] memory before = new uint256[](ACCOUNTS);
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            batch[i] = ContributionLedger.Earning(account(i), _earned[stream][round][i], Payouts.proof(leaves, i));
            before[i] = ledger.claimed(stream, account(i));
        }
        (bool done,) = address(ledger).call(abi.encodeCall(ledger.multiClaim, (stream, batch)));
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            book(stream, i, ledger.claimed(stream, account(i)) - before[i]);
        }
        if (done) outcomes |= 2;
    }

    function claimOne(uint256 which, uint256 who) external {
        bytes32 stream = streams[which % streams.length];
        who %= ACCOUNTS;
        (bytes32[] memory leaves, uint64 round) = payingLeaves(stream);
        if (round == 0) return;
        uint256 before = ledger.claimed(stream, account(who));
        uint256 cumulative = _earned[stream][round][who];
        bytes32[] memory proof = Payouts.proof(leaves, who);
        bytes memory call = abi.encodeCall(ledger.claim, (stream, account(who), cumulative, proof));
        (bool done,) = address(ledger).call(call);
        if (!done) return;
        vm.assertTrue(cumulative > before, "something was due");
        book(stream, who, cumulative - before);
        outcomes |= 4;
    }

    function fund(uint256 which, uint64 amount) external {
        bytes32 stream = streams[which % streams.length];
        if (stream == RUN) return;
        ledger.fund(stream, amount % 1e6);
        outcomes |= 8;
    }

    function setWindow(uint32 window) external {
        window = window % 3 == 0 ? 0 : window % 2 days;
        vm.prank(address(timelock));
        ledger.setTerms(Validators.Terms(window, 2 days, 0, address(this)));
    }

    function veto(uint256 which, uint64 back) external {
        bytes32 stream = streams[which % streams.length];
        uint64 round = lastRound[stream] - uint64(bound(back, 0, lastRound[stream] < 3 ? lastRound[stream] : 3));
        (bool done,) = address(ledger).call(abi.encodeCall(ledger.veto, (stream, round)));
        if (!done) return;
        vm.assertTrue(posted[stream][round].claimableAt > block.timestamp, "in its window");
        posted[stream][round].vetoed = true;
        outcomes |= 16;
    }

    /// @dev A validator signs twice for the next round, which nobody posted; a new set follows when too few are left.
    function equivocate(uint256 who, bytes32 noise) external {
        if (noise[0] & 0x07 != 0) return; // rarely
        uint256[] memory left = present();
        uint256 key = left[who % left.length];
        Rounds.RoundRoot memory one = roundRoot(lastRound[RUN] + 1, noise, 0);
        Rounds.RoundRoot memory two = roundRoot(lastRound[RUN] + 1, ~noise, 0);
        bytes memory first = signature(key, ledger.roundDigest(one));
        ledger.proveEquivocation(one, first, two, signature(key, ledger.roundDigest(two)));
        ++slashings;
        outcomes |= 32;
        if (left.length > QUORUM) return;
        keys = keysByAddress(1000 + 10 * slashings, VALIDATORS);
        setValidators(addressesOf(keys), QUORUM);
    }

    // ------------------------------------------------------------------ jobs

    function openJob(uint32 disputeS, uint16 rounds) external {
        if (jobsOpened == JOBS) return;
        uint40 deadline = uint40(block.timestamp + 60 days);
        vm.prank(client);
        bytes32 job =
            escrow.open(bytes32(jobsOpened++), SPEC, money, PRICE, deadline, disputeS % 10 days, 1 + rounds % 2);
        streams.push(escrow.streamOf(job));
        outcomes |= 64;
    }

    function moveJob(uint256 which, uint8 act, uint128 split) external {
        bytes32 job = escrow.jobId(client, bytes32(which % JOBS));
        bytes memory call;
        if (act % 5 == 0) call = abi.encodeCall(escrow.deliver, (job));
        if (act % 5 == 1) call = abi.encodeCall(escrow.dispute, (job));
        if (act % 5 == 2) call = abi.encodeCall(escrow.release, (job));
        if (act % 5 == 3) call = abi.encodeCall(escrow.refund, (job));
        if (act % 5 == 4) call = abi.encodeCall(escrow.resolve, (job, uint128(bound(split, 0, PRICE))));
        if (act % 5 == 1) vm.prank(client);
        if (act % 5 == 4) vm.prank(address(timelock));
        (bool done,) = address(escrow).call(call);
        if (done) outcomes |= 128 << (act % 5);
        if (done && act % 5 == 4) streams.push(escrow.rulingStreamOf(job));
    }

    // ------------------------------------------------------------------ revenue

    function stake(uint256 who, uint96 amount, bool out) external {
        address staker = vm.addr(600 + who % 3);
        (uint128 staked,,) = revenue.stakeOf(staker);
        uint256 most = out ? staked : token.balanceOf(staker);
        if (most == 0) return;
        vm.prank(staker);
        if (out) revenue.unstake(uint128(bound(amount, 1, most)));
        else revenue.stake(uint128(bound(amount, 1, most)));
        outcomes |= 4096;
    }

    function bringRevenue(uint64 amount) external {
        if (revenue.totalStaked() == 0) return;
        revenue.deposit(1 + uint128(amount % 1e9));
        outcomes |= 8192;
    }

    function takeRevenue(uint256 who) external {
        address staker = vm.addr(600 + who % 3);
        if (revenue.owed(staker) < revenue.SCALE()) return;
        revenue.claim(staker);
        outcomes |= 16384;
    }

    function passTime(uint32 seconds_) external {
        vm.warp(block.timestamp + seconds_ % 3 days);
        vm.roll(block.number + 1);
    }

    // ------------------------------------------------------------------ the books

    function streamCount() external view returns (uint256) {
        return streams.length;
    }

    function dao() external view returns (ContributionLedger, JobEscrow) {
        return (ledger, escrow);
    }

    function books() external view returns (uint256 scaled, uint256 credit, uint256 held) {
        uint256 scale = revenue.SCALE();
        credit = revenue.remainder();
        for (uint256 i = 0; i < 3; ++i) {
            credit += revenue.owed(vm.addr(600 + i));
        }
        return (scale * revenue.deposited() - scale * revenue.paid(), credit, money.balanceOf(address(revenue)));
    }

    function account(uint256 i) public pure returns (address) {
        return vm.addr(1 + i);
    }

    function tokensOf(uint256 i) external view returns (uint256) {
        return token.balanceOf(account(i));
    }

    function book(bytes32 stream, uint256 who, uint256 amount) private {
        paidOf[stream] += amount;
        if (stream != RUN) paidTo[account(who)] += amount;
    }

    /// @dev Keys of the validators who are left, by ascending address.
    function present() private view returns (uint256[] memory left) {
        left = new uint256[](ledger.validators().length);
        uint256 found = 0;
        for (uint256 i = 0; i < keys.length; ++i) {
            if (ledger.isValidator(vm.addr(keys[i]))) left[found++] = keys[i];
        }
    }

    function payingLeaves(bytes32 stream) private view returns (bytes32[] memory leaves, uint64 round) {
        (round,,,,) = ledger.paying(stream);
        (address[] memory who, uint256[] memory cumulative) = (new address[](ACCOUNTS), new uint256[](ACCOUNTS));
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            (who[i], cumulative[i]) = (account(i), _earned[stream][round][i]);
        }
        leaves = Payouts.leaves(who, cumulative);
    }
}

/// @notice What must hold of every coin, whatever happens.
contract MoneyInvariantsTest is Dao {
    MoneyActors private actors;
    JobEscrow private escrow;

    function setUp() public {
        actors = new MoneyActors();
        (ledger, escrow) = actors.dao();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(actors);
    }

    function invariant_every_coin_is_accounted_for() public view {
        rootsPayOnTimeAndNoMoreThanAttested();
        theLedgerHoldsWhatItOwes();
        theEscrowHoldsItsJobs();
        revenueConserves();
        nobodyGetsAnothersMoney();
    }

    /// @dev The campaign means something only if its actions get through: one long game reaches every outcome.
    function test_the_actors_reach_every_outcome() public {
        for (uint256 i = 0; i < 400; ++i) {
            uint256 dice = uint256(keccak256(abi.encode(i)));
            actors.attest(dice, [uint64(dice), uint64(dice >> 8), uint64(dice >> 16), uint64(dice >> 24)], dice >> 32);
            actors.fund(dice >> 3, uint64(dice));
            actors.claimAll(dice >> 40);
            actors.claimOne(dice >> 48, dice >> 56);
            if (i % 7 == 0) actors.setWindow(uint32(dice));
            if (i % 9 == 0) actors.veto(dice, uint64(i / 9));
            actors.equivocate(dice, bytes32(dice << 8));
            if (i % 40 == 0) actors.openJob(uint32(dice), uint16(i / 40));
            actors.moveJob(dice >> 64, uint8(dice >> 72), uint128(dice));
            if (i % 3 == 0) actors.moveJob(i % 4, 1, 0);
            actors.moveJob(i, 2, 0);
            actors.stake(dice, uint96(dice), i % 3 == 0);
            actors.bringRevenue(uint64(dice));
            actors.takeRevenue(dice);
            if (i % 4 == 0) actors.passTime(uint32(dice));
            if (i % 50 == 0) invariant_every_coin_is_accounted_for();
        }
        invariant_every_coin_is_accounted_for();
        vm.assertEq(actors.outcomes(), 32767, "every kind of event");
    }

    function rootsPayOnTimeAndNoMoreThanAttested() private view {
        for (uint256 i = 0; i < actors.streamCount(); ++i) {
            bytes32 stream = actors.streams(i);
            (uint64 round,,,, uint256 total) = ledger.paying(stream);
            (uint256 attested, uint256 claimableAt, bool vetoed) = actors.posted(stream, round);
            vm.assertEq(total, attested, "what was attested");
            vm.assertTrue(claimableAt <= block.timestamp && !vetoed, "out of its window, not vetoed");
            (,,,, uint256 claimedTotal) = ledger.runs(stream);
            vm.assertEq(claimedTotal, actors.paidOf(stream), "claimed of the stream");
            vm.assertLe(claimedTotal, total, "claimed, attested");
        }
    }

    function theLedgerHoldsWhatItOwes() private view {
        uint256 held = 0;
        for (uint256 i = 0; i < actors.streamCount(); ++i) {
            bytes32 stream = actors.streams(i);
            (,, bool minted,, uint256 funded) = ledger.streams(stream);
            if (!minted) held += funded - actors.paidOf(stream);
        }
        vm.assertEq(actors.money().balanceOf(address(ledger)), held, "in the ledger");
    }

    function theEscrowHoldsItsJobs() private view {
        uint256 held = 0;
        for (uint256 i = 0; i < actors.JOBS(); ++i) {
            held += escrow.jobs(escrow.jobId(actors.client(), bytes32(i))).held;
        }
        vm.assertEq(actors.money().balanceOf(address(escrow)), held, "in the escrow");
    }

    function revenueConserves() private view {
        (uint256 scaled, uint256 credit, uint256 held) = actors.books();
        vm.assertEq(scaled, credit, "to the fraction");
        vm.assertEq(held, scaled / 2 ** 96, "in the revenue share");
    }

    function nobodyGetsAnothersMoney() private view {
        for (uint256 i = 0; i < actors.ACCOUNTS(); ++i) {
            address account = actors.account(i);
            vm.assertEq(actors.money().balanceOf(account), actors.paidTo(account), "its own");
            vm.assertEq(actors.tokensOf(i), ledger.claimed(RUN, account), "its own tokens");
        }
    }
}
