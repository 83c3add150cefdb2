//! Paths through the loopback interface: whether they end on this host, and what their MTU is then.

use std::time::Duration;

/// Longest round trip to another socket of the same host, at its best.
///
/// To a forwarder that listens on the loopback interface it is as long as the way behind that.
const NEAR_RTT: Duration = Duration::from_millis(1);

/// What is known of a path through the loopback interface.
///
/// If it ends on this host, the interface's MTU is that of the whole path, and nothing has to be
/// searched for. quinn-proto is not to be told so. Its probe leaves as a small packet instead, whose
/// acknowledgement stands for that of a large one. If the path leads elsewhere, the probe is lost
/// before it is sent.
#[derive(Debug)]
pub(super) struct Loopback {
    /// Bytes that may be under way if the peer is near.
    window: u64,
    first_mtu: u16,
    is_near: bool,
    /// Datagrams are larger than at first.
    is_wide: bool,
    /// They were, and got lost: something on the way takes smaller ones only.
    is_distrusted: bool,
    /// How many probes were lost when one was withheld of which quinn-proto has not found out yet.
    lost_before: Option<u64>,
    unsent_bytes: u64,
}

/// What becomes of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probing {
    /// It is sent.
    Whole,
    /// A small packet takes its place.
    Short,
    /// Nothing is sent.
    Withheld,
}

impl Loopback {
    pub(super) fn new(window: u64, first_mtu: u16) -> Self {
        Self {
            window,
            first_mtu,
            is_near: false,
            is_wide: false,
            is_distrusted: false,
            lost_before: None,
            unsent_bytes: 0,
        }
    }

    /// Bytes that may be under way from now on, if the peer turns out to be near just now.
    pub(super) fn note_rtt(&mut self, min_rtt: Duration) -> Option<u64> {
        let found = !self.is_near && min_rtt <= NEAR_RTT;
        self.is_near |= found;
        found.then_some(self.window)
    }

    pub(super) fn note_mtu(&mut self, mtu: u16) {
        let is_wide = mtu > self.first_mtu;
        self.is_distrusted |= self.is_wide && !is_wide;
        self.is_wide = is_wide;
    }

    pub(super) fn probing(&self) -> Probing {
        match (self.is_near, self.is_distrusted) {
            (false, _) => Probing::Withheld,
            (true, false) => Probing::Short,
            (true, true) => Probing::Whole,
        }
    }

    /// A probe was withheld, and so many were lost before it.
    pub(super) fn note_withheld(&mut self, lost: u64) {
        self.lost_before = Some(lost);
    }

    /// So many bytes count as sent for quinn-proto, and were not.
    pub(super) fn note_unsent(&mut self, bytes: usize) {
        self.unsent_bytes += bytes as u64;
    }

    pub(super) fn unsent_bytes(&self) -> u64 {
        self.unsent_bytes
    }

    pub(super) fn has_withheld(&self) -> bool {
        self.lost_before.is_some()
    }

    /// So many probes were lost. Returns whether the one that was withheld is among them.
    pub(super) fn note_lost(&mut self, lost: u64) -> bool {
        let is_lost = self.lost_before.is_some_and(|before| lost > before);
        if is_lost {
            self.lost_before = None;
        }
        is_lost
    }

    /// The path is another one, through the same interface.
    pub(super) fn moved(&mut self) {
        self.is_near = false;
        self.is_wide = false;
        self.lost_before = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Duration = Duration::from_millis(100);
    const NEAR: Duration = Duration::from_micros(300);

    #[test]
    fn path_is_near_from_its_shortest_round_trip_on() {
        let mut loopback = Loopback::new(500_000, 1452);
        assert_eq!(loopback.note_rtt(FAR), None);
        assert_eq!(loopback.probing(), Probing::Withheld);
        assert_eq!(loopback.note_rtt(NEAR), Some(500_000));
        assert_eq!(loopback.note_rtt(NEAR), None);
        assert_eq!(loopback.probing(), Probing::Short);
        loopback.moved();
        assert_eq!(loopback.probing(), Probing::Withheld);
    }

    #[test]
    fn probes_are_whole_where_large_datagrams_got_lost() {
        let mut loopback = Loopback::new(500_000, 1452);
        loopback.note_rtt(NEAR);
        for (mtu, probing) in [
            (1452, Probing::Short),
            (65_000, Probing::Short),
            (1200, Probing::Whole),
            (65_000, Probing::Whole),
        ] {
            loopback.note_mtu(mtu);
            assert_eq!(loopback.probing(), probing, "{mtu}");
        }
    }

    #[test]
    fn withheld_probe_is_lost_once() {
        let mut loopback = Loopback::new(500_000, 1452);
        assert!(!loopback.note_lost(1));
        loopback.note_withheld(1);
        assert!(loopback.has_withheld() && !loopback.note_lost(1));
        assert!(loopback.note_lost(2) && !loopback.note_lost(3));
        assert!(!loopback.has_withheld());
    }
}
