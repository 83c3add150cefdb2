//! Opens sockets and starts the drivers that read them.

use std::{net::SocketAddr, sync::Arc};

use super::{Drivers, OpenError};
use crate::{
    authenticator::GenerateError,
    driver::{
        socket_group::SocketGroup,
        task::{Driver, ReceiveSettings, Shared},
    },
    net::{UdpSocket, task::Runtime},
    proto::{Shard, ShardSeed},
    sync,
};

impl Drivers {
    /// Opens a socket and makes a driver read it. The first socket starts the drivers.
    pub(super) fn open_socket(
        &self,
        runtime: &Runtime,
        addr: SocketAddr,
        listening: bool,
    ) -> Result<Arc<SocketGroup>, OpenError> {
        let ios = self.sockets.bind(runtime, addr).map_err(OpenError::Bind)?;
        self.start(runtime, &ios[0])
            .map_err(OpenError::Certificate)?;
        self.sockets
            .put_to_use(ios, listening)
            .map_err(|_| OpenError::DriverStopped)
    }

    /// If all drivers are gone, prepares for new ones, which the next socket starts.
    pub(super) fn replace_gone_drivers(&self) {
        let are_gone = |has_drivers: bool| {
            has_drivers && self.mailboxes.iter().all(|mailbox| mailbox.is_gone())
        };
        if !are_gone(*sync::lock(&self.has_drivers)) {
            return;
        }
        self.sockets.forget_all_if(|| {
            let mut has_drivers = sync::lock(&self.has_drivers);
            // Checked again under the lock: another thread may have been first.
            let are_replaced = are_gone(*has_drivers);
            if are_replaced {
                self.incoming.clear();
                self.sockets.begin_generation();
                *has_drivers = false;
            }
            are_replaced
        });
    }

    /// Starts the drivers if there are none. `io` is the first socket.
    fn start(&self, runtime: &Runtime, io: &UdpSocket) -> Result<(), Arc<GenerateError>> {
        let mut drivers = Vec::new();
        let mut has_drivers = sync::lock(&self.has_drivers);
        if *has_drivers {
            return Ok(());
        }
        let shared = Shared {
            shards: self.shards,
            mailboxes: Arc::clone(&self.mailboxes),
            incoming: Arc::clone(&self.incoming),
            stun: Arc::clone(&self.stun),
            sockets: Arc::clone(&self.sockets),
            idle: Arc::clone(&self.idle),
        };
        let settings = self.shards.iter().map(|id| {
            self.config.settings(
                !io.may_fragment(),
                io.buffer_sizes().receive,
                rand::random(),
                self.config.reset_secret(io.local_addr(), id.index()),
            )
        });
        let settings = settings.collect::<Result<Vec<_>, _>>()?;
        // Only now, because a mailbox accepts requests once it is revived, and a driver must be
        // there to answer them.
        for mailbox in self.mailboxes.iter().filter(|mailbox| mailbox.is_gone()) {
            mailbox.revive();
        }
        for ((id, registry), settings) in self.shards.iter().zip(&self.registries).zip(settings) {
            let receive_settings = ReceiveSettings {
                max_datagram_bytes: settings.max_datagram_bytes(),
                measure_routing: self.config.measures_routing(),
            };
            let shard = Shard::new(
                id,
                self.shards,
                settings,
                ShardSeed {
                    connection_ids: rand::random(),
                    endpoint: rand::random(),
                    initial_ids: rand::random(),
                },
                Arc::clone(registry),
                self.budget.clone(),
            );
            drivers.push(Driver::new(shard, shared.clone(), receive_settings));
        }
        self.sockets.run_on(runtime);
        *has_drivers = true;
        drop(has_drivers);
        // A runtime that shuts down drops them at once, and that wakes tasks (decision 18).
        for driver in drivers {
            runtime.spawn(driver);
        }
        Ok(())
    }
}
