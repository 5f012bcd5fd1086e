//! The server's certificate authority, its certificate, and the kubeconfig of the administrator.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::Error;
use crate::auth::write_private;

const CA_NAME: &str = "strait-apiserver-ca";
/// Names that the certificate always carries.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

fn ca_params() -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Reads or makes the authority in `dir`, and a certificate for `names`, which is made afresh at every start.
///
/// # Errors
/// When files cannot be read or written, or hold no key.
pub fn prepare(dir: &Path, names: &[String]) -> Result<Arc<rustls::ServerConfig>, Error> {
    let (key_path, cert_path) = (dir.join("ca.key"), dir.join("ca.crt"));
    let read = |path: &Path| match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file(path, error)),
    };
    let (stored_key, stored_cert) = (read(&key_path)?, read(&cert_path)?);
    let key = match &stored_key {
        Some(text) => KeyPair::from_pem(text)?,
        None => {
            let key = KeyPair::generate()?;
            write_private(&key_path, key.serialize_pem().as_bytes())?;
            key
        }
    };
    let ca_pem = match stored_cert {
        Some(text) if stored_key.is_some() => text,
        Some(_) | None => {
            let text = ca_params()?.self_signed(&key)?.pem();
            write_public(&cert_path, &text)?;
            text
        }
    };
    let mut all = OWN_NAMES.map(str::to_owned).to_vec();
    all.extend(
        names
            .iter()
            .filter(|n| !OWN_NAMES.contains(&n.as_str()))
            .cloned(),
    );
    let mut params = CertificateParams::new(all)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "strait-apiserver");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let server_key = KeyPair::generate()?;
    let certificate = params.signed_by(&server_key, &Issuer::new(ca_params()?, key))?;
    write_public(&dir.join("server.crt"), &certificate.pem())?;
    write_private(
        &dir.join("server.key"),
        server_key.serialize_pem().as_bytes(),
    )?;

    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes())
        .map_err(|_| Error::Certificate(cert_path))?;
    let server_key = PrivateKeyDer::try_from(server_key.serialize_der())
        .map_err(|_| Error::Certificate(key_path))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone(), ca], server_key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn write_public(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(|error| Error::file(path, error))
}

/// A kubeconfig for `user` with `token` on the server at `url`, whose authority is in `dir`.
///
/// # Errors
/// When the authority cannot be read.
pub fn kubeconfig(dir: &Path, url: &str, user: &str, token: &str) -> Result<String, Error> {
    let path = dir.join("ca.crt");
    let ca = std::fs::read(&path).map_err(|error| Error::file(&path, error))?;
    let ca = base64::engine::general_purpose::STANDARD.encode(ca);
    // JSON is YAML, and quotes whatever a name may hold.
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "strait",
        "clusters": [{"name": "strait", "cluster": {"server": url, "certificate-authority-data": ca}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "strait", "context": {"cluster": "strait", "user": user, "namespace": "default"}}],
    });
    serde_json::to_string_pretty(&config).map_err(|error| Error::file(&path, error.into()))
}

/// The administrator's token, kept in `dir` over restarts.
///
/// # Errors
/// When the file cannot be read or written.
pub fn admin_token(dir: &Path) -> Result<String, Error> {
    let path = dir.join("admin.token");
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file(&path, error))
        }
        Ok(_) | Err(_) => {
            let token = crate::random::token()?;
            write_private(&path, token.as_bytes())?;
            Ok(token)
        }
    }
}

/// The URL under which clients reach a server that listens on `address` under `names`.
#[must_use]
pub fn server_url(address: SocketAddr, names: &[String]) -> String {
    let host = match names.first() {
        Some(name) if address.ip().is_unspecified() => match name.parse::<std::net::Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]"),
            Err(_) => name.clone(),
        },
        Some(_) | None if address.ip().is_unspecified() && address.is_ipv4() => {
            "127.0.0.1".to_owned()
        }
        Some(_) | None if address.ip().is_unspecified() => "[::1]".to_owned(),
        Some(_) | None if address.is_ipv6() => format!("[{}]", address.ip()),
        Some(_) | None => address.ip().to_string(),
    };
    format!("https://{host}:{}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_one_that_the_certificate_covers() {
        let url = |address: &str, names: &[&str]| {
            server_url(
                address.parse().unwrap(),
                &names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(url("10.0.0.1:6443", &["broker"]), "https://10.0.0.1:6443");
        assert_eq!(url("0.0.0.0:6443", &["broker", "x"]), "https://broker:6443");
        assert_eq!(
            url("[::]:6443", &["2001:db8::1"]),
            "https://[2001:db8::1]:6443"
        );
        assert_eq!(url("[::]:6443", &[]), "https://[::1]:6443");
        assert_eq!(url("0.0.0.0:1", &[]), "https://127.0.0.1:1");
        assert_eq!(url("[2001:db8::1]:6443", &[]), "https://[2001:db8::1]:6443");
    }
}
