//! Clocks move only when they are moved, and ids repeat.

use std::time::Duration;

use audit_core::time::{Clock as _, IdSource as _, Timestamp};
use audit_testkit::time::{TestClock, TestIds};

#[test]
fn the_wall_clock_can_go_back_and_the_other_cannot() {
    let clock = TestClock::default();
    assert_eq!(clock.now().to_string(), "2026-01-02T03:04:05.000000Z");
    clock.advance(Duration::from_millis(1500));
    assert_eq!(clock.now().to_string(), "2026-01-02T03:04:06.500000Z");
    clock.set(Timestamp::EPOCH);
    assert_eq!(clock.now(), Timestamp::EPOCH);
    assert_eq!(clock.monotonic_micros(), 1_500_000);
}

#[test]
fn ids_repeat_with_their_seed() {
    let (a, b, c) = (TestIds::new(1), TestIds::new(1), TestIds::new(2));
    let first = a.uuid_v4();
    assert_eq!(first, b.uuid_v4());
    assert_ne!(first, c.uuid_v4());
    assert_ne!(first, a.uuid_v4());
}
