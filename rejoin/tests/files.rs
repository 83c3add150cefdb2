//! Files that are missing, unusable, unwritable or shared.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use futures::FutureExt;
use libp2p::{PeerId, Swarm, swarm::SwarmEvent};
use libp2p_rejoin::{Behaviour, Event, LoadError, ParseError, SaveError, Snapshot};
use support::*;

const HOUR: Duration = Duration::from_secs(60 * 60);

async fn event(swarm: &mut Swarm<Behaviour>, wanted: fn(&Event) -> bool) -> Event {
    until(swarm, |event| match event {
        SwarmEvent::Behaviour(event) if wanted(&event) => Some(event),
        _ => None,
    })
    .await
}

async fn loaded(swarm: &mut Swarm<Behaviour>) -> Event {
    event(swarm, |event| {
        matches!(event, Event::Loaded { .. } | Event::LoadFailed(_))
    })
    .await
}

async fn saved(swarm: &mut Swarm<Behaviour>) -> Event {
    event(swarm, |event| {
        matches!(event, Event::Saved { .. } | Event::SaveFailed(_))
    })
    .await
}

#[tokio::test]
async fn a_node_joins_by_its_bootstrap_peer_and_rejoins_by_its_file() {
    let (_directory, path) = path();
    let live = live(Over::Quinn).await;
    let mut first = node(
        Over::Quinn,
        config(1).with_bootstrap([live.address]).with_file(&path),
    );
    let event = loaded(&mut first).await;
    assert!(
        matches!(event, Event::Loaded { peers: 0 }),
        "no file is no error: {event:?}"
    );
    target_reached(&mut first).await;
    first.behaviour_mut().save();
    let event = saved(&mut first).await;
    assert!(matches!(event, Event::Saved { peers: 1 }), "{event:?}");
    drop(first);

    let mut second = node(Over::Quinn, config(1).with_file(&path));
    let event = loaded(&mut second).await;
    assert!(matches!(event, Event::Loaded { peers: 1 }), "{event:?}");
    target_reached(&mut second).await;
    assert!(second.is_connected(&live.peer));
}

#[tokio::test]
async fn what_is_learned_is_saved_unasked() {
    let (_directory, path) = path();
    let live = live(Over::Memory).await;
    let mut node = node(
        Over::Memory,
        config(1).with_bootstrap([live.address]).with_file(&path),
    );
    let event = saved(&mut node).await;
    assert!(matches!(event, Event::Saved { peers: 1 }), "{event:?}");
    assert_eq!(
        Snapshot::load(&path).unwrap().peers()[0].peer_id(),
        &live.peer
    );
}

/// The node joins by its bootstrap peer, sets the file aside, and writes another.
async fn survives(content: &[u8], check: fn(&LoadError) -> bool) {
    let (_directory, path) = path();
    fs::write(&path, content).unwrap();
    let live = live(Over::Memory).await;
    let mut node = node(
        Over::Memory,
        config(1).with_bootstrap([live.address]).with_file(&path),
    );
    match loaded(&mut node).await {
        Event::LoadFailed(error) => assert!(check(&error), "{error:?}"),
        event => panic!("{event:?}"),
    }
    target_reached(&mut node).await;
    node.behaviour_mut().save();
    let event = saved(&mut node).await;
    assert!(matches!(event, Event::Saved { peers: 1 }), "{event:?}");
    assert_eq!(Snapshot::load(&path).unwrap().peers().len(), 1);
    // What nobody could read is not lost.
    assert_eq!(fs::read(aside(&path)).unwrap(), content);
}

/// Where an unusable file is kept.
fn aside(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".unusable");
    aside.into()
}

