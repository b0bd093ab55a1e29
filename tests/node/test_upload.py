"""What a node says of its line: measured, coarse, and steady."""

from eigen.node.upload import SAMPLES, UploadMeter

MIB = 1024 * 1024


def busy(meter: UploadMeter, at_s: float, count: int, took_s: float) -> int:
    meter.begin(at_s)
    meter.sent(count)
    meter.end(at_s + took_s)
    return meter.kib_s


def test_a_line_is_known_after_enough_bytes() -> None:
    meter = UploadMeter()
    assert busy(meter, 0.0, MIB // 2, 0.01) == 0
    assert busy(meter, 1.0, 4 * MIB, 2.0) == 2048


def test_transfers_that_overlap_are_one_busy_time() -> None:
    meter = UploadMeter()
    meter.begin(0.0)
    meter.begin(0.5)
    meter.sent(2 * MIB)
    meter.end(1.0)
    assert meter.kib_s == 0
    meter.sent(2 * MIB)
    meter.end(4.0)
    assert meter.kib_s == 1024


def test_who_waited_for_a_peer_does_not_seem_slow_and_small_changes_are_not_told() -> None:
    meter = UploadMeter()
    assert busy(meter, 0.0, 4 * MIB, 2.0) == 2048
    assert busy(meter, 10.0, 4 * MIB, 20.0) == 2048  # somebody froze
    assert busy(meter, 50.0, 4 * MIB, 1.5) == 2048  # a third faster
    assert busy(meter, 60.0, 4 * MIB, 0.5) == 8192
    for at in range(SAMPLES):  # it is slower for good
        busy(meter, 100.0 + 10 * at, 4 * MIB, 4.0)
    assert meter.kib_s == 1024
