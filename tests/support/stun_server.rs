//! A STUN server: coturn, as packaged in Debian.

use std::{
    net::{SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use harness::scene::{Place, Scene};

use super::visit::run_at;

/// coturn with one or more IP addresses. Dropping it ends the server.
pub(crate) struct StunServer {
    process: Child,
    ips: Vec<String>,
    port: u16,
}

impl StunServer {
    /// Starts it on this host, or returns why that is not possible.
    pub(crate) fn start(ips: &[&str]) -> Result<Self, String> {
        let port = free_port(ips[0]);
        let process = spawn(&[], ips, port)?;
        let mut server = Self::new(process, ips, port);
        let addr = server.addrs()[0];
        server.wait_until_it_answers(move || answers(addr))?;
        Ok(server)
    }

    /// Starts it at a place.
    pub(crate) fn start_at(scene: &Scene, place: Place, ips: &[&str]) -> Result<Self, String> {
        let process = spawn(&scene.enter(place), ips, USUAL_PORT)?;
        let mut server = Self::new(process, ips, USUAL_PORT);
        let addr = server.addrs()[0];
        server.wait_until_it_answers(|| {
            run_at(scene, place, move || answers(addr)).unwrap_or_default()
        })?;
        Ok(server)
    }

    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        let addr = |ip: &String| SocketAddr::new(ip.parse().unwrap(), self.port);
        self.ips.iter().map(addr).collect()
    }

    fn new(process: Child, ips: &[&str], port: u16) -> Self {
        Self {
            process,
            ips: ips.iter().map(|&ip| ip.to_owned()).collect(),
            port,
        }
    }

    fn wait_until_it_answers(&mut self, answers: impl Fn() -> bool) -> Result<(), String> {
        for _ in 0..ATTEMPTS {
            if answers() {
                return Ok(());
            }
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(format!("turnserver has ended: {status}"));
            }
        }
        Err("turnserver does not answer".to_owned())
    }
}

impl Drop for StunServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Only with STUN over UDP: no configuration file, no relaying, no console. With `--no-rfc5780` it
/// names no other address of its own (OTHER-ADDRESS), which the client does not need: it asks
/// several servers.
fn spawn(enter: &[String], ips: &[&str], port: u16) -> Result<Child, String> {
    let mut words = enter.to_vec();
    words.extend(
        [
            "turnserver",
            "-n",
            "--stun-only",
            "--no-rfc5780",
            "--no-tcp",
            "--no-tls",
            "--no-dtls",
            "--no-cli",
            "--simple-log",
            "--log-file=/dev/null",
            "--no-stdout-log",
            "--pidfile=/dev/null",
        ]
        .map(str::to_owned),
    );
    words.push(format!("--listening-port={port}"));
    words.extend(ips.iter().map(|ip| format!("--listening-ip={ip}")));
    Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{}: {error}", words[0]))
}

/// Whether a Binding request (RFC 8489 §5) is answered.
fn answers(addr: SocketAddr) -> bool {
    let request = [
        0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
    ];
    let asked = || {
        let socket = UdpSocket::bind((addr.ip(), 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(addr)?;
        socket.send(&request)?;
        socket.recv(&mut [0; 512])
    };
    // The port is closed until it listens, which ICMP reports at once.
    asked().is_ok_and(|len| len > request.len()) || {
        thread::sleep(LOOK_EVERY);
        false
    }
}

/// A port that is free now. coturn cannot use a socket that is already open.
fn free_port(ip: &str) -> u16 {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.local_addr().unwrap().port()
}

const USUAL_PORT: u16 = 3478;

/// Ten seconds, for a busy machine.
const ATTEMPTS: u32 = 200;
const LOOK_EVERY: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_millis(500);
