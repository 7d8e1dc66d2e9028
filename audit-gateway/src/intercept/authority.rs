//! The certificate authority that stands in for providers' hosts.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use audit_core::keyring::CaKey;
use audit_core::time::Timestamp;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::hosts::HostPattern;
use crate::error::{Error, Result};

/// How long an authority's certificate lasts: two years. Whoever trusts it trusts its key for that long.
const AUTHORITY_DAYS: i64 = 730;

/// How long a host's certificate lasts; it is made again a day before.
const HOST_DAYS: i64 = 8;

/// Hosts whose certificates are kept. A pattern may mean more; then all are made anew.
const HOSTS_KEPT_MAX: usize = 256;

const DAY_US: i64 = 86_400_000_000;

/// Issues certificates for hosts of its list, and only for those: its own certificate says so too (RFC 5280 §4.2.1.10),
/// so whoever steals its key can't stand in for any other host, among clients that trust it.
pub struct CertificateAuthority {
    key: CaKey,
    patterns: Vec<HostPattern>,
    issuer: Issuer<'static, KeyPair>,
    /// The key of every host's certificate; it lives as long as this.
    host_key: KeyPair,
    made: Mutex<HashMap<String, Made>>,
}

struct Made {
    config: Arc<ServerConfig>,
    until: Timestamp,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// A new authority for the log `origin` and for these hosts, to be kept with
    /// [`CaKeyFile`](audit_core::keyring::CaKeyFile).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid): no host is named, or one can't stand in a certificate.
    pub fn generate(origin: &str, hosts: &[HostPattern], now: Timestamp) -> Result<CaKey> {
        if hosts.is_empty() {
            return Err(Error::invalid("the authority would have no host"));
        }
        let failed = |e| Error::invalid("the authority's certificate can't be made").because(e);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        // The public key makes the name unique: a client that trusts several authorities finds the right one by it.
        let print = audit_core::hex::encode(key.public_key_raw().get(1..5).unwrap_or_default());
        let name = format!("LLMAuditTrail local interception {print}");
        let not_after = now.plus_micros(AUTHORITY_DAYS * DAY_US);
        let mut params = subject(&name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(constraints(hosts)?);
        set_validity(&mut params, now.plus_micros(-DAY_US), not_after);
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(CaKey {
            origin: origin.to_owned(),
            name,
            hosts: hosts.iter().map(ToString::to_string).collect(),
            not_after: Timestamp::parse_rfc3339(&format!("{}T00:00:00Z", day(not_after)))
                .map_err(|e| Error::invalid("the authority's end is no time").because(e))?,
            certificate: certificate.der().to_vec(),
            private: Zeroizing::new(key.serialize_der()),
        })
    }

    /// The authority of a key.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid): key and certificate don't belong together, or its time is over.
    pub fn open(key: CaKey, now: Timestamp) -> Result<Self> {
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(key.private.as_slice()),
            &PKCS_ECDSA_P256_SHA256,
        )
        .map_err(|e| Error::invalid("the authority's key can't be read").because(e))?;
        let public = pair.public_key_raw();
        if !key.certificate.windows(public.len()).any(|w| w == public) {
            return Err(Error::invalid(
                "the authority's key and certificate don't belong together",
            ));
        }
        if key.not_after <= now {
            return Err(Error::invalid(format!(
                "the authority's certificate ended at {}",
                key.not_after
            )));
        }
        let patterns = key
            .hosts
            .iter()
            .map(|host| host.parse())
            .collect::<Result<_>>()?;
        let mut params = subject(&key.name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let host_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|e| Error::unavailable("no key for hosts can be made").because(e))?;
        Ok(Self {
            key,
            patterns,
            issuer: Issuer::new(params, pair),
            host_key,
            made: Mutex::default(),
        })
    }

    /// Whether its certificate allows it to speak for every host that a pattern means.
    #[must_use]
    pub fn allows(&self, hosts: &HostPattern) -> bool {
        self.patterns.iter().any(|allowed| {
            allowed == hosts
                || match (allowed.address(), hosts.address()) {
                    (None, None) => {
                        let (outer, inner) = (allowed.domain(), hosts.domain());
                        inner == outer
                            || inner
                                .strip_suffix(outer)
                                .is_some_and(|rest| rest.ends_with('.'))
                    }
                    _ => false,
                }
        })
    }

