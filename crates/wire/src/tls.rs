//! TLS to receivers, from PEM texts. The machine's trusted certificates are always trusted;
//! nothing turns verification off.

use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;
use std::sync::Arc;

use super::error::Class;

/// What is wrong with a PEM text, worded to follow the name of its member.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("must hold certificates in PEM (-----BEGIN CERTIFICATE-----)")]
    NoCertificates,
    #[error("must hold one private key in PEM, not encrypted (-----BEGIN PRIVATE KEY-----)")]
    NoPrivateKey,
    #[error("has a root: {0}")]
    Roots(#[source] rustls::Error),
    #[error("does not go with client_cert")]
    OtherKey(#[source] rustls::Error),
    #[error("{0}")]
    Protocol(#[source] rustls::Error),
}

impl Error {
    pub fn kind(&self) -> &'static str {
        match self {
            Error::NoCertificates => "no_certificates",
            Error::NoPrivateKey => "no_private_key",
            Error::Roots(_) => "roots",
            Error::OtherKey(_) => "other_key",
            Error::Protocol(_) => "protocol",
        }
    }

    /// The class: the definition with the text is refused.
    pub fn class(&self) -> Class {
        Class::Reject
    }
}

/// The certificates in a PEM text.
///
/// # Errors
/// When there are none, or one is invalid.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(Error::NoCertificates),
    }
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| Error::NoPrivateKey)
}

/// Checks a private key.
///
/// # Errors
/// When it is not one.
pub fn check_key(pem: &str) -> Result<(), Error> {
    key(pem).map(drop)
}

/// Trusts certificates that the machine's or a given root has issued, and given
/// certificates themselves, for the names in them: self-signed certificates are mostly
/// authorities by their form, and chains must not end in one.
#[derive(Debug)]
struct ExactOrTrusted {
    exact: Vec<CertificateDer<'static>>,
    trusted: Arc<dyn ServerCertVerifier>,
}

impl ServerCertVerifier for ExactOrTrusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.exact.iter().any(|given| given == end_entity) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.trusted.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trusted.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trusted.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trusted.supported_verify_schemes()
    }
}

fn verifier(ca: Option<&str>, provider: &Arc<CryptoProvider>) -> Result<ExactOrTrusted, Error> {
    let exact = ca.map_or_else(|| Ok(Vec::new()), certificates)?;
    let trusted = Verifier::new_with_extra_roots(exact.clone(), provider.clone()).map_err(Error::Roots)?;
    Ok(ExactOrTrusted { exact, trusted: Arc::new(trusted) })
}

/// The TLS configuration of a client: with roots besides the machine's, and with a client
/// certificate (chain and private key) if there is one. HTTP/1.1 only.
///
/// # Errors
/// What is wrong with the texts, or with the machine's own roots.
pub fn client(ca: Option<&str>, shown: Option<(&str, &str)>) -> Result<ClientConfig, Error> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = Arc::new(verifier(ca, &provider)?);
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(Error::Protocol)?.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some((chain, pem)) => config.with_client_auth_cert(certificates(chain)?, key(pem)?).map_err(Error::OtherKey)?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = include_str!("tls/self_signed.pem");
    const OTHER: &str = include_str!("tls/other_self_signed.pem");

    #[test]
    fn a_given_self_signed_certificate_is_trusted_as_exactly_that_one() {
        let provider = Arc::new(ring::default_provider());
        let shown = &certificates(SHOWN).expect("one")[0];
        for (ca, name, is_trusted) in [
            (Some(SHOWN), "localhost", true),
            (Some(SHOWN), "127.0.0.1", true),
            (Some(&*format!("{OTHER}{SHOWN}")), "localhost", true),
            (Some(SHOWN), "crm.example", false),
            (Some(OTHER), "localhost", false),
            (None, "localhost", false),
        ] {
            let verifier = verifier(ca, &provider).expect("certificates");
            let server_name = ServerName::try_from(name).expect("a name");
            let found = verifier.verify_server_cert(shown, &[], &server_name, &[], UnixTime::now());
            assert_eq!(found.is_ok(), is_trusted, "{name}: {found:?}");
        }
    }
}
