//! Operations that are begun, abandoned and dropped in random order: nothing is left, and no
//! task waits for ever.
//!
//! Over real sockets, with real tasks; most of the time passes while closed connections drain. The
//! environment variable `LIBP2P_QUINN_HISTORIES` sets the number of histories; the default suits a
//! quick run.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite, task::noop_waker_ref};
use libp2p_core::{
    Endpoint, Transport as _,
    muxing::StreamMuxerExt,
    transport::{DialOpts, ListenerId, PortUse, TransportEvent},
};
use libp2p_identity::PeerId;
use libp2p_quinn::{Connecting, Connection, Handle, Stream};
use multiaddr::{Multiaddr, Protocol};
use proptest::prelude::*;
use support::{
    complaints,
    node::{
        LOOPBACK_V4, NEW_PORT, Node, REUSE_PORT, bounded, connect, descriptors, echo, is_over,
        poll_now, runtime, until,
    },
    streams,
};
use tokio::task::JoinHandle;

/// The number of histories in a quick run.
const QUICK_HISTORIES: u32 = 6;

/// An operation. Numbers choose among what exists at that time.
#[derive(Clone, Debug)]
enum Act {
    Accept(usize),
    Close(usize),
    CloseWith(usize),
    Dial {
        from: usize,
        to: usize,
        whom: Whom,
        opts: Role,
    },
    DropAttempt(usize),
    DropConnection(usize),
    DropStream(usize),
    DropTransport(usize),
    Finish(usize),
    /// A task takes it, and waits for events.
    LeaveConnection(usize),
    LeaveStream(usize),
    Listen(usize),
    LookAtConnection(usize),
    Open(usize),
    PollAttempt(usize),
    PollTransport(usize),
    /// Polls everything this many times.
    Proceed(usize),
    Read(usize),
    RemoveListener(usize),
    Reset(usize),
    Stop(usize),
    Wait(Duration),
    Write(usize, usize),
}

#[derive(Clone, Copy, Debug)]
enum Whom {
    Anyone,
    Right,
    Wrong,
}

#[derive(Clone, Copy, Debug)]
enum Role {
    Dialer,
    DialerFromItsOwnPort,
    Listener,
}

/// The objects that are dropped at the end, in any order.
#[derive(Clone, Copy, Debug)]
enum Rest {
    Attempts,
    Connections,
    Streams,
    Tasks,
    Transports,
}

fn act() -> impl Strategy<Value = Act> {
    let any = || 0..64_usize;
    let node = || 0..2_usize;
    let whom = prop_oneof![1 => Just(Whom::Anyone), 6 => Just(Whom::Right), 1 => Just(Whom::Wrong)];
    let role = prop_oneof![
        4 => Just(Role::Dialer),
        2 => Just(Role::DialerFromItsOwnPort),
        1 => Just(Role::Listener),
    ];
    prop_oneof![
        4 => any().prop_map(Act::Accept),
        1 => any().prop_map(Act::Close),
        1 => any().prop_map(Act::CloseWith),
        4 => (node(), any(), whom, role)
            .prop_map(|(from, to, whom, opts)| Act::Dial { from, to, whom, opts }),
        1 => any().prop_map(Act::DropAttempt),
        1 => any().prop_map(Act::DropConnection),
        2 => any().prop_map(Act::DropStream),
        1 => node().prop_map(Act::DropTransport),
        1 => any().prop_map(Act::Finish),
        1 => any().prop_map(Act::LeaveConnection),
        2 => any().prop_map(Act::LeaveStream),
        1 => node().prop_map(Act::Listen),
        1 => any().prop_map(Act::LookAtConnection),
        4 => any().prop_map(Act::Open),
        3 => any().prop_map(Act::PollAttempt),
        3 => node().prop_map(Act::PollTransport),
        4 => (1..20_usize).prop_map(Act::Proceed),
        3 => any().prop_map(Act::Read),
        1 => any().prop_map(Act::RemoveListener),
        1 => any().prop_map(Act::Reset),
        1 => any().prop_map(Act::Stop),
        3 => (0..3_u64).prop_map(|milliseconds| Act::Wait(Duration::from_millis(milliseconds))),
        4 => (any(), 1..200_000_usize).prop_map(|(stream, len)| Act::Write(stream, len)),
    ]
}

fn rests() -> impl Strategy<Value = Vec<Rest>> {
    Just(vec![
        Rest::Attempts,
        Rest::Connections,
        Rest::Streams,
        Rest::Tasks,
        Rest::Transports,
    ])
    .prop_shuffle()
}

