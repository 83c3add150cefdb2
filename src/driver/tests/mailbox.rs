//! What waits in the mailbox of a driver, and how much of it.

use std::{net::SocketAddr, sync::Arc};

use super::world::{Dialling, World, first_packet, first_packet_of_a_dial, runtime};
use crate::{
    driver::mailbox::{MAX_FORWARDED_BYTES, MAX_UNREACHABLE, Mailbox, Undeliverable, read_socket},
    net::Obstacle,
    proto::{Datagram, MAX_UNMATCHED},
};

#[test]
fn max_forwarded_bytes_wait_and_further_datagrams_are_dropped_and_counted() {
    let world = world();
    let mailbox = &world.mailbox;
    let quarter = MAX_FORWARDED_BYTES / 4;
    forward(&world, &[quarter; 4]);
    assert_eq!(mailbox.take().overflowed, 0);
    forward(&world, &[1; 3]);
    assert_eq!(mailbox.take().overflowed, 3);
    // The place of each datagram is free when it is taken.
    let mut taken = Vec::new();
    assert!(mailbox.take_forwarded(1, &mut taken));
    assert_eq!(taken.len(), 1);
    forward(&world, &[quarter, 1]);
    assert_eq!(mailbox.take().overflowed, 1);
    assert!(!mailbox.take_forwarded(usize::MAX, &mut taken));
    assert_eq!(taken.len(), 5);
    forward(&world, &[quarter; 4]);
    assert_eq!(mailbox.take().overflowed, 0);
}

#[test]
fn forwarded_datagrams_are_taken_until_they_fill_the_room() {
    const LEN: usize = 1000;

    let world = world();
    forward(&world, &[LEN; 3]);
    for (room, count, has_more) in [(0, 0, true), (LEN, 1, true), (LEN + 1, 2, false)] {
        let mut taken = Vec::new();
        assert_eq!(world.mailbox.take_forwarded(room, &mut taken), has_more);
        assert_eq!(taken.len(), count, "{room}");
    }
}

/// Anyone who sees our packets can cause them.
#[test]
fn max_unreachable_addresses_wait() {
    let mailbox = Mailbox::default();
    let report = |port| mailbox.unreachable(addr(port), vec![7; 8], Obstacle::PortClosed);
    (0..=MAX_UNREACHABLE).for_each(report);
    assert_eq!(mailbox.take().unreachable.len(), MAX_UNREACHABLE);
    report(0);
    assert_eq!(mailbox.take().unreachable.len(), 1);
}

/// Anyone can send such datagrams.
#[test]
fn max_unmatched_senders_wait_and_none_if_no_dial_may_hear_of_them() {
    let mailbox = Mailbox::default();
    let senders: Vec<_> = (0..MAX_UNMATCHED - 1).map(addr).collect();
    mailbox.note_unmatched(&senders);
    assert_eq!(mailbox.take().unmatched, []);
    mailbox.want_unmatched(true);
    mailbox.note_unmatched(&senders);
    mailbox.note_unmatched(&senders);
    let unmatched = mailbox.take().unmatched;
    assert_eq!(unmatched, [&senders[..], &senders[..1]].concat());
    mailbox.note_unmatched(&senders);
    assert_eq!(mailbox.take().unmatched, senders);
    mailbox.want_unmatched(false);
    mailbox.note_unmatched(&senders);
    assert_eq!(mailbox.take().unmatched, []);
}

#[test]
fn socket_is_read_by_the_driver_that_is_asked_or_by_the_next_one_that_runs() {
    let world = world();
    let io = world.socket.io_of(0).unwrap();
    let mailboxes: [Arc<Mailbox>; 3] = Default::default();
    for reader in [1, 2, 0] {
        read_socket(&mailboxes, 1, &world.socket, &io).unwrap();
        let read = mailboxes.iter().map(|mailbox| mailbox.take().sockets.len());
        assert!(read.eq((0..3).map(|index| usize::from(index == reader))));
        mailboxes[reader].stop();
    }
    let unread = read_socket(&mailboxes, 1, &world.socket, &io);
    assert_eq!(unread, Err(Undeliverable::Stopped));
}

fn world() -> World {
    World::new(&runtime(), Dialling::JustBegun)
}

/// Forwards datagrams that keep these numbers of bytes.
fn forward(world: &World, held: &[usize]) {
    let datagrams = held.iter().map(|&held| Datagram {
        held,
        ..first_packet(Arc::clone(&world.socket), &first_packet_of_a_dial())
    });
    world.mailbox.forward(&mut datagrams.collect());
}

fn addr(number: usize) -> SocketAddr {
    ([192, 0, 2, 1], number as u16 + 1).into()
}
