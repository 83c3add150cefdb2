//! The table of certificates, and its part of RESULTS.md.

use std::fmt::Write;

use super::{Answer, Answers, Certificate, Findings, Role};
use crate::table::markdown;

/// Every peer's reaction to every certificate.
pub struct Table {
    pub certificates: Vec<Certificate>,
    pub answers: Vec<(&'static str, Answers)>,
    pub findings: Findings,
    /// The reasons why peers have no reactions.
    pub errors: Vec<String>,
}

impl Table {
    /// Ours must be right, and refuse inside the handshake. The others must accept the valid
    /// certificate, because otherwise their refusals mean nothing; everything else is a finding,
    /// not a failure.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = self.errors.clone();
        for (peer, certificate, role, answer) in self.answers() {
            let is_right = certificate.deserves(answer);
            let is_failure = match (peer, answer) {
                ("ours", Answer::Refused(how)) => !is_right || !how.starts_with("alert"),
                ("ours", _) => !is_right,
                _ => !is_right && certificate.index == 0,
            };
            if is_failure {
                failures.push(format!("{}: {answer:?}", describe(peer, certificate, role)));
            }
        }
        failures
    }

    /// Findings that did not occur: the peer may have been repaired.
    pub fn repaired(&self) -> Vec<String> {
        let mut repaired = Vec::new();
        for finding in &self.findings.finding {
            for (peer, _) in &self.answers {
                for number in &finding.cases {
                    let shows = self.deviations().any(|(other, certificate, ..)| {
                        other == *peer && certificate.number == *number
                    });
                    if finding.peers.iter().any(|name| name == peer) && !shows {
                        let id = &finding.id;
                        repaired.push(format!(
                            "{peer}, case {number}: as it should be, though known as {id}"
                        ));
                    }
                }
            }
        }
        repaired
    }

    /// One row for each certificate, one column for each peer and role.
    pub fn markdown(&self) -> String {
        let column = |title: String, cell: &dyn Fn(&Certificate) -> String| {
            let cells = self.certificates.iter().map(cell);
            [title].into_iter().chain(cells).collect::<Vec<_>>()
        };
        let mut columns = vec![
            column("case".to_owned(), &|certificate| {
                certificate.number.to_string()
            }),
            column("certificate".to_owned(), &|certificate| {
                let mark = if certificate.signed { "" } else { " †" };
                format!("{}{mark}", certificate.name)
            }),
        ];
        for (peer, answers) in &self.answers {
            for role in [Role::Client, Role::Server] {
                columns.push(column(pair(peer, role), &|certificate| {
                    answers
                        .get(&(certificate.index, role))
                        .map_or_else(String::new, |answer| cell(certificate, answer))
                }));
            }
        }
        markdown(&columns)
    }

    /// The section of RESULTS.md.
    pub fn document(&self) -> String {
        let mut text = format!(
            "\n## Certificates\n\nA hostile peer presents each certificate (hostile → …) and serves it (… → hostile), \
             numbered as in tests/support/certificates.rs. *alert*: refused, with this alert of TLS; *error*: with \
             this error of QUIC; *closed*: after the handshake, with this code. **Bold** is what should be otherwise: \
             a bad certificate that is accepted, a good one that is refused, or no answer. †: its signatures are \
             wrong, too, because no library makes them, so that a refusal may be for that.\n\n{}",
            self.markdown()
        );
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n### What was found out\n");
        for finding in &self.findings.finding {
            let cases: Vec<String> = finding.cases.iter().map(u8::to_string).collect();
            let _ = writeln!(
                text,
                "- **{}** ({}; {}): {} *Evidence:* {} *Issue:* {}",
                finding.id,
                finding.peers.join(", "),
                cases.join(", "),
                finding.cause,
                finding.evidence,
                finding.issue
            );
        }
        let unexplained: Vec<String> = self
            .deviations()
            .filter(|(peer, certificate, ..)| !self.findings.explain(peer, certificate.number))
            .map(|(peer, certificate, role, answer)| {
                format!("- {}: {answer:?}\n", describe(peer, certificate, role))
            })
            .collect();
        if !unexplained.is_empty() {
            let _ = writeln!(text, "\n### Not looked into\n\n{}", unexplained.concat());
        }
        text
    }

    fn answers(&self) -> impl Iterator<Item = (&'static str, &Certificate, Role, &Answer)> {
        self.answers.iter().flat_map(|(peer, answers)| {
            answers.iter().filter_map(|((index, role), answer)| {
                Some((*peer, self.certificates.get(*index)?, *role, answer))
            })
        })
    }

    /// All wrong reactions.
    fn deviations(&self) -> impl Iterator<Item = (&'static str, &Certificate, Role, &Answer)> {
        self.answers()
            .filter(|(_, certificate, _, answer)| !certificate.deserves(answer))
    }
}

fn cell(certificate: &Certificate, answer: &Answer) -> String {
    let text = match answer {
        Answer::Accepted => "accepted",
        Answer::Refused(how) => how,
        Answer::Silent => "no answer",
        Answer::Crashed => "crashed",
        Answer::Failed(_) => "failed",
    };
    if certificate.deserves(answer) {
        text.to_owned()
    } else {
        format!("**{text}**")
    }
}

fn describe(peer: &str, certificate: &Certificate, role: Role) -> String {
    let Certificate { number, name, .. } = certificate;
    format!("{}, case {number} ({name})", pair(peer, role))
}

fn pair(peer: &str, role: Role) -> String {
    match role {
        Role::Client => format!("hostile → {peer}"),
        Role::Server => format!("{peer} → hostile"),
    }
}
