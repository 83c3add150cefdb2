//! Files of records that a thread writes, and how much of them.
//!
//! Nobody who makes a record waits for the disk: a record for which there is no room is dropped and
//! counted.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    mem,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

/// How much is written. Peers decide how many files and records there are, and must not be able to
/// fill the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLimits {
    /// The most files, and the most bytes in all of them.
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// The most bytes in one of them.
    pub(crate) file_bytes: u64,
    /// The most records that wait for the thread.
    pub(crate) waiting: usize,
}

/// Files in one directory. A thread writes them until the last clone and the last [`LogWriter`] are
/// gone.
#[derive(Clone, Debug)]
pub(crate) struct LogFiles {
    directory: Arc<Path>,
    records: SyncSender<Record>,
    drops: Arc<Drops>,
}

/// Writes records to one file. A record ends with a line feed.
pub(crate) struct LogWriter {
    file: Arc<LogFile>,
    /// The record that is not complete yet.
    record: Vec<u8>,
    records: SyncSender<Record>,
    drops: Arc<Drops>,
}

#[derive(Debug)]
struct Record {
    file: Arc<LogFile>,
    contents: Vec<u8>,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    /// What is in it. Only the thread uses it.
    bytes: AtomicU64,
    /// Whether nothing more is written to it.
    is_over: AtomicBool,
}

/// What is not written.
#[derive(Debug, Default)]
struct Drops {
    records: AtomicU64,
    /// Whether there is no room for another file.
    is_full: AtomicBool,
}

impl LogFiles {
    /// Makes the directory if there is none, and starts the thread. Files with this extension that
    /// are there already count towards the limits, so that no restart exceeds them.
    pub(crate) fn begin(directory: &Path, extension: &str, limits: LogLimits) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let (files, bytes) = count_files(directory, extension)?;
        let (records, received) = sync_channel(limits.waiting);
        let drops: Arc<Drops> = Arc::default();
        let thread = Thread {
            limits,
            files,
            bytes,
            has_warned: false,
            drops: Arc::clone(&drops),
        };
        let builder = thread::Builder::new().name("log-files".to_owned());
        builder.spawn(move || thread.run(&received))?;
        Ok(Self {
            directory: directory.into(),
            records,
            drops,
        })
    }

    /// A writer to the file with this name. The thread makes the file with the first record, unless
    /// there is one already. Returns `None`, and counts one dropped record, if there is no room for
    /// another file.
    pub(crate) fn writer(&self, name: &str) -> Option<LogWriter> {
        if self.drops.is_full.load(Ordering::Relaxed) {
            self.drops.add(1);
            return None;
        }
        Some(LogWriter {
            file: Arc::new(LogFile {
                path: self.directory.join(name),
                bytes: AtomicU64::new(0),
                is_over: AtomicBool::new(false),
            }),
            record: Vec::new(),
            records: self.records.clone(),
            drops: Arc::clone(&self.drops),
        })
    }

    /// The number of records that were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.drops.records.load(Ordering::Relaxed)
    }

    pub(crate) fn reset_dropped(&self) {
        self.drops.records.store(0, Ordering::Relaxed);
    }
}

