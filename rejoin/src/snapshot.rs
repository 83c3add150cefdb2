//! The remembered peers outside of a behaviour, and their format.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::{
    address::acceptable,
    book::MAX_ADDRESSES,
    error::{LoadError, ParseError, SaveError},
};

/// The version of the format, of which readers know no later one.
const VERSION: u64 = 1;

/// The largest text that is read or written: 1 MiB, some thousand peers. A larger one is not
/// parsed, and peers that do not fit are not written.
const MAX_BYTES: usize = 1 << 20;

/// The peers that a [`Behaviour`](crate::Behaviour) remembers at one time, the ones reached most
/// recently first.
///
/// Its text is JSON:
///
/// ```json
/// {"version":1,"peers":[
/// {"id":"12D3KooW…","addresses":["/ip4/192.0.2.7/udp/4001/quic-v1"],"last_seen":1767225600,"failures":0}
/// ]}
/// ```
///
/// `last_seen` is in seconds since 1970. Unknown fields are ignored, and so are peers and addresses
/// that cannot be read, such as addresses of a later libp2p.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    peers: Vec<RememberedPeer>,
}

/// A peer in a [`Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RememberedPeer {
    peer_id: PeerId,
    addresses: Vec<Multiaddr>,
    last_seen: u64,
    failures: u8,
}

impl Snapshot {
    pub(crate) fn new(peers: Vec<RememberedPeer>) -> Self {
        Self { peers }
    }

    /// The peers, the one reached most recently first.
    pub fn peers(&self) -> &[RememberedPeer] {
        &self.peers
    }

    /// The text of the snapshot, of at most 1 MiB. The peers reached least recently are left out if
    /// it would be longer.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = format!(r#"{{"version":{VERSION},"peers":["#).into_bytes();
        let end = b"\n]}\n";
        for (index, peer) in self.peers.iter().enumerate() {
            let separator: &[u8] = if index == 0 { b"\n" } else { b",\n" };
            let peer = peer.to_json();
            if text.len() + separator.len() + peer.len() + end.len() > MAX_BYTES {
                break;
            }
            text.extend(separator);
            text.extend(peer);
        }
        text.extend(end);
        text
    }

    /// Reads the text of a snapshot.
    ///
    /// # Errors
    ///
    /// [`ParseError::TooLarge`] if it has more than 1 MiB, [`ParseError::Version`] if a later
    /// version has written it, [`ParseError::Malformed`] if it is no snapshot or not a whole one.
    pub fn from_json(text: &[u8]) -> Result<Self, ParseError> {
        if text.len() > MAX_BYTES {
            return Err(ParseError::TooLarge {
                max_bytes: MAX_BYTES,
            });
        }
        let Head { version } = serde_json::from_slice(text).map_err(malformed)?;
        if version != VERSION {
            return Err(ParseError::Version(version));
        }
        let Body { peers } = serde_json::from_slice(text).map_err(malformed)?;
        Ok(Self::new(
            peers
                .into_iter()
                .filter_map(RememberedPeer::from_raw)
                .collect(),
        ))
    }

    /// Reads the file at `path`. Blocks on the disk, so it does not belong into an async task; the
    /// [file of the configuration](crate::Config::with_file) is read by a thread.
    ///
    /// # Errors
    ///
    /// [`LoadError::Read`] if it cannot be read, also if there is none; [`LoadError::Parse`] as
    /// [`Snapshot::from_json`] does. No more than 1 MiB is read.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let mut text = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut text))
            .map_err(LoadError::Read)?;
        Ok(Self::from_json(&text)?)
    }

    /// Replaces the file at `path`. Blocks on the disk, so it does not belong into an async task;
    /// it suits the end of a program, when the Swarm is gone.
    ///
    /// A new file is written in the same directory and takes the place of the old one when it is on
    /// the disk, so that the file is never half written. Only its owner may read it: it tells which
    /// peers this node knows. A symbolic link at `path` is replaced, not followed.
    ///
    /// # Errors
    ///
    /// [`SaveError::Write`] if the directory does not exist or cannot be written. The old file is
    /// then as it was, or set aside.
    pub fn save(&self, path: &Path) -> Result<(), SaveError> {
        self.replace(path).map_err(SaveError::Write)
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        let directory = directory_of(path);
        let mut file = NamedTempFile::with_prefix_in(prefix_of(path), directory)?;
        file.write_all(&self.to_json())?;
        file.as_file().sync_all()?;
        // Read now, because another process may have written a list since this one has looked.
        if let Err(LoadError::Parse(_)) = Self::load(path) {
            set_aside(path)?;
        }
        file.persist(path)?;
        // Without it, a power failure may bring the old file back, which is whole as well. Not all
        // file systems can do it.
        #[cfg(unix)]
        let _ = File::open(directory).and_then(|directory| directory.sync_all());
        Ok(())
    }
}