/// A node that had nothing to write may end so.
#[test]
fn a_snapshot_sets_an_unusable_file_aside() {
    let (_directory, path) = path();
    let snapshot = snapshot_of([(PeerId::random(), "/memory/1".parse().unwrap())]);
    fs::write(&path, br#"{"version":9}"#).unwrap();
    for _ in 0..2 {
        snapshot.save(&path).unwrap();
        assert_eq!(Snapshot::load(&path).unwrap(), snapshot);
        assert_eq!(fs::read(aside(&path)).unwrap(), br#"{"version":9}"#);
    }
}

#[tokio::test]
async fn of_two_nodes_with_an_unusable_file_only_one_sets_it_aside() {
    let (_directory, path) = path();
    fs::write(&path, b"torn").unwrap();
    let mut nodes = [(); 2].map(|()| node(Over::Memory, config(1).with_file(&path)));
    for node in &mut nodes {
        let event = loaded(node).await;
        assert!(matches!(event, Event::LoadFailed(_)), "{event:?}");
    }
    for node in &mut nodes {
        node.behaviour_mut().save();
        let event = saved(node).await;
        assert!(matches!(event, Event::Saved { .. }), "{event:?}");
    }
    assert_eq!(fs::read(aside(&path)).unwrap(), b"torn");
    Snapshot::load(&path).unwrap();
}

/// Reading a pipe to which nobody writes takes for ever, as a disk may.
#[cfg(unix)]
#[tokio::test]
async fn a_node_ends_although_the_disk_hangs() {
    let (_directory, path) = path();
    let mut node = node(Over::Memory, config(1).with_file(&path));
    loaded(&mut node).await;
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    node.behaviour_mut().save();
    // Begins to write.
    assert!(saved(&mut node).now_or_never().is_none());
    drop(node);
    // Lets the thread end.
    fs::write(&path, b"").unwrap();
}

#[tokio::test]
async fn a_node_survives_a_torn_file() {
    let whole = snapshot_of([(PeerId::random(), "/memory/1".parse().unwrap())]).to_json();
    let malformed = |error: &LoadError| matches!(error, LoadError::Parse(ParseError::Malformed(_)));
    survives(&whole[..whole.len() / 2], malformed).await;
    survives(b"", malformed).await;
    survives(&[0; 4096], malformed).await;
}

#[tokio::test]
async fn a_node_survives_a_file_of_a_later_version() {
    let check = |error: &LoadError| matches!(error, LoadError::Parse(ParseError::Version(9)));
    survives(br#"{"version":9}"#, check).await;
}

#[tokio::test]
async fn a_node_survives_a_file_of_10_gb() {
    let (_directory, path) = path();
    // Sparse, so it takes no room on the disk.
    fs::File::create(&path)
        .unwrap()
        .set_len(10_000_000_000)
        .unwrap();
    let live = live(Over::Memory).await;
    let mut node = node(
        Over::Memory,
        config(1).with_bootstrap([live.address]).with_file(&path),
    );
    let event = loaded(&mut node).await;
    let Event::LoadFailed(LoadError::Parse(ParseError::TooLarge { max_bytes })) = event else {
        panic!("{event:?}");
    };
    assert_eq!(max_bytes, 1 << 20);
    target_reached(&mut node).await;
}

/// As root, permissions keep nobody from reading. A directory in the place of the file does.
#[tokio::test]
async fn a_file_that_could_not_be_read_is_not_replaced_and_its_peers_are_kept() {
    let (directory, path) = path();
    let aside = directory.path().join("aside");
    let old = PeerId::random();
    let remembered = snapshot_of([(old, "/memory/1".parse().unwrap())]);
    remembered.save(&aside).unwrap();
    fs::create_dir(&path).unwrap();

    let live = live(Over::Memory).await;
    let mut node = node(
        Over::Memory,
        config(1).with_bootstrap([live.address]).with_file(&path),
    );
    let event = loaded(&mut node).await;
    assert!(
        matches!(event, Event::LoadFailed(LoadError::Read(_))),
        "{event:?}"
    );
    target_reached(&mut node).await;
    node.behaviour_mut().save();
    let event = saved(&mut node).await;
    assert!(
        matches!(
            event,
            Event::SaveFailed(SaveError::Unread(LoadError::Read(_)))
        ),
        "{event:?}"
    );
    assert!(!node.behaviour().is_loaded());

    fs::remove_dir(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    node.behaviour_mut().save();
    let event = loaded(&mut node).await;
    assert!(matches!(event, Event::Loaded { .. }), "{event:?}");
    let event = saved(&mut node).await;
    assert!(matches!(event, Event::Saved { peers: 2 }), "{event:?}");
    assert!(node.behaviour().is_loaded());
    let snapshot = Snapshot::load(&path).unwrap();
    let peers: Vec<_> = snapshot.peers().iter().map(|it| *it.peer_id()).collect();
    assert_eq!(peers, [live.peer, old]);
}

#[tokio::test]
async fn what_a_crashed_writer_has_left_is_removed_at_the_next_start() {
    let (directory, path) = path();
    let leave = |name: &str, age| {
        let path = directory.path().join(name);
        let file = fs::File::create(&path).unwrap();
        let now = file.metadata().unwrap().modified().unwrap();
        file.set_modified(now - age).unwrap();
        path
    };
    let old = leave(".libp2p-rejoin-peers.json-abcdef", 2 * HOUR);
    let young = leave(".libp2p-rejoin-peers.json-ghijkl", HOUR / 2);
    let mut node = node(Over::Memory, config(0).with_file(&path));
    loaded(&mut node).await;
    assert!(!old.exists());
    assert!(young.exists(), "another process may be writing it");
}

#[cfg(target_os = "linux")]
#[test]
fn an_endless_file_ends() {
    let error = Snapshot::load(Path::new("/dev/zero")).unwrap_err();
    assert!(
        matches!(error, LoadError::Parse(ParseError::TooLarge { .. })),
        "{error:?}"
    );
}

/// As root, permissions keep nobody from writing. A directory that is a file does, and so does the
/// file system of the kernel.
#[tokio::test]
async fn a_disk_that_cannot_be_written_is_reported_and_the_node_goes_on() {
    let (directory, file) = path();
    fs::write(&file, "").unwrap();
    let mut paths = vec![
        file.join("peers.json"),
        directory.path().join("missing/peers.json"),
    ];
    if cfg!(target_os = "linux") {
        paths.push("/proc/peers.json".into());
    }
    for path in paths {
        let lives = [live(Over::Memory).await, live(Over::Memory).await];
        let bootstrap = lives.iter().map(|live| live.address.clone());
        let config = config(1).with_batch(at_most(1)).with_bootstrap(bootstrap);
        let mut node = node(Over::Memory, config.with_file(&path));
        target_reached(&mut node).await;
        for _ in 0..2 {
            node.behaviour_mut().save();
            let event = saved(&mut node).await;
            assert!(
                matches!(event, Event::SaveFailed(SaveError::Write(_))),
                "{event:?}"
            );
        }
        let lost = end_one(&node, &lives);
        assert_eq!(target_reached(&mut node).await, 1, "{}", path.display());
        assert!(!node.is_connected(&lost));
    }
}

#[test]
fn a_save_that_fails_leaves_the_old_file_and_no_other() {
    let (directory, path) = path();
    let old = snapshot_of([(PeerId::random(), "/memory/1".parse().unwrap())]);
    old.save(&path).unwrap();
    // A directory in the place of the file cannot be replaced.
    let blocked = directory.path().join("blocked");
    fs::create_dir_all(blocked.join("inside")).unwrap();
    let error = old.save(&blocked).unwrap_err();
    assert!(matches!(error, SaveError::Write(_)), "{error:?}");
    assert_eq!(Snapshot::load(&path).unwrap(), old);
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["blocked", "peers.json"]);
}

#[test]
fn of_two_writers_one_wins_and_no_reader_sees_a_torn_file() {
    let (_directory, path) = path();
    let snapshot = |count: u64| {
        snapshot_of(
            (1..=count).map(|port| (PeerId::random(), format!("/memory/{port}").parse().unwrap())),
        )
    };
    let written = [snapshot(1), snapshot(200)];
    written[0].save(&path).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers = written.each_ref().map(|snapshot| {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..50 {
                    snapshot.save(path).unwrap();
                }
            })
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let read = Snapshot::load(&path).unwrap();
                assert!(written.contains(&read));
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(written.contains(&Snapshot::load(&path).unwrap()));
}

#[cfg(unix)]
#[test]
fn only_the_owner_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;

    let (_directory, path) = path();
    Snapshot::default().save(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}
