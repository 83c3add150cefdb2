//! The reaction of the other side to a certificate.

use quinn::ConnectionError;
use serde_json::{Value, json};

pub enum Outcome {
    /// It talked to us.
    Accepted,
    /// It ended the connection.
    Refused { how: String, reason: String },
    /// It neither talked nor ended the connection in time.
    Silent,
    /// We ended the connection for a reason other than our certificate.
    Failed(String),
}

impl Outcome {
    /// Adds it to a line of JSON.
    pub fn tell(&self, line: &mut Value) {
        let (outcome, how, reason) = match self {
            Self::Accepted => ("accepted", None, None),
            Self::Refused { how, reason } => ("refused", Some(how), Some(reason)),
            Self::Silent => ("silent", None, None),
            Self::Failed(error) => ("failed", None, Some(error)),
        };
        line["outcome"] = json!(outcome);
        line["how"] = json!(how);
        line["reason"] = json!(reason);
    }
}

impl From<ConnectionError> for Outcome {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ConnectionClosed(close) => {
                let code = u64::from(close.error_code);
                Self::Refused {
                    // RFC 9001 §4.8 puts TLS alerts there.
                    how: match code {
                        0x100..=0x1ff => format!("alert {}", code & 0xff),
                        _ => format!("error {code}"),
                    },
                    reason: String::from_utf8_lossy(&close.reason).into_owned(),
                }
            }
            ConnectionError::ApplicationClosed(close) => Self::Refused {
                how: format!("closed {}", close.error_code),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            ConnectionError::Reset => Self::Refused {
                how: "reset".to_owned(),
                reason: String::new(),
            },
            ConnectionError::TimedOut => Self::Silent,
            error => Self::Failed(error.to_string()),
        }
    }
}