/// Keeps what is in the file under another name: somebody may mend it, or go back to the version
/// that has written it.
fn set_aside(path: &Path) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".unusable");
    match fs::hard_link(path, &aside) {
        // Another process has set it aside, and may have replaced it.
        Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {
            Ok(())
        }
        // Not all file systems have links.
        Err(_) => fs::rename(path, aside),
        Ok(()) => Ok(()),
    }
}

/// Removes the new files of writers that have crashed before they replaced the file at `path`.
///
/// Those of the last hour stay: another process may be writing one. A clock that is wrong may keep
/// them longer, or make a writer try again.
pub(crate) fn remove_leftovers(path: &Path, unix_seconds: u64) {
    const WRITTEN_BY_THEN: Duration = Duration::from_secs(60 * 60);

    let Ok(entries) = fs::read_dir(directory_of(path)) else {
        return;
    };
    let prefix = prefix_of(path);
    let newest = UNIX_EPOCH + Duration::from_secs(unix_seconds).saturating_sub(WRITTEN_BY_THEN);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_ours = name
            .as_encoded_bytes()
            .strip_prefix(prefix.as_encoded_bytes())
            .is_some_and(|random| random.len() == RANDOM);
        let is_old = || {
            let metadata = entry.metadata().ok()?;
            Some(metadata.is_file() && metadata.modified().ok()? < newest)
        };
        if is_ours && is_old() == Some(true) {
            // The next start tries again.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The bytes that `tempfile` adds to a prefix. They tell the files of `peers` from those of
/// `peers-2`.
const RANDOM: usize = 6;

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// How the names of the new files begin that take the place of the one at `path`.
fn prefix_of(path: &Path) -> OsString {
    let mut prefix = OsString::from(".libp2p-rejoin-");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push("-");
    prefix
}

impl RememberedPeer {
    pub(crate) fn new(
        peer_id: PeerId,
        addresses: Vec<Multiaddr>,
        last_seen: u64,
        failures: u8,
    ) -> Self {
        Self {
            peer_id,
            addresses,
            last_seen,
            failures,
        }
    }

    /// Who it is.
    pub fn peer_id(&self) -> &PeerId {
        &self.peer_id
    }

    /// Where it was reached, without `/p2p/…`, the latest first.
    pub fn addresses(&self) -> &[Multiaddr] {
        &self.addresses
    }

    /// When it was last known to be alive, as the time since 1970 by the clock of this host. The
    /// clock may have been wrong; nothing is decided by it.
    pub fn last_seen(&self) -> Duration {
        Duration::from_secs(self.last_seen)
    }

    /// How often in a row it could not be reached.
    pub fn failures(&self) -> u8 {
        self.failures
    }

    fn to_json(&self) -> Vec<u8> {
        let raw = RawPeer {
            id: self.peer_id.to_base58(),
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            last_seen: self.last_seen,
            failures: self.failures.into(),
        };
        serde_json::to_vec(&raw).expect("strings and numbers have a text")
    }

    fn from_raw(raw: RawPeer) -> Option<Self> {
        let mut addresses = Vec::new();
        for address in raw
            .addresses
            .iter()
            .filter_map(|text| acceptable(&text.parse().ok()?))
        {
            if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let failures = raw.failures.try_into().unwrap_or(u8::MAX);
        (!addresses.is_empty()).then_some(Self::new(
            raw.id.parse().ok()?,
            addresses,
            raw.last_seen,
            failures,
        ))
    }
}

#[derive(Deserialize)]
struct Head {
    version: u64,
}

#[derive(Deserialize)]
struct Body {
    peers: Vec<RawPeer>,
}

#[derive(Serialize, Deserialize)]
struct RawPeer {
    id: String,
    addresses: Vec<String>,
    #[serde(default)]
    last_seen: u64,
    #[serde(default)]
    failures: u64,
}

fn malformed(cause: serde_json::Error) -> ParseError {
    ParseError::Malformed(cause.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(peers: usize) -> Snapshot {
        let peer = |port| {
            let address = format!("/ip4/192.0.2.1/udp/{port}/quic-v1")
                .parse()
                .unwrap();
            RememberedPeer::new(PeerId::random(), vec![address], 1_767_225_600, 1)
        };
        Snapshot::new((1..=peers).map(peer).collect())
    }

    #[test]
    fn a_text_gives_back_its_snapshot() {
        for peers in [0, 1, 200] {
            let snapshot = snapshot(peers);
            assert_eq!(Snapshot::from_json(&snapshot.to_json()).unwrap(), snapshot);
        }
    }

    #[test]
    fn what_a_crashed_writer_has_left_is_removed_after_an_hour() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let leave = |name: &str| {
            let file = NamedTempFile::with_prefix_in(prefix_of(&path(name)), directory.path());
            file.unwrap().keep().unwrap().1
        };
        let [left, other, longer] = ["peers", "friends", "peers-2"].map(leave);
        let now = crate::clock::unix_seconds();
        remove_leftovers(&path("peers"), now);
        assert!(left.exists(), "its writer may still be there");
        remove_leftovers(&path("peers"), now + 2 * 60 * 60);
        assert!(!left.exists() && other.exists() && longer.exists());
    }

    #[test]
    fn a_text_that_was_cut_anywhere_is_malformed() {
        let text = snapshot(3).to_json();
        for length in 0..text.len() - 1 {
            let error = Snapshot::from_json(&text[..length]).unwrap_err();
            assert!(
                matches!(error, ParseError::Malformed(_)),
                "{length}: {error:?}"
            );
        }
    }

    #[test]
    fn garbage_deep_nesting_and_other_types_are_malformed() {
        let deep = "[".repeat(MAX_BYTES);
        let typed = r#"{"version":1,"peers":[{"id":7,"addresses":[]}]}"#;
        for text in [
            "\0\u{1}\u{2}",
            "null",
            "{}",
            r#"{"version":-1}"#,
            &deep,
            typed,
        ] {
            let error = Snapshot::from_json(text.as_bytes()).unwrap_err();
            assert!(matches!(error, ParseError::Malformed(_)), "{error:?}");
        }
    }

    #[test]
    fn a_later_version_is_told_from_garbage() {
        let text = br#"{"version":2,"peers":"unlike version 1"}"#;
        let error = Snapshot::from_json(text).unwrap_err();
        assert!(matches!(error, ParseError::Version(2)), "{error:?}");
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let peer = PeerId::random();
        let relay = PeerId::random();
        let text = format!(
            r#"{{"version":1,"later":[],"peers":[
            {{"id":"nobody","addresses":["/memory/1"]}},
            {{"id":"{relay}","addresses":["/later/1","/memory/1/p2p/{relay}/p2p-circuit",""]}},
            {{"id":"{peer}","addresses":["/later/1","/memory/1/p2p/{peer}"],"failures":300}}]}}"#
        );
        let snapshot = Snapshot::from_json(text.as_bytes()).unwrap();
        let address = "/memory/1".parse().unwrap();
        assert_eq!(
            snapshot.peers(),
            [RememberedPeer::new(peer, vec![address], 0, u8::MAX)]
        );
    }

    #[test]
    fn few_of_many_addresses_are_read_and_each_once() {
        let peer = PeerId::random();
        let many: Vec<_> = (2..10_000)
            .map(|port| format!("\"/memory/{}\"", port / 2))
            .collect();
        let many = many.join(",");
        let text = format!(r#"{{"version":1,"peers":[{{"id":"{peer}","addresses":[{many}]}}]}}"#);
        let snapshot = Snapshot::from_json(text.as_bytes()).unwrap();
        let addresses = [1, 2, 3, 4].map(|port| format!("/memory/{port}").parse().unwrap());
        assert_eq!(snapshot.peers()[0].addresses(), addresses);
    }

    #[test]
    fn the_text_is_never_longer_than_what_is_read() {
        let snapshot = snapshot(20_000);
        let text = snapshot.to_json();
        assert!(text.len() <= MAX_BYTES && text.len() > MAX_BYTES - 1000);
        let read = Snapshot::from_json(&text).unwrap();
        assert_eq!(read.peers(), &snapshot.peers()[..read.peers().len()]);

        let mut longer = text;
        longer.resize(MAX_BYTES + 1, b' ');
        let error = Snapshot::from_json(&longer).unwrap_err();
        assert!(
            matches!(
                error,
                ParseError::TooLarge {
                    max_bytes: MAX_BYTES
                }
            ),
            "{error:?}"
        );
    }
}
