//! Why an attempt got no response, and by whose fault.

use std::sync::Arc;

use super::hold::HoldReason;
use askwhen_wire::topics::Outcome;

type Cause = Arc<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The address is not allowed.
    Blocked,
    Connect,
    ConnectTimeout,
    Tls,
    /// The operator's proxy, not the receiver.
    Proxy,
    Broken,
    /// The endpoint's TLS settings cannot be used.
    Unusable,
    /// This machine has no resolver, file descriptor or port for a connection.
    Machine,
}

/// Why there is no response. Its text becomes the attempt's `error`. Deliveries are tried
/// again after every kind of fault: only the retry policy ends one. A fault of this process
/// holds the endpoint until it is mended.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{context}{source}")]
pub struct Fault {
    kind: FaultKind,
    /// Words before the source's text.
    context: String,
    source: Cause,
}

impl Fault {
    pub fn new(kind: FaultKind, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fault {
        Fault { kind, context: String::new(), source: Cause::from(source.into()) }
    }

    /// The fault of a connection that was not made: the machine's, when it has no free
    /// descriptor, buffer or port, else the receiver's.
    pub fn of_connecting(error: std::io::Error) -> Fault {
        use rustix::io::Errno;
        let own = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
        match error.raw_os_error().is_some_and(|code| own.iter().any(|own| own.raw_os_error() == code)) {
            true => Fault::new(FaultKind::Machine, error).within("this machine gives no connection: "),
            false => Fault::new(FaultKind::Connect, error),
        }
    }

    /// The same fault with words before its text.
    pub fn within(self, context: &str) -> Fault {
        Fault { context: format!("{context}{}", self.context), ..self }
    }

    /// The same fault under another kind.
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

    /// Why the endpoint is held, if the fault is this process's.
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

/// The text of the innermost error of a chain.
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut root_cause = error;
    while let Some(source) = root_cause.source() {
        root_cause = source;
    }
    root_cause.to_string()
}