fn histories() -> u32 {
    match std::env::var("LIBP2P_QUINN_HISTORIES") {
        Ok(count) => count.parse().unwrap(),
        Err(_) => QUICK_HISTORIES,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(histories()))]

    #[test]
    fn after_any_history_nothing_is_left(
        shards in 1..4_u8,
        acts in proptest::collection::vec(act(), 20..100),
        rests in rests(),
    ) {
        complaints::listen();
        let runtime = runtime();
        runtime.block_on(bounded(async {
            let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
            let before = (tasks(), descriptors());
            let mut history = History::new(shards).await;
            for act in acts {
                history.act(act).await;
            }
            history.end(&rests).await;
            until(|| (tasks(), descriptors()) == before).await;
        }));
        prop_assert_eq!(complaints::take(), Vec::<String>::new());
    }
}

struct History {
    nodes: [Option<Node>; 2],
    peer_ids: [PeerId; 2],
    handles: [Handle; 2],
    /// Addresses at which a node has listened, with the node's number; it may have stopped.
    listeners: Vec<(usize, ListenerId, Multiaddr)>,
    /// Dials, hole punches and incoming connections, at any stage.
    attempts: Vec<Connecting>,
    connections: Vec<Connection>,
    streams: Vec<Stream>,
    connection_tasks: Vec<JoinHandle<()>>,
    stream_tasks: Vec<JoinHandle<()>>,
}

impl History {
    /// Two nodes that listen, and one connection between them.
    async fn new(shards: u8) -> Self {
        let mut nodes = [0, 1].map(|_| Node::with(|config| config.shards(shards)));
        let [dialer, listener] = &mut nodes;
        let (dialled, accepted) = connect(dialer, listener).await;
        let mut history = Self {
            peer_ids: [0, 1].map(|node: usize| nodes[node].peer_id),
            handles: [0, 1].map(|node: usize| nodes[node].transport.handle()),
            nodes: nodes.map(Some),
            listeners: Vec::new(),
            attempts: Vec::new(),
            connections: vec![dialled, accepted],
            streams: Vec::new(),
            connection_tasks: Vec::new(),
            stream_tasks: Vec::new(),
        };
        for node in 0..2 {
            history.listen(node);
            history.poll_transport(node);
        }
        history
    }

