//! Dials and connections on difficult paths and hosts.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use libp2p_core::transport::ListenerId;
use libp2p_quinn::Transport;
use multiaddr::Multiaddr;
use tokio::{sync::oneshot, time::timeout};

use crate::support::{
    cables::{Near, at_near},
    node::{Peer, Quic, REUSE_PORT, port, until},
    streams::transfer_through_echo,
};

/// Longer than both transports' handshake and idle timeouts.
const PATIENCE: Duration = Duration::from_secs(30);

/// Prints what each transport does in each scene.
pub fn compare() -> Result<(), String> {
    on_each_path::<Transport>("ours")?;
    on_each_path::<libp2p_quic::tokio::Transport>("official")
}

fn on_each_path<T: Quic>(name: &'static str) -> Result<(), String> {
    let on = |what: &'static str, setup: fn(&Near) -> Multiaddr| {
        at_near(async move |near: Near| {
            let addr = setup(&near);
            let mut node = Peer::<T>::new();
            print(name, what, dial(&mut node, &addr)).await;
        })
    };
    on("nothing in the way", |near| near.far[0].clone())?;
    on("a router drops ECT(0)", |near| {
        near.nft_at_far(&dropping("ip ecn ect0"));
        near.far[0].clone()
    })?;
    on("no route", |_| {
        "/ip4/192.0.2.1/udp/9/quic-v1".parse().unwrap()
    })?;
    on("a firewall of this host", |near| {
        near.nft(&dropping("ip daddr 10.1.0.2").replace("hook input", "hook output"));
        near.far[0].clone()
    })?;
    on("no neighbour", |_| {
        "/ip4/10.1.0.99/udp/9/quic-v1".parse().unwrap()
    })?;
    on("an IPv4 address as IPv6", |near| {
        let port = port(&near.far[0]);
        format!("/ip6/::ffff:10.1.0.2/udp/{port}/quic-v1")
            .parse()
            .unwrap()
    })?;
    on("an interface with an MTU of 1200", |near| {
        near.run("ip link set a0 mtu 1200");
        near.far[0].clone()
    })?;
    at_near(async move |near: Near| {
        let mut node = Peer::<T>::new();
        let wildcard = "/ip4/0.0.0.0/udp/4001/quic-v1".parse().unwrap();
        let listening = node.transport.listen_on(ListenerId::next(), wildcard);
        assert!(listening.is_ok());
        let stale = "ip saddr 10.1.0.1 udp sport 4001";
        near.nft_at_far(&dropping(stale));
        for what in ["a stale mapping", "… again", "… a third time"] {
            print(name, what, dial(&mut node, &near.far[0])).await;
        }
    })?;
    at_near(async move |near: Near| {
        print(name, "another source", move_source::<T>(&near)).await;
    })
}

/// Transfers something before and after the kernel begins to prefer another source address.
async fn move_source<T: Quic>(near: &Near) -> Result<&'static str, String> {
    let (tell, told) = mpsc::sync_channel(1);
    let (over, is_over) = oneshot::channel::<()>();
    let far = near.spawn_at_far(async move || {
        let mut node = Peer::<T>::new();
        let _ = tell.send(node.listen_at("/ip4/10.1.0.2/udp/0/quic-v1").await.1);
        let _echo = node.spawn_echo();
        let _ = is_over.await;
    });
    let mut node = Peer::<T>::new();
    let (_, mut connection) = node
        .dial(&told.recv().unwrap())
        .await
        .unwrap_or_else(|error| {
            panic!("not dialled: {error}");
        });
    transfer_through_echo(&mut connection, 100_000).await;
    near.run("ip address add 10.1.0.7/32 dev a0");
    near.run("ip route replace 10.1.0.0/24 dev a0 src 10.1.0.7");
    let transfer = tokio::spawn(async move {
        transfer_through_echo(&mut connection, 100_000).await;
    });
    let transferred = timeout(PATIENCE, transfer).await;
    drop(over);
    until(|| far.is_finished()).await;
    match transferred {
        Ok(Ok(())) => Ok("goes on"),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it hangs".to_owned()),
    }
}

async fn dial<T: Quic>(node: &mut Peer<T>, addr: &Multiaddr) -> Result<&'static str, String> {
    let dial = match node.try_dial(addr, REUSE_PORT) {
        Ok(dial) => dial,
        Err(error) => return Err(error.to_string()),
    };
    match timeout(PATIENCE, dial).await {
        Ok(Ok(_)) => Ok("connected"),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it hangs".to_owned()),
    }
}

/// Prints how something has ended, and how long it took.
async fn print(
    name: &str,
    what: &str,
    observed: impl Future<Output = Result<&'static str, String>>,
) {
    let began = Instant::now();
    let end = observed.await.map_or_else(|error| error, str::to_owned);
    println!("{name}: {what}: {end} ({:?})", began.elapsed());
}

/// A ruleset that drops what matches when it arrives.
fn dropping(what: &str) -> String {
    format!(
        "table ip f {{
            chain i {{
                type filter hook input priority 0;
                {what} drop
            }}
        }}"
    )
}
