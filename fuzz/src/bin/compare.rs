//! Compares our verifier of certificates with those of libp2p-tls and go-libp2p, over a directory
//! of inputs for `differential`: `compare DIRECTORY VERIFY`, where VERIFY is the program of
//! interop/go/verify.
//!
//! Prints how many certificates each verifier judges differently, and why. Fails if two verifiers
//! accept a certificate and name different peers.

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::SystemTime,
};

use libp2p_quinn::{fuzzing, verify_certificate};
use rustls_pki_types::CertificateDer;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(directory), Some(program)) = (arguments.next(), arguments.next()) else {
        return Err("usage: compare DIRECTORY VERIFY".into());
    };
    let mut go = Go::start(&program)?;
    let mut tally = Tally::default();
    for entry in fs::read_dir(directory)? {
        let data = fs::read(entry?.path())?;
        let Some((mode, rest)) = data.split_first() else {
            continue;
        };
        let certificate = match mode % 2 {
            0 => rest.to_vec(),
            _ => fuzzing::signed(rest),
        };
        tally.count("libp2p-tls", ours(&certificate), rust(&certificate))?;
        tally.count("go-libp2p", ours(&certificate), go.verify(&certificate)?)?;
    }
    tally.print();
    Ok(())
}

/// The peer that a certificate proves, or why it is refused.
type Verdict = Result<String, String>;

fn ours(certificate: &[u8]) -> Verdict {
    match verify_certificate(certificate, None, SystemTime::now()) {
        Ok(peer) => Ok(peer.peer_id().to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn rust(certificate: &[u8]) -> Verdict {
    let der = CertificateDer::from(certificate);
    match libp2p_tls::certificate::parse(&der) {
        Ok(parsed) => Ok(parsed.peer_id().to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// go-libp2p's verifier, in its own process.
struct Go {
    _process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Go {
    fn start(program: &str) -> Result<Self, Box<dyn Error>> {
        let mut process = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            questions: process.stdin.take().ok_or("no standard input")?,
            answers: BufReader::new(process.stdout.take().ok_or("no standard output")?),
            _process: process,
        })
    }

    fn verify(&mut self, certificate: &[u8]) -> Result<Verdict, Box<dyn Error>> {
        let mut line = String::new();
        for byte in certificate {
            write!(line, "{byte:02x}")?;
        }
        line.push('\n');
        self.questions.write_all(line.as_bytes())?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        match answer.trim_end().split_once(' ') {
            Some(("peer", peer)) => Ok(Ok(peer.into())),
            Some(("refused", reason)) => Ok(Err(reason.into())),
            _ => Err(format!("not an answer: {answer:?}").into()),
        }
    }
}

#[derive(Default)]
struct Tally {
    certificates: BTreeMap<&'static str, [usize; 2]>,
    disagreements: BTreeMap<(&'static str, &'static str, String), usize>,
}

impl Tally {
    fn count(&mut self, other: &'static str, ours: Verdict, theirs: Verdict) -> Result<(), String> {
        let [both_accept, both_refuse] = self.certificates.entry(other).or_default();
        let (who, why) = match (ours, theirs) {
            (Ok(ours), Ok(theirs)) if ours != theirs => {
                return Err(format!("{other} says {theirs}, and we {ours}"));
            }
            (Ok(_), Ok(_)) => {
                *both_accept += 1;
                return Ok(());
            }
            (Err(_), Err(_)) => {
                *both_refuse += 1;
                return Ok(());
            }
            (Err(why), Ok(_)) => ("only we refuse", why),
            (Ok(_), Err(why)) => ("only we accept", why),
        };
        *self.disagreements.entry((other, who, why)).or_default() += 1;
        Ok(())
    }

    fn print(&self) {
        for (other, [both_accept, both_refuse]) in &self.certificates {
            println!("{other}: both accept {both_accept}, both refuse {both_refuse}");
        }
        for ((other, who, why), count) in &self.disagreements {
            println!("{count:6}  {other}: {who}: {why}");
        }
    }
}
