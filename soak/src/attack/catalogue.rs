//! The list of attacks: names and kinds.

use serde::{Deserialize, Serialize};

use super::victim::Manner;

/// An attack with its name, which begins its figures and which rows of the table use.
pub struct Attack {
    pub name: &'static str,
    pub kind: Kind,
    /// Whether it differs from another one only in a number, and runs only if there is time.
    pub is_variant: bool,
}

/// In the order in which they run.
pub const ATTACKS: &[Attack] = &[
    attack("nothing", Kind::Nothing),
    attack("16 stalled handshakes", stalled(16, Size::Small, None)),
    variant("64 stalled handshakes", stalled(64, Size::Small, None)),
    attack(
        "16 stalled handshakes in large datagrams",
        stalled(16, Size::Large, None),
    ),
    variant(
        "64 stalled handshakes in large datagrams",
        stalled(64, Size::Large, None),
    ),
    attack(
        "stalled handshakes one after the other",
        stalled(64, Size::Small, Some(DATAGRAMS_EACH)),
    ),
    attack("pieces of a stream", pieces(Of::Stream, 1, Size::Small)),
    variant("pieces of 16 streams", pieces(Of::Stream, 16, Size::Small)),
    attack(
        "pieces of a stream in large datagrams",
        pieces(Of::Stream, 1, Size::Large),
    ),
    variant(
        "pieces of 16 streams in large datagrams",
        pieces(Of::Stream, 16, Size::Large),
    ),
    variant("pieces after TLS", pieces(Of::Crypto, 1, Size::Small)),
    attack(
        "pieces after TLS in large datagrams",
        pieces(Of::Crypto, 1, Size::Large),
    ),
    attack("pieces in every other datagram", beside(Beside::Clean)),
    attack("pieces in a full inbox", beside(Beside::Garbage)),
    attack("garbage", Kind::Garbage),
    attack("unknown IDs", Kind::UnknownIds),
    attack("reset streams", Kind::Resets),
    attack("large keys", Kind::Failing(Failing::LargeKeys)),
    attack("refused certificates", Kind::Failing(Failing::Certificate)),
    variant("wrong protocol", Kind::Failing(Failing::Protocol)),
    attack("challenges", Kind::Amplifying(Amplifying::Challenges)),
    attack("new addresses", Kind::Amplifying(Amplifying::Pings)),
    attack(
        "two addresses in turns",
        Kind::Amplifying(Amplifying::Turns),
    ),
    attack("bytes behind a packet", Kind::Holding(Holding::Coalesced)),
    attack("bytes behind a batch", Kind::Holding(Holding::Batches)),
    attack("bytes beside padding", Kind::Holding(Holding::Padded)),
    attack("bytes alone", Kind::Holding(Holding::Single)),
    attack("bytes of 60 handshakes", holding(60, Size::Small, false)),
    attack(
        "bytes of 8 handshakes in large datagrams",
        holding(8, Size::Large, false),
    ),
    attack("bytes of 1024 handshakes", holding(1024, Size::Small, true)),
    attack(
        "ended connections",
        Kind::Ending {
            connections: 1500,
            bytes: 11_000,
        },
    ),
    attack(
        "ended windows",
        Kind::Ending {
            connections: 32,
            bytes: 15_000_000,
        },
    ),
    attack("close", Kind::Silent { idle_timeout: None }),
    attack(
        "idle timeout",
        Kind::Silent {
            idle_timeout: Some(IDLE_TIMEOUT),
        },
    ),
    attack("unread windows", Kind::Windows { connections: 64 }),
    attack("unacknowledged answers", Kind::Answers { connections: 64 }),
];

/// In milliseconds; the smaller timeout of both sides applies.
pub const IDLE_TIMEOUT: u64 = 1000;

/// Just enough to make a handshake expensive.
const DATAGRAMS_EACH: u32 = 12;

const fn attack(name: &'static str, kind: Kind) -> Attack {
    Attack {
        name,
        kind,
        is_variant: false,
    }
}

const fn variant(name: &'static str, kind: Kind) -> Attack {
    Attack {
        name,
        kind,
        is_variant: true,
    }
}