    async fn act(&mut self, act: Act) {
        let cx = &mut Context::from_waker(noop_waker_ref());
        match act {
            Act::Accept(number) => {
                if let Some(connection) = chosen(&mut self.connections, number)
                    && let Poll::Ready(Ok(stream)) = connection.poll_inbound_unpin(cx)
                {
                    self.streams.push(stream);
                }
            }
            Act::Close(number) => {
                if let Some(connection) = chosen(&mut self.connections, number)
                    && let Poll::Ready(closed) = connection.poll_close_unpin(cx)
                {
                    // Another call returns the same.
                    assert_eq!(connection.poll_close_unpin(cx), Poll::Ready(closed));
                }
            }
            Act::CloseWith(number) => {
                if let Some(connection) = chosen(&mut self.connections, number) {
                    connection.close_with(7, "done");
                }
            }
            Act::Dial {
                from,
                to,
                whom,
                opts,
            } => self.dial(from, to, whom, opts),
            Act::DropAttempt(number) => drop(taken(&mut self.attempts, number)),
            Act::DropConnection(number) => drop(taken(&mut self.connections, number)),
            Act::DropStream(number) => drop(taken(&mut self.streams, number)),
            Act::DropTransport(node) => drop(self.nodes[node].take()),
            Act::Finish(number) => {
                if let Some(stream) = chosen(&mut self.streams, number) {
                    let _ = Pin::new(stream).poll_close(cx);
                }
            }
            Act::LeaveConnection(number) => {
                if let Some(connection) = taken(&mut self.connections, number) {
                    self.connection_tasks.push(tokio::spawn(echo(connection)));
                }
            }
            Act::LeaveStream(number) => {
                if let Some(stream) = taken(&mut self.streams, number) {
                    self.stream_tasks.push(tokio::spawn(streams::echo(stream)));
                }
            }
            Act::Listen(node) => self.listen(node),
            Act::LookAtConnection(number) => {
                if let Some(connection) = chosen(&mut self.connections, number) {
                    let _ = connection.poll_unpin(cx);
                }
            }
            Act::Open(number) => {
                if let Some(connection) = chosen(&mut self.connections, number)
                    && let Poll::Ready(Ok(stream)) = connection.poll_outbound_unpin(cx)
                {
                    self.streams.push(stream);
                }
            }
            Act::PollAttempt(number) => self.poll_attempt(number),
            Act::PollTransport(node) => self.poll_transport(node),
            Act::Proceed(rounds) => {
                for _ in 0..rounds {
                    for node in 0..2 {
                        self.poll_transport(node);
                    }
                    for number in (0..self.attempts.len()).rev() {
                        self.poll_attempt(number);
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            Act::Read(number) => {
                if let Some(stream) = chosen(&mut self.streams, number) {
                    let _ = Pin::new(stream).poll_read(cx, &mut [0; 10_000]);
                }
            }
            Act::RemoveListener(number) => {
                if let Some((node, id, _)) = chosen(&mut self.listeners, number)
                    && let Some(node) = &mut self.nodes[*node]
                {
                    // It may already be removed.
                    let _ = node.transport.remove_listener(*id);
                }
            }
            Act::Reset(number) => {
                if let Some(stream) = chosen(&mut self.streams, number) {
                    let _ = stream.reset(1);
                }
            }
            Act::Stop(number) => {
                if let Some(stream) = chosen(&mut self.streams, number) {
                    let _ = stream.stop(1);
                }
            }
            Act::Wait(time) => tokio::time::sleep(time).await,
            Act::Write(number, len) => {
                if let Some(stream) = chosen(&mut self.streams, number) {
                    let _ = Pin::new(stream).poll_write(cx, &vec![0; len]);
                }
            }
        }
    }

    fn listen(&mut self, node: usize) {
        if let Some(node) = &mut self.nodes[node] {
            let addr = LOOPBACK_V4.parse().unwrap();
            node.transport.listen_on(ListenerId::next(), addr).unwrap();
        }
    }

    fn poll_attempt(&mut self, number: usize) {
        if let Some(mut attempt) = taken(&mut self.attempts, number) {
            match poll_now(&mut attempt) {
                Poll::Pending => self.attempts.push(attempt),
                Poll::Ready(Ok((_, connection))) => self.connections.push(connection),
                Poll::Ready(Err(_)) => {}
            }
        }
    }

    fn poll_transport(&mut self, number: usize) {
        let Some(node) = &mut self.nodes[number] else {
            return;
        };
        while let Some(event) = node.event_now() {
            match event {
                TransportEvent::Incoming { upgrade, .. } => self.attempts.push(upgrade),
                TransportEvent::NewAddress {
                    listener_id,
                    listen_addr,
                } => self.listeners.push((number, listener_id, listen_addr)),
                _ => {}
            }
        }
    }

    fn dial(&mut self, from: usize, to: usize, whom: Whom, role: Role) {
        let (Some((to, _, addr)), Some(node)) =
            (chosen(&mut self.listeners, to), &mut self.nodes[from])
        else {
            return;
        };
        let addr = match whom {
            Whom::Anyone => addr.clone(),
            Whom::Right => addr.clone().with(Protocol::P2p(self.peer_ids[*to])),
            Whom::Wrong => addr.clone().with(Protocol::P2p(self.peer_ids[1 - *to])),
        };
        let opts = match role {
            Role::Dialer => REUSE_PORT,
            Role::DialerFromItsOwnPort => NEW_PORT,
            Role::Listener => DialOpts {
                role: Endpoint::Listener,
                port_use: PortUse::Reuse,
            },
        };
        // A hole punch needs a peer ID and a listener.
        if let Ok(dial) = node.try_dial(&addr, opts) {
            self.attempts.push(dial);
        }
    }

    /// Drops everything in this order. Tasks that wait on a stream then get an error.
    async fn end(self, order: &[Rest]) {
        let Self {
            mut nodes,
            mut attempts,
            mut connections,
            mut streams,
            connection_tasks,
            stream_tasks,
            handles,
            ..
        } = self;
        for rest in order {
            match rest {
                Rest::Attempts => attempts.clear(),
                Rest::Connections => connections.clear(),
                Rest::Streams => streams.clear(),
                Rest::Tasks => connection_tasks.iter().for_each(JoinHandle::abort),
                Rest::Transports => nodes = [None, None],
            }
            tokio::task::yield_now().await;
        }
        drop(nodes);
        for task in stream_tasks {
            task.await.unwrap();
        }
        until(|| handles.iter().all(is_over)).await;
    }
}

fn chosen<T>(things: &mut [T], number: usize) -> Option<&mut T> {
    let count = things.len().max(1);
    things.get_mut(number % count)
}

fn taken<T>(things: &mut Vec<T>, number: usize) -> Option<T> {
    (!things.is_empty()).then(|| things.swap_remove(number % things.len()))
}
