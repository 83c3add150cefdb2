//! The file to which the secrets of connections are written.

use std::{
    env,
    fmt::Write as _,
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::KeyLog;

use crate::sync::{Mutex, lock};

/// What a day of debugging needs. Peers decide how many handshakes there are, and must not be able
/// to fill the disk.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Appends secrets to a file, in the format of NSS, which Wireshark reads.
///
/// Unlike rustls' `KeyLogFile` it has a limit, takes any path, and reports what goes wrong.
#[derive(Debug)]
pub(crate) struct KeyLogFile {
    path: PathBuf,
    /// `None` once nothing more is written.
    file: Mutex<Option<Room>>,
}

#[derive(Debug)]
struct Room {
    file: File,
    /// How many more bytes may be written.
    bytes: u64,
}

impl KeyLogFile {
    /// The file that the environment variable `SSLKEYLOGFILE` names, if it names one that can be
    /// opened.
    pub(crate) fn of_environment() -> Option<Arc<dyn KeyLog>> {
        let path = env::var_os("SSLKEYLOGFILE").filter(|path| !path.is_empty())?;
        let path = Path::new(&path);
        let opened = Self::open(path);
        if let Err(error) = &opened {
            tracing::warn!(path = %path.display(), reason = %error, "no key log");
        }
        opened.ok()
    }

    /// What is in the file already counts towards the limit.
    pub(crate) fn open(path: &Path) -> io::Result<Arc<dyn KeyLog>> {
        Self::open_with(path, MAX_BYTES)
    }

    fn open_with(path: &Path, max_bytes: u64) -> io::Result<Arc<dyn KeyLog>> {
        let file = File::options().append(true).create(true).open(path)?;
        let bytes = max_bytes.saturating_sub(file.metadata()?.len());
        Ok(Arc::new(Self {
            path: path.to_owned(),
            file: Mutex::new(Some(Room { file, bytes })),
        }))
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        let mut place = lock(&self.file);
        let Some(room) = &mut *place else {
            return;
        };
        let left = room.bytes.checked_sub(line.len() as u64);
        let left = left.ok_or_else(|| io::ErrorKind::QuotaExceeded.into());
        // In one piece, because another process may append to the same file.
        match left.and_then(|left| room.file.write_all(line.as_bytes()).map(|()| left)) {
            Ok(left) => room.bytes = left,
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, reason = %error, "the key log ends");
                *place = None;
            }
        }
    }

    fn will_log(&self, _label: &str) -> bool {
        lock(&self.file).is_some()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use std::fs;

    use tracing::level_filters::LevelFilter;

    use super::*;
    use crate::trace::collected::Traced;

    const LINE: &str = "LABEL 0aff 10\n";

    #[test]
    fn lines_are_appended_until_there_is_no_room_for_another() {
        let path = env::temp_dir().join(format!("libp2p-quinn-{}-keys", std::process::id()));
        fs::write(&path, "there\n").unwrap();
        let traced = Traced::up_to(LevelFilter::WARN);
        let log = KeyLogFile::open_with(&path, 6 + 2 * LINE.len() as u64 + 1).unwrap();
        for left in [true, true, false] {
            log.log("LABEL", &[10, 255], &[16]);
            assert_eq!(log.will_log("LABEL"), left);
        }
        let ends = traced.events("the key log ends");
        assert_eq!(ends.len(), 1);
        assert_eq!(ends[0].field("path"), path.display().to_string());
        assert!(!ends[0].field("reason").is_empty());
        let found = fs::read_to_string(&path).unwrap();
        assert_eq!(found, format!("there\n{LINE}{LINE}"));
        fs::remove_file(&path).unwrap();
        assert!(KeyLogFile::open(&path.join("below")).is_err());
    }
}
