//! The transport without a Swarm: what is refused, and what reaches libp2p-quinn.

use std::{error::Error, future::poll_fn, pin::Pin, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{
    Multiaddr, PeerId,
    core::{
        Endpoint, StreamMuxer, Transport as _,
        transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
    },
    multiaddr::Protocol,
};
use libp2p_quinn_056::{
    Connecting, Connection, Transport,
    libp2p_quinn::{self, Config, DialError},
    newer,
};

#[tokio::test]
async fn an_address_for_another_transport_is_given_back() -> Result<(), Box<dyn Error>> {
    let mut transport = transport();
    let addr: Multiaddr = "/ip4/127.0.0.1/tcp/4001/ws".parse()?;
    let refused = transport.listen_on(ListenerId::next(), addr.clone());
    let Err(TransportError::MultiaddrNotSupported(returned)) = refused else {
        panic!("it listens");
    };
    assert_eq!(returned, addr);
    let refused = transport.dial(addr.clone(), options(Endpoint::Dialer, PortUse::Reuse));
    let Err(TransportError::MultiaddrNotSupported(returned)) = refused else {
        panic!("it dials");
    };
    assert_eq!(returned, addr);
    assert!(!transport.remove_listener(ListenerId::next()));
    Ok(())
}

#[tokio::test]
async fn the_role_of_a_dial_is_passed_on() -> Result<(), Box<dyn Error>> {
    let addr = "/ip4/127.0.0.1/udp/4001/quic-v1".parse::<Multiaddr>()?;
    let addr = addr.with(Protocol::P2p(PeerId::random()));
    // It punches a hole, which needs a listener.
    let refused = transport().dial(addr.clone(), options(Endpoint::Listener, PortUse::Reuse));
    assert!(matches!(
        refused,
        Err(TransportError::Other(libp2p_quinn::Error::Dial(
            DialError::NoListener
        )))
    ));
    assert!(
        transport()
            .dial(addr, options(Endpoint::Dialer, PortUse::Reuse))
            .is_ok()
    );
    Ok(())
}

#[tokio::test]
async fn a_dial_leaves_from_the_port_that_it_asks_for() -> Result<(), Box<dyn Error>> {
    let mut listener = transport();
    let addr = listen(&mut listener).await?;
    let mut dialer = transport();
    let own_addr = listen(&mut dialer).await?;
    for (port_use, is_own) in [(PortUse::Reuse, true), (PortUse::New, false)] {
        let dial = dialer.dial(addr.clone(), options(Endpoint::Dialer, port_use))?;
        let (_, incoming) = connect(&mut listener, dial).await?;
        let remote_addr = incoming.get_ref().remote_address().to_string();
        assert_eq!(port(&remote_addr) == port(&own_addr.to_string()), is_own);
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_carries_what_is_written_and_ends() -> Result<(), Box<dyn Error>> {
    let mut listener = transport();
    let addr = listen(&mut listener).await?;
    let mut dialer = transport();
    let dial = dialer.dial(addr, options(Endpoint::Dialer, PortUse::New))?;
    let (mut outgoing, mut incoming) = connect(&mut listener, dial).await?;

    let echo = tokio::spawn(async move {
        let inbound = poll_fn(|cx| Pin::new(&mut incoming).poll_inbound(cx));
        let (mut reader, mut writer) = inbound.await?.split();
        futures::io::copy(&mut reader, &mut writer).await?;
        writer.close().await?;
        let end = poll_fn(|cx| Pin::new(&mut incoming).poll(cx)).await;
        Ok::<_, Box<dyn Error + Send + Sync>>(end.map(drop))
    });
    let stream = poll_fn(|cx| Pin::new(&mut outgoing).poll_outbound(cx)).await?;
    let (mut reader, mut writer) = stream.split();
    let sent: Vec<u8> = (0..1 << 20).map(|index: u32| (index % 251) as u8).collect();
    let mut received = Vec::new();
    let write = async {
        writer.write_all(&sent).await?;
        writer.close().await
    };
    futures::try_join!(write, reader.read_to_end(&mut received))?;
    assert!(received == sent);

    outgoing.get_ref().close_with(7, "done");
    let end = echo.await?.map_err(|error| error.to_string())?;
    let Err(libp2p_quinn::ConnectionError::ClosedByPeer { code, .. }) = end else {
        panic!("{end:?}");
    };
    assert_eq!(code, 7);
    Ok(())
}

fn transport() -> Transport {
    Transport::new(Config::new(&newer::Keypair::generate_ed25519()))
}

fn options(role: Endpoint, port_use: PortUse) -> DialOpts {
    DialOpts { role, port_use }
}

/// The fourth part of `/ip4/…/udp/…`.
fn port(addr: &str) -> Option<&str> {
    addr.split('/').nth(4)
}

async fn next(transport: &mut Transport) -> TransportEvent<Connecting, libp2p_quinn::Error> {
    let event = poll_fn(|cx| Pin::new(&mut *transport).poll(cx));
    let event = tokio::time::timeout(Duration::from_secs(30), event);
    event.await.expect("an event")
}

async fn listen(transport: &mut Transport) -> Result<Multiaddr, Box<dyn Error>> {
    let id = ListenerId::next();
    transport.listen_on(id, "/ip4/127.0.0.1/udp/0/quic-v1".parse()?)?;
    match next(transport).await {
        TransportEvent::NewAddress {
            listener_id,
            listen_addr,
        } => {
            assert_eq!(listener_id, id);
            Ok(listen_addr)
        }
        event => panic!("{event:?}"),
    }
}

/// Completes the handshake on both sides, and returns the dialer's connection first.
async fn connect(
    listener: &mut Transport,
    dial: Connecting,
) -> Result<(Connection, Connection), Box<dyn Error>> {
    let accept = async {
        match next(listener).await {
            TransportEvent::Incoming { upgrade, .. } => upgrade.await,
            event => panic!("{event:?}"),
        }
    };
    let ((_, outgoing), (_, incoming)) = futures::try_join!(dial, accept)?;
    Ok((outgoing, incoming))
}