    /// Its certificate, X.509 in DER: what clients have to trust.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.key.certificate
    }

    /// When its certificate ends.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.key.not_after
    }

    /// What answers a client that wants to speak TLS with `host`.
    pub(crate) fn server(&self, host: &str, now: Timestamp) -> Result<Arc<ServerConfig>> {
        {
            let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(made) = made.get(host)
                && now.plus_micros(DAY_US) < made.until
            {
                return Ok(Arc::clone(&made.config));
            }
        }
        let until = now.plus_micros(HOST_DAYS * DAY_US).min(self.key.not_after);
        let config = Arc::new(self.issue(host, now, until)?);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= HOSTS_KEPT_MAX {
            made.clear();
        }
        let config = Made { config, until };
        let kept = Arc::clone(&config.config);
        made.insert(host.to_owned(), config);
        Ok(kept)
    }

    fn issue(&self, host: &str, now: Timestamp, until: Timestamp) -> Result<ServerConfig> {
        let failed =
            |e| Error::invalid(format!("no certificate for {host:?} can be made")).because(e);
        // Who looks at the certificate is told what it is.
        let mut params = subject("intercepted and recorded by LLMAuditTrail");
        params.subject_alt_names = vec![match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(ia5(host)?),
        }];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now.plus_micros(-DAY_US), until);
        let certificate = params
            .signed_by(&self.host_key, &self.issuer)
            .map_err(failed)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.host_key.serialize_der()));
        // One crypto provider, named: with a second one in the tree rustls can't choose, and panics.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::invalid("the crypto provider knows no TLS version").because(e))?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone(), self.der()], key)
            .map_err(|e| {
                Error::invalid(format!("no certificate for {host:?} can be used")).because(e)
            })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.key.certificate.clone())
    }
}

/// Parameters with this common name and nothing else in the subject.
fn subject(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn ia5(host: &str) -> Result<Ia5String> {
    Ia5String::try_from(host).map_err(|e| {
        Error::invalid(format!("host {host:?} can't stand in a certificate")).because(e)
    })
}

/// Only these hosts: names below their domains, and addresses. A kind of name of which none is allowed is excluded as a
/// whole, since constraints bind only the kinds that they speak of.
fn constraints(hosts: &[HostPattern]) -> Result<NameConstraints> {
    let mut permitted = Vec::new();
    let (mut v4, mut v6, mut names) = (false, false, false);
    for host in hosts {
        permitted.push(match host.address() {
            Some(IpAddr::V4(address)) => {
                v4 = true;
                GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix(address.octets(), 32))
            }
            Some(IpAddr::V6(address)) => {
                v6 = true;
                GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(address.octets(), 128))
            }
            None => {
                names = true;
                ia5(host.domain())?;
                GeneralSubtree::DnsName(host.domain().to_owned())
            }
        });
    }
    let mut excluded = Vec::new();
    // Addresses of both kinds are one kind of name.
    if !v4 && !v6 {
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix(
            [0; 4], 0,
        )));
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(
            [0; 16], 0,
        )));
    }
    if !names {
        excluded.push(GeneralSubtree::DnsName(String::new()));
    }
    permitted.dedup();
    Ok(NameConstraints {
        permitted_subtrees: permitted,
        excluded_subtrees: excluded,
    })
}

/// `2026-11-22`
fn day(time: Timestamp) -> String {
    time.to_string().chars().take(10).collect()
}

/// Year, month and day of a time in UTC: a certificate needs no more.
fn civil(time: Timestamp) -> (i32, u8, u8) {
    let text = time.to_string();
    let number = |at: std::ops::Range<usize>| text.get(at).and_then(|n| n.parse::<u16>().ok());
    let small = |at| number(at).and_then(|n| u8::try_from(n).ok()).unwrap_or(1);
    (
        i32::from(number(0..4).unwrap_or(1970)),
        small(5..7),
        small(8..10),
    )
}

/// Valid from the beginning of one day to that of another.
fn set_validity(params: &mut CertificateParams, from: Timestamp, until: Timestamp) {
    let midnight = |time| {
        let (year, month, day) = civil(time);
        rcgen::date_time_ymd(year, month, day)
    };
    params.not_before = midnight(from);
    params.not_after = midnight(until);
}
