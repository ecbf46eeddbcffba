//! Why nothing is sent to an endpoint that is enabled: a fault on this side of
//! the wire. What waits keeps waiting, with its due date, until a person has
//! mended it; no such fault ends a delivery.

use askwhen_domain::time::{MINUTE, Millis, SECOND};

/// The first pause after an attempt that failed on this side; each one after it
/// is twice as long.
const PAUSE_FIRST: Millis = 5 * SECOND;
const PAUSE_LONGEST: Millis = 5 * MINUTE;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HoldReason {
    /// Sealed with another cluster key.
    SecretUnreadable,
    SecretMissing,
    /// Not of the form that the endpoint's profile signs with.
    SecretUnusable,
    /// The private key of its client certificate, sealed with another cluster key.
    ClientKeyUnreadable,
    /// Its definition, written by another version.
    DefinitionUnreadable,
    /// The operator's proxy does not work.
    ProxyFailed,
    /// Its TLS settings, or the certificates that the machine trusts.
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

    /// Whether nothing at all can be sent before a person has acted: readiness
    /// says so.
    pub fn is_lasting(self) -> bool {
        !matches!(self, HoldReason::ProxyFailed | HoldReason::TlsUnusable | HoldReason::MachineUnusable)
    }
}

/// An endpoint that is held, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldEndpoint {
    pub project: String,
    pub endpoint_id: String,
    pub reason: HoldReason,
    pub since: Millis,
}

/// Attempts have failed on this side; now and then one finds out whether they
/// still do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    pub reason: HoldReason,
    pub since: Millis,
    pub until: Millis,
    span: Millis,
}

impl Pause {
    /// After another failure; those that were under way together count once.
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
