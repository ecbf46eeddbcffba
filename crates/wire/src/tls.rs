//! TLS to receivers: from PEM texts to what a connection is made with. What
//! the machine trusts is always trusted; nothing turns verification off.

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_platform_verifier::Verifier;
use std::sync::Arc;

/// The certificates of a PEM text.
///
/// # Errors
/// When there are none, or one that is none.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err("must hold certificates in PEM (-----BEGIN CERTIFICATE-----)".into()),
    }
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, String> {
    let read = PrivateKeyDer::from_pem_slice(pem.as_bytes());
    read.map_err(|_| "must hold one private key in PEM, not encrypted (-----BEGIN PRIVATE KEY-----)".into())
}

/// # Errors
/// When it is no private key.
pub fn check_key(pem: &str) -> Result<(), String> {
    key(pem).map(drop)
}

/// How to connect: with more roots than the machine's, and showing a
/// certificate (chain and private key) if there is one. HTTP/1.1 alone.
///
/// # Errors
/// What is wrong with the texts, or with the machine's own roots.
pub fn client(ca: Option<&str>, shown: Option<(&str, &str)>) -> Result<ClientConfig, String> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let roots = ca.map_or_else(|| Ok(Vec::new()), certificates)?;
    let verifier = Verifier::new_with_extra_roots(roots, provider.clone()).map_err(|e| format!("has a root: {e}"))?;
    let verifier: Arc<dyn ServerCertVerifier> = Arc::new(verifier);
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|e| e.to_string())?.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some((chain, pem)) => config
            .with_client_auth_cert(certificates(chain)?, key(pem)?)
            .map_err(|_| "does not go with client_cert".to_owned())?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
