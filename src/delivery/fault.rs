//! Why an attempt got no answer, and whose fault that is.

use std::sync::Arc;

use super::hold::HoldReason;
use askwhen_wire::topics::Outcome;

type Cause = Arc<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Where no webhook goes.
    Blocked,
    Connect,
    ConnectTimeout,
    Tls,
    /// The operator's proxy, not the receiver.
    Proxy,
    Broken,
    /// What the endpoint says of TLS cannot be used.
    Unusable,
    /// This machine has not what a connection takes.
    Machine,
}

/// Why there is no answer. Its text becomes the attempt's `error`. Every kind is
/// tried again: the retry policy ends a delivery, no fault does by itself, and one
/// on this side of the wire holds the endpoint until it is mended.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{context}{source}")]
pub struct Fault {
    kind: FaultKind,
    /// Stands before what the source says.
    context: String,
    source: Cause,
}

impl Fault {
    pub fn new(kind: FaultKind, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fault {
        Fault { kind, context: String::new(), source: Cause::from(source.into()) }
    }

    /// A connection that was not made: by the receiver's fault, or by this
    /// machine's.
    pub fn of_connecting(error: std::io::Error) -> Fault {
        use rustix::io::Errno;
        let own = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
        match error.raw_os_error().is_some_and(|code| own.iter().any(|own| own.raw_os_error() == code)) {
            true => Fault::new(FaultKind::Machine, error).within("this machine gives no connection: "),
            false => Fault::new(FaultKind::Connect, error),
        }
    }

    /// The same, with words before it.
    pub fn within(self, context: &str) -> Fault {
        Fault { context: format!("{context}{}", self.context), ..self }
    }

    /// The same, by somebody else's fault.
    pub fn of_kind(self, kind: FaultKind) -> Fault {
        Fault { kind, ..self }
    }

    pub fn kind(&self) -> FaultKind {
        self.kind
    }
}

impl FaultKind {
    pub fn outcome(self) -> Outcome {
        match self {
            FaultKind::Blocked => Outcome::BlockedTarget,
            FaultKind::Tls => Outcome::TlsFailed,
            FaultKind::Proxy => Outcome::ProxyFailed,
            FaultKind::Unusable | FaultKind::Machine => Outcome::NotSent,
            FaultKind::Connect => Outcome::ConnectFailed,
            FaultKind::Broken => Outcome::BrokenResponse,
            FaultKind::ConnectTimeout => Outcome::Timeout,
        }
    }

    /// What holds the endpoint, when the receiver was never asked.
    pub fn hold_reason(self) -> Option<HoldReason> {
        match self {
            FaultKind::Proxy => Some(HoldReason::ProxyFailed),
            FaultKind::Unusable => Some(HoldReason::TlsUnusable),
            FaultKind::Machine => Some(HoldReason::MachineUnusable),
            FaultKind::Blocked
            | FaultKind::Connect
            | FaultKind::ConnectTimeout
            | FaultKind::Tls
            | FaultKind::Broken => None,
        }
    }
}

/// What lies at the bottom of an error.
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut root_cause = error;
    while let Some(source) = root_cause.source() {
        root_cause = source;
    }
    root_cause.to_string()
}
