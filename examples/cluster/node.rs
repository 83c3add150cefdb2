//! A node: a Swarm over our transport, and what it can be asked to do.

use std::time::Duration;

use futures::StreamExt;
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, kad, multiaddr::Protocol};
use libp2p_quinn::{BandwidthLimits, Config, Handle, Transport};

use crate::{
    behaviour::{Behaviour, Settings, topic},
    event::Event,
    failure::Failure,
    peers::Peers,
};

/// Longest wait for peers to acknowledge the data sent to them.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) swarm: Swarm<Behaviour>,
    /// Taken before the Swarm takes the transport.
    pub(crate) handle: Handle,
    pub(crate) peers: Peers,
}

impl Node {
    /// Creates a node. It does nothing before its [events](Self::next) are taken.
    pub(crate) fn new(settings: Settings) -> Result<Self, Failure> {
        let behaviour = Behaviour::new(&settings)?;
        let mut limits = BandwidthLimits::default();
        limits.send.total = settings.limit;
        limits.receive.total = settings.limit;
        let config = Config::builder(&settings.key)
            .bandwidth_limits(limits)
            .and_then(|builder| builder.build())
            .map_err(|error| Failure::new("bad settings", &error))?;
        let transport = Transport::new(config);
        let handle = transport.handle();
        let Ok(builder) = SwarmBuilder::with_existing_identity(settings.key)
            .with_tokio()
            .with_other_transport(|_| transport);
        let Ok(builder) = builder.with_behaviour(|_| behaviour);
        let swarm = builder
            .with_swarm_config(|config| config.with_idle_connection_timeout(settings.idle))
            .build();
        Ok(Self {
            name: settings.name,
            swarm,
            handle,
            peers: Peers::default(),
        })
    }

    pub(crate) fn peer_id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Begins to listen. [`Event::Listening`] follows, once for each address.
    pub(crate) fn listen(&mut self, addr: &str) -> Result<(), Failure> {
        let addr = addr
            .parse()
            .map_err(|error| Failure::new("bad address", &error))?;
        match self.swarm.listen_on(addr) {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::listen(&error)),
        }
    }

    /// The address at which another node reaches this node and no other.
    pub(crate) fn dialable(&self, addr: Multiaddr) -> Multiaddr {
        addr.with(Protocol::P2p(self.peer_id()))
    }

    /// Runs the node until something happens that is worth telling.
    ///
    /// The future may be dropped at any time; no event is lost.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            let event = self.swarm.select_next_some().await;
            if let Some(event) = self.react(event) {
                return event;
            }
        }
    }

    /// Sends a text to everybody.
    pub(crate) fn broadcast(&mut self, text: &str) -> Result<(), Failure> {
        let gossipsub = &mut self.swarm.behaviour_mut().gossipsub;
        match gossipsub.publish(topic(), text) {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::new("cannot broadcast", &error)),
        }
    }

    /// Sends a text to one peer, which answers.
    pub(crate) fn request(&mut self, peer_id: &PeerId, text: String) {
        let messages = &mut self.swarm.behaviour_mut().messages;
        messages.send_request(peer_id, text);
    }

    /// Stores a record, here and at the peers that are nearest to the key.
    pub(crate) fn put(&mut self, key: &str, value: String) -> Result<(), Failure> {
        let record = kad::Record::new(kad::RecordKey::new(&key), value.into_bytes());
        let kad = &mut self.swarm.behaviour_mut().kad;
        match kad.put_record(record, kad::Quorum::One) {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::new("cannot store the record", &error)),
        }
    }

    /// Looks for a record.
    pub(crate) fn get(&mut self, key: &str) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        kad.get_record(kad::RecordKey::new(&key));
    }

    /// Writes the peers into the file now. Otherwise it is written once a minute.
    pub(crate) fn save(&mut self) {
        self.swarm.behaviour_mut().rejoin.save();
    }

    /// Closes all connections after their data is delivered, so that peers are told.
    pub(crate) async fn close(self) {
        if !self.handle.shutdown(0, "", CLOSE_TIMEOUT).await {
            eprintln!("cluster: some peers have not acknowledged everything in time");
        }
    }
}

/// Resolves at Ctrl-C.
pub(crate) async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // This system has no such signal.
        std::future::pending::<()>().await;
    }
}
