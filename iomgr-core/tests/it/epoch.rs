//! Epochs against their contract.

use iomgr_core::epoch::EpochDomain;

#[test]
fn an_idle_queue_counts_as_drained() {
    let domain = EpochDomain::new(2);
    let mut busy = domain.queue(0).unwrap();
    let _idle = domain.queue(1).unwrap();
    let pin = busy.enter();
    let epoch = domain.advance();
    assert!(!domain.drained(epoch));
    busy.exit(pin);
    assert!(domain.drained(epoch));
}

#[test]
fn later_pins_do_not_hold_an_epoch_back() {
    let domain = EpochDomain::new(1);
    let mut queue = domain.queue(0).unwrap();
    let old = queue.enter();
    let epoch = domain.advance();
    let new = queue.enter();
    queue.exit(old);
    assert!(domain.drained(epoch));
    assert!(!domain.drained(domain.advance()));
    queue.exit(new);
}

#[test]
fn a_queue_is_given_out_once_at_a_time() {
    let domain = EpochDomain::new(1);
    assert!(domain.queue(1).is_none());
    let mut queue = domain.queue(0).unwrap();
    assert!(domain.queue(0).is_none());
    drop(queue);
    queue = domain.queue(0).unwrap();
    let pin = queue.enter();
    let epoch = domain.advance();
    drop(queue);
    assert!(domain.queue(0).is_none(), "it was dropped with a pin");
    assert!(!domain.drained(epoch));
    drop(pin);
}
