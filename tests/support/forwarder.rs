//! A forwarder on loopback: what is dialled here, such as a proxy or a user-space VPN, passes the
//! datagrams on to a distant host.

use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::JoinSet,
    time::{Sleep, sleep},
};

/// Forwards the datagrams of one client to a server, and the answers back, each after a delay.
pub(crate) struct Forwarder {
    addr: SocketAddr,
    _tasks: JoinSet<()>,
}

/// A datagram and the end of its delay.
type Delayed = (Pin<Box<Sleep>>, Vec<u8>);

/// More datagrams than a window of the tests has.
const QUEUE: usize = 16 * 1024;

impl Forwarder {
    pub(crate) async fn to(server: SocketAddr, delay: Duration) -> Self {
        let inside = Arc::new(bind(Ipv4Addr::LOCALHOST).await);
        let outside = Arc::new(bind(Ipv4Addr::UNSPECIFIED).await);
        let addr = inside.local_addr().unwrap();
        let client = Arc::new(Mutex::new(None));
        let mut tasks = JoinSet::new();
        for (from, to) in [(&inside, &outside), (&outside, &inside)] {
            let (queue, mut queued) = mpsc::channel::<Delayed>(QUEUE);
            tasks.spawn({
                let (from, client) = (Arc::clone(from), Arc::clone(&client));
                async move {
                    let mut buf = vec![0; 65_536];
                    loop {
                        // Errors are about datagrams that were sent.
                        let Ok((length, sender)) = from.recv_from(&mut buf).await else {
                            continue;
                        };
                        if sender != server {
                            *client.lock().unwrap() = Some(sender);
                        }
                        // What does not fit is lost.
                        let _ = queue.try_send((Box::pin(sleep(delay)), buf[..length].to_vec()));
                    }
                }
            });
            tasks.spawn({
                let (to, client) = (Arc::clone(to), Arc::clone(&client));
                let is_outward = Arc::ptr_eq(&to, &outside);
                async move {
                    while let Some((over, datagram)) = queued.recv().await {
                        over.await;
                        let client = *client.lock().unwrap();
                        if let Some(to_addr) = if is_outward { Some(server) } else { client } {
                            let _ = to.send_to(&datagram, to_addr).await;
                        }
                    }
                }
            });
        }
        Self {
            addr,
            _tasks: tasks,
        }
    }

    /// The address to dial instead of the server's.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

async fn bind(ip: Ipv4Addr) -> UdpSocket {
    UdpSocket::bind((ip, 0)).await.unwrap()
}