impl Write for LogWriter {
    /// Never fails: an error would be reported for every record.
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.record.extend_from_slice(part);
        if self.record.last() == Some(&b'\n') {
            let record = Record {
                file: Arc::clone(&self.file),
                contents: mem::take(&mut self.record),
            };
            let is_over = self.file.is_over.load(Ordering::Relaxed);
            if is_over || self.records.try_send(record).is_err() {
                self.drops.add(1);
            }
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drops {
    fn add(&self, records: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
    }
}

/// Writes the files.
struct Thread {
    limits: LogLimits,
    files: u64,
    bytes: u64,
    has_warned: bool,
    drops: Arc<Drops>,
}

impl Thread {
    fn run(mut self, received: &Receiver<Record>) {
        while let Ok(first) = received.recv() {
            let rest = received.try_iter().take(self.limits.waiting);
            let mut records: Vec<_> = [first].into_iter().chain(rest).collect();
            // The order of the records of each file stays.
            records.sort_by_key(|record| Arc::as_ptr(&record.file));
            for records in records.chunk_by(|one, next| Arc::ptr_eq(&one.file, &next.file)) {
                self.write(records);
            }
        }
    }

    /// Writes records of one file as far as there is room.
    fn write(&mut self, records: &[Record]) {
        let file = &records[0].file;
        if file.is_over.load(Ordering::Relaxed) {
            self.drops.add(records.len() as u64);
            return;
        }
        let fitting = self.fitting(file, records);
        let appended = self.append(file, &records[..fitting]);
        let written = if appended.is_ok() { fitting } else { 0 };
        if written < records.len() {
            file.is_over.store(true, Ordering::Relaxed);
            self.drops.add((records.len() - written) as u64);
            let error = appended.err();
            let error = error.unwrap_or_else(|| io::ErrorKind::QuotaExceeded.into());
            self.report(&file.path, &error);
        }
    }

    /// The number of records for which there is room, from the first on.
    fn fitting(&self, file: &LogFile, records: &[Record]) -> usize {
        let before = file.bytes.load(Ordering::Relaxed);
        if before == 0 && self.files >= self.limits.files {
            self.drops.is_full.store(true, Ordering::Relaxed);
            return 0;
        }
        let in_all = self.limits.bytes.saturating_sub(self.bytes);
        let in_file = self.limits.file_bytes.saturating_sub(before);
        let ends = records.iter().scan(0, |end, record| {
            *end += record.contents.len() as u64;
            Some(*end)
        });
        let fitting = ends.clone().take_while(|end| *end <= in_all.min(in_file));
        if ends.last().is_some_and(|end| end > in_all) {
            self.drops.is_full.store(true, Ordering::Relaxed);
        }
        fitting.count()
    }

    /// Appends records to their file. It is opened for that each time, because there may be more
    /// files than a process may have open.
    fn append(&mut self, file: &LogFile, records: &[Record]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let contents: Vec<_> = records.iter().map(|record| &record.contents[..]).collect();
        let contents = contents.concat();
        let more = contents.len() as u64;
        let before = file.bytes.load(Ordering::Relaxed);
        let is_new = before == 0;
        let mut options = File::options();
        // What is there already is neither replaced nor mixed with something else.
        let mut opened = options.append(true).create_new(is_new).open(&file.path)?;
        self.files += u64::from(is_new);
        self.bytes += more;
        file.bytes.store(before + more, Ordering::Relaxed);
        opened.write_all(&contents)
    }

    /// Warns once, because peers can cause more.
    fn report(&mut self, path: &Path, error: &io::Error) {
        let path = path.display();
        if mem::replace(&mut self.has_warned, true) {
            tracing::debug!(%path, reason = %error, "a log file ends early");
        } else {
            tracing::warn!(%path, reason = %error, "a log file ends early; this is said once");
        }
    }
}

/// The number of files with this extension in a directory, and of the bytes in them.
fn count_files(directory: &Path, extension: &str) -> io::Result<(u64, u64)> {
    let mut counted = (0, 0);
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.path().extension() == Some(OsStr::new(extension)) {
            counted.0 += 1;
            counted.1 += entry.metadata()?.len();
        }
    }
    Ok(counted)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use std::time::Duration;

    use tracing::{Level, level_filters::LevelFilter};

    use super::*;
    use crate::trace::collected::Traced;

    const ROOMY: LogLimits = LogLimits {
        files: 100,
        bytes: 1_000_000,
        file_bytes: 1_000_000,
        waiting: 1000,
    };

    const RECORD: &[u8] = b"nine bytes\n";

    #[test]
    fn records_arrive_whole_and_in_their_order() {
        let (directory, files) = files("order", ROOMY);
        let mut writers = ["a", "b"].map(|name| files.writer(name).unwrap());
        for number in 0..100 {
            for writer in &mut writers {
                write!(writer, "{number}").unwrap();
                writer.write_all(b"\n").unwrap();
            }
        }
        writers[0].write_all(b"not complete").unwrap();
        let expected: String = (0..100).map(|number| format!("{number}\n")).collect();
        for name in ["a", "b"] {
            let path = directory.join(name);
            until(|| fs::read_to_string(&path).is_ok_and(|found| found == expected));
        }
        assert_eq!(files.dropped(), 0);
    }

    #[test]
    fn so_many_bytes_are_written_to_one_file() {
        let (directory, files) = files(
            "file",
            LogLimits {
                file_bytes: 3 * RECORD.len() as u64,
                ..ROOMY
            },
        );
        let (mut first, mut second) = (files.writer("a").unwrap(), files.writer("b").unwrap());
        fill(&files, &mut first);
        let path = directory.join("a");
        until(|| fs::read(&path).is_ok_and(|found| found == RECORD.repeat(3)));
        second.write_all(RECORD).unwrap();
        until(|| fs::read(directory.join("b")).is_ok_and(|found| found == RECORD));
    }

    #[test]
    fn so_many_bytes_are_written_in_all() {
        let (directory, files) = files(
            "bytes",
            LogLimits {
                bytes: 5 * RECORD.len() as u64,
                ..ROOMY
            },
        );
        begin_files(&files);
        assert!(files.dropped() > 0);
        until(|| written(&directory) == (5, 5 * RECORD.len()));
    }

    #[test]
    fn so_many_files_are_made() {
        let (directory, files) = files("files", LogLimits { files: 3, ..ROOMY });
        let mut first = files.writer("first").unwrap();
        first.write_all(RECORD).unwrap();
        // Files that begin at the same time begin in any order.
        until(|| written(&directory) == (1, RECORD.len()));
        begin_files(&files);
        // What has begun goes on.
        first.write_all(RECORD).unwrap();
        until(|| written(&directory) == (3, 4 * RECORD.len()));
        let before = files.dropped();
        assert!(files.writer("another").is_none());
        assert_eq!(files.dropped(), before + 1);
    }

    #[test]
    fn files_of_an_earlier_start_count() {
        let limits = LogLimits {
            files: 3,
            bytes: 4 * RECORD.len() as u64,
            ..ROOMY
        };
        let (directory, files) = files("again", limits);
        for name in ["a.log", "b.log", "ours.txt"] {
            let mut writer = files.writer(name).unwrap();
            writer.write_all(RECORD).unwrap();
            let path = directory.join(name);
            until(|| fs::read(&path).is_ok_and(|found| found == RECORD));
        }
        assert!(files.writer("d.log").is_some());
        let files = LogFiles::begin(&directory, "log", limits).unwrap();
        let mut writer = files.writer("c.log").unwrap();
        for _ in 0..3 {
            writer.write_all(RECORD).unwrap();
        }
        // Of four records in three files, two records in two files were there.
        until(|| files.dropped() > 0);
        until(|| written(&directory) == (4, 5 * RECORD.len()));
        assert!(files.writer("d.log").is_none());
    }

    #[test]
    fn what_finds_no_room_to_wait_is_dropped() {
        let (records, received) = sync_channel(2);
        let drops: Arc<Drops> = Arc::default();
        let files = LogFiles {
            directory: Path::new("nowhere").into(),
            records,
            drops,
        };
        let mut writer = files.writer("a").unwrap();
        for _ in 0..5 {
            writer.write_all(RECORD).unwrap();
        }
        assert_eq!(files.dropped(), 3);
        assert_eq!(received.try_iter().count(), 2);
        files.reset_dropped();
        assert_eq!(files.dropped(), 0);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_harms_nobody() {
        let (directory, files) = files("gone", ROOMY);
        fs::write(directory.join("taken"), "something else").unwrap();
        let mut taken = files.writer("taken").unwrap();
        fill(&files, &mut taken);
        let found = fs::read_to_string(directory.join("taken")).unwrap();
        assert_eq!(found, "something else");

        let mut removed = files.writer("removed").unwrap();
        fs::remove_dir_all(&directory).unwrap();
        fill(&files, &mut removed);
        fs::write(&directory, "a file").unwrap();
        assert!(LogFiles::begin(&directory, "log", ROOMY).is_err());
    }

    #[test]
    fn one_warning_tells_of_files_that_end_early() {
        let traced = Traced::up_to(LevelFilter::DEBUG);
        let mut thread = Thread {
            limits: ROOMY,
            files: 0,
            bytes: 0,
            has_warned: false,
            drops: Arc::default(),
        };
        for name in ["a", "b", "c"] {
            let file = Arc::new(LogFile {
                path: Path::new("/nowhere/at/all").join(name),
                bytes: AtomicU64::new(0),
                is_over: AtomicBool::new(false),
            });
            let contents = RECORD.to_vec();
            thread.write(&[Record { file, contents }]);
        }
        let told = traced.all_events();
        let levels: Vec<_> = told.iter().map(|event| event.level).collect();
        assert_eq!(levels, [Level::WARN, Level::DEBUG, Level::DEBUG]);
        for (event, name) in told.iter().zip(["a", "b", "c"]) {
            assert!(event.message().starts_with("a log file ends early"));
            assert_eq!(event.field("path"), format!("/nowhere/at/all/{name}"));
            assert!(!event.field("reason").is_empty());
        }
    }

    /// Writes a record to one file after another until there is no room for one more.
    fn begin_files(files: &LogFiles) {
        let mut names = (0..).map(|number: u32| number.to_string());
        until(|| {
            let writer = files.writer(&names.next().unwrap());
            writer.is_none_or(|mut writer| writer.write_all(RECORD).is_err())
        });
    }

    /// Writes until a record is dropped.
    fn fill(files: &LogFiles, writer: &mut LogWriter) {
        files.reset_dropped();
        until(|| {
            writer.write_all(RECORD).unwrap();
            files.dropped() > 0
        });
    }

    fn files(name: &str, limits: LogLimits) -> (PathBuf, LogFiles) {
        let name = format!("libp2p-quinn-{}-{name}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        let _ = fs::remove_file(&directory);
        let files = LogFiles::begin(&directory, "log", limits).unwrap();
        (directory, files)
    }

    /// The number of files in a directory, and of the bytes in them.
    fn written(directory: &Path) -> (usize, usize) {
        let files = fs::read_dir(directory).unwrap();
        let sizes = files.map(|file| file.unwrap().metadata().unwrap().len() as usize);
        sizes.fold((0, 0), |(count, sum), size| (count + 1, sum + size))
    }

    /// Waits until it is so, for ten seconds at least.
    fn until(mut is_so: impl FnMut() -> bool) {
        for _ in 0..10_000 {
            if is_so() {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("it takes too long");
    }
}
