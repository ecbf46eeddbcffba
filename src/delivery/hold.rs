//! Why an enabled endpoint is held: a fault of this process, not of the receiver. Its
//! deliveries keep their due times and wait until the fault is mended; no such fault ends
//! a delivery.

use askwhen_domain::time::{MINUTE, Millis, SECOND};

/// The first pause after an attempt that failed by a fault of this process. Each further
/// one is twice as long.
const PAUSE_FIRST: Millis = 5 * SECOND;
/// The longest pause.
const PAUSE_LONGEST: Millis = 5 * MINUTE;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HoldReason {
    /// The secret is sealed with another cluster key.
    SecretUnreadable,
    SecretMissing,
    /// The secret does not have the form of the endpoint's profile.
    SecretUnusable,
    /// The private key of its client certificate is sealed with another cluster key.
    ClientKeyUnreadable,
    /// The definition was written by another version.
    DefinitionUnreadable,
    /// The operator's proxy does not work.
    ProxyFailed,
    /// The endpoint's TLS settings or the machine's trusted certificates cannot be used.
    TlsUnusable,
    /// The machine has no resolver, or no free file descriptor.
    MachineUnusable,
}

impl HoldReason {
    /// The endpoint's `state_reason`.
    pub fn name(self) -> &'static str {
        match self {
            HoldReason::SecretUnreadable => "secret_unreadable",
            HoldReason::SecretMissing => "secret_missing",
            HoldReason::SecretUnusable => "secret_unusable",
            HoldReason::ClientKeyUnreadable => "client_key_unreadable",
            HoldReason::DefinitionUnreadable => "definition_unreadable",
            HoldReason::ProxyFailed => "proxy_failed",
            HoldReason::TlsUnusable => "tls_unusable",
            HoldReason::MachineUnusable => "machine_unusable",
        }
    }

    /// What an operator does about it.
    pub fn advice(self) -> &'static str {
        match self {
            HoldReason::SecretUnreadable => {
                "its secret was sealed with another cluster key: start with the right one ([secrets] key_file, or \
                 secrets.key of the data directory), or give it a new secret with `askwhen endpoints rotate-secret`"
            }
            HoldReason::SecretMissing | HoldReason::SecretUnusable => {
                "give it a secret that its profile signs with: `askwhen endpoints rotate-secret`"
            }
            HoldReason::ClientKeyUnreadable => {
                "its tls.client_key was sealed with another cluster key: start with the right one ([secrets] \
                 key_file), or put the endpoint once more with its key"
            }
            HoldReason::DefinitionUnreadable => {
                "its definition was written by another version: serve with that version, or put the endpoint once more"
            }
            HoldReason::ProxyFailed => "see [delivery] egress_proxy, and whether the proxy runs",
            HoldReason::TlsUnusable => "see the endpoint's tls, and the certificates that this machine trusts",
            HoldReason::MachineUnusable => "see /etc/resolv.conf, and the limit of open files of this process",
        }
    }

    /// Whether nothing can be sent before an operator has acted. Then the process is not
    /// ready.
    pub fn is_lasting(self) -> bool {
        !matches!(self, HoldReason::ProxyFailed | HoldReason::TlsUnusable | HoldReason::MachineUnusable)
    }
}

/// An endpoint that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldEndpoint {
    pub project: String,
    pub endpoint_id: String,
    pub reason: HoldReason,
    pub since: Millis,
}

/// A pause after attempts that failed by a fault of this process. One attempt at its end
/// finds out whether the fault is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    pub reason: HoldReason,
    pub since: Millis,
    pub until: Millis,
    span: Millis,
}

impl Pause {
    /// The pause after another failure. Attempts that were in flight together count once.
    pub fn after(before: Option<Pause>, reason: HoldReason, now: Millis) -> Pause {
        match before {
            Some(pause) if now < pause.until => Pause { reason, ..pause },
            Some(pause) => {
                let span = (pause.span * 2).min(PAUSE_LONGEST);
                Pause { reason, since: pause.since, until: now.saturating_add(span), span }
            }
            None => Pause { reason, since: now, until: now.saturating_add(PAUSE_FIRST), span: PAUSE_FIRST },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_failures_together_count_once() {
        let mut pause = Pause::after(None, HoldReason::ProxyFailed, 0);
        let mut spans = vec![pause.until];
        for _ in 0..8 {
            let at = pause.until;
            pause = Pause::after(Some(pause), HoldReason::ProxyFailed, at);
            assert_eq!(Pause::after(Some(pause), HoldReason::ProxyFailed, at), pause);
            spans.push((pause.until - at) / SECOND);
        }
        assert_eq!(spans, [5_000, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(pause.since, 0);
    }
}
