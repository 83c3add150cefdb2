//! One node, until Ctrl-C. It greets each peer that it meets, and now and then speaks to everybody.

use std::{slice, time::Duration};

use libp2p::identity::Keypair;
use tokio::time::interval;

use crate::{
    args::Args,
    behaviour::Settings,
    event::Event,
    failure::Failure,
    metrics,
    node::{Node, interrupted},
    screen::{REFRESH, Screen},
    table::table,
};

/// A connection that no protocol needs is closed after this time. gossipsub needs those of its
/// mesh, and libp2p-rejoin those that it has dialled.
const IDLE: Duration = Duration::from_secs(60);

/// How often the node speaks to everybody, and looks for the record of another.
const BEAT: Duration = Duration::from_secs(10);

pub(crate) async fn run(port: u16, args: Args) -> Result<(), Failure> {
    let screen = Screen::new();
    let mut node = Node::new(Settings {
        name: format!("node {port}"),
        key: Keypair::generate_ed25519(),
        bootstrap: args.peers,
        limit: args.limit,
        file: args.file,
        mdns: args.mdns.unwrap_or(true),
        idle: IDLE,
    })?;
    node.listen(&format!("/ip4/0.0.0.0/udp/{port}/quic-v1"))?;
    screen.line(&format!("{} runs until Ctrl-C", node.name));
    if let Some(addr) = args.metrics {
        let addr = metrics::serve(&node.handle, addr).await?;
        screen.line(&format!("metrics at http://{addr}/metrics"));
    }
    tokio::select! {
        () = serve(&mut node, &screen) => {}
        () = interrupted() => {}
    }
    screen.clear();
    println!("closing {} connections", node.handle.connections().len());
    node.close().await;
    Ok(())
}

async fn serve(node: &mut Node, screen: &Screen) {
    let mut refresh = interval(REFRESH);
    let mut beat = interval(BEAT);
    beat.reset();
    let mut beats = 0;
    loop {
        let result = tokio::select! {
            event = node.next() => {
                screen.line(&event.line(&node.peers));
                match event {
                    Event::Met(peer_id) => {
                        // From now on the node finds this peer again, even if it is killed.
                        node.save();
                        node.request(&peer_id, format!("hello, this is {}", node.name));
                        let id = node.peer_id();
                        node.put(&node.name.clone(), format!("{} is {id}", node.name))
                    }
                    _ => Ok(()),
                }
            }
            _ = refresh.tick() => {
                screen.draw(|| table(slice::from_ref(node)));
                Ok(())
            }
            _ = beat.tick() => {
                beats += 1;
                if !screen.is_terminal() {
                    println!("{}", table(slice::from_ref(node)));
                }
                speak(node, beats)
            }
        };
        if let Err(failure) = result {
            screen.line(&failure.to_string());
        }
    }
}

/// Tells everybody how many are met, and looks for the record of one of them in turn.
fn speak(node: &mut Node, beats: usize) -> Result<(), Failure> {
    let names = node.peers.names_of_met();
    if names.is_empty() {
        return Ok(());
    }
    node.get(&names[beats % names.len()]);
    node.broadcast(&format!("{} knows {}", node.name, names.join(", ")))
}
