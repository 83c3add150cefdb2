//! Programs that run beside a test.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Far longer than anything takes unless it hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// More lines than a program prints.
const MAX_LINES: usize = 1000;

/// A program that ends with the test.
pub(crate) struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Program {
    pub(crate) fn start(program: &Path, args: &[&str]) -> Self {
        // `timeout` ends it even if the test is killed.
        let mut child = Command::new("timeout")
            .arg((2 * LIMIT).as_secs().to_string())
            .arg(program)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::sync_channel(MAX_LINES);
        let (output, errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let outputs: [Box<dyn Read + Send>; 2] = [Box::new(output), Box::new(errors)];
        for output in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    println!("{line}");
                    // Nobody need read all lines.
                    let _ = sender.try_send(line + "\n");
                }
            });
        }
        Self { child, lines }
    }

    /// Waits for a line with `before`. Returns what is between it and `after`.
    pub(crate) fn says(&self, before: &str, after: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(LIMIT).unwrap();
            if let Some((_, rest)) = line.split_once(before) {
                return rest.split_once(after).unwrap().0.to_owned();
            }
        }
    }

    /// Ends it as Ctrl-C does.
    pub(crate) fn interrupt(mut self) -> ExitStatus {
        self.signal("INT");
        self.child.wait().unwrap()
    }

    /// `timeout` passes it on, unless it is SIGKILL, which would end only `timeout`.
    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let _ = Command::new("kill").args(["-s", name, &id]).status();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // After its end there is nobody to kill, or somebody else.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal("TERM");
            let _ = self.child.wait();
        }
    }
}