const fn stalled(handshakes: usize, size: Size, datagrams_each: Option<u32>) -> Kind {
    Kind::InitialPieces {
        handshakes,
        size,
        datagrams_each,
    }
}

const fn pieces(of: Of, connections: usize, size: Size) -> Kind {
    Kind::Pieces {
        of,
        connections,
        size,
        beside: Beside::Nothing,
    }
}

const fn holding(handshakes: usize, size: Size, proves: bool) -> Kind {
    Kind::InitialHolding {
        handshakes,
        size,
        proves,
    }
}

const fn beside(beside: Beside) -> Kind {
    Kind::Pieces {
        of: Of::Stream,
        connections: 1,
        size: Size::Small,
        beside,
    }
}

/// The kinds of attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Nothing, for comparison with the others.
    Nothing,
    /// Repeats pieces of CRYPTO data in Initial packets of this many handshakes.
    InitialPieces {
        handshakes: usize,
        size: Size,
        /// After this many datagrams, a new handshake replaces it.
        datagrams_each: Option<u32>,
    },
    /// Repeats pieces of a stream, or of CRYPTO data, on this many connections.
    Pieces {
        of: Of,
        connections: usize,
        size: Size,
        beside: Beside,
    },
    /// Makes the victim keep little data in much memory, in this many handshakes.
    InitialHolding {
        handshakes: usize,
        size: Size,
        /// Whether it proves that its addresses are its own.
        proves: bool,
    },
    /// The same on one connection.
    Holding(Holding),
    /// Ends connections with data on streams that the application has not taken.
    Ending { connections: usize, bytes: u64 },
    /// Makes the victim send more to addresses than came from them.
    Amplifying(Amplifying),
    /// Begins handshakes that fail.
    Failing(Failing),
    /// Falls silent, with this idle timeout in milliseconds.
    Silent { idle_timeout: Option<u64> },
    /// Sends a whole window on each of many connections.
    Windows { connections: usize },
    /// Asks for data on each of many connections, and acknowledges none.
    Answers { connections: usize },
    /// Sends datagrams to one connection that cannot be decrypted.
    Garbage,
    /// Opens streams and resets them at once.
    Resets,
    /// Sends datagrams that look like packets of unknown connections.
    UnknownIds,
}

/// The size of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Size {
    /// As large as on Ethernet.
    Small,
    /// As large as UDP permits, in fragments.
    Large,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Of {
    Stream,
    Crypto,
}

/// The datagrams between the costly ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Beside {
    Nothing,
    /// As many cheap ones.
    Clean,
    /// Many that cannot be decrypted.
    Garbage,
}

/// How little data is kept in much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holding {
    /// A byte behind another packet in its datagram.
    Coalesced,
    /// A byte in the last datagram of a batch.
    Batches,
    /// The most data in each packet, besides PADDING, that is never copied together.
    Padded,
    /// One byte in each packet.
    Single,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Amplifying {
    /// PATH_CHALLENGE, each from a new address.
    Challenges,
    /// PING, each from a new address.
    Pings,
    /// PING, alternately from two addresses.
    Turns,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failing {
    /// A certificate without the libp2p extension.
    Certificate,
    /// A protocol other than libp2p's.
    Protocol,
    /// The largest possible RSA keys.
    LargeKeys,
}

impl Kind {
    /// How the victim's application treats the attacker's streams.
    pub fn manner(self) -> Manner {
        match self {
            Self::Answers { .. } => Manner::Feed,
            // An honest dial takes place as well.
            Self::Resets | Self::Failing(_) => Manner::Serve,
            Self::Ending { .. } => Manner::Leave,
            _ => Manner::Hold,
        }
    }

    /// Whether it ends by itself; others go on until they are told to stop.
    pub fn is_finite(self) -> bool {
        matches!(
            self,
            Self::InitialHolding { .. }
                | Self::Holding(_)
                | Self::Ending { .. }
                | Self::Windows { .. }
                | Self::Answers { .. }
                | Self::Failing(Failing::Certificate | Failing::Protocol)
        )
    }
}
