//! Certificates as an operator would make them.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use weir_cluster::Tls;
use weir_cluster::tls::{Pem, TlsError};

/// 2026-01-01, for everyone.
pub(crate) const NOW: Duration = Duration::from_secs(1_767_225_600);

/// Who signs for a cluster's nodes.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key.
    pub(crate) fn sign(&self, uses: &[ExtendedKeyUsagePurpose], until_year: i32) -> (String, String) {
        let mut params = CertificateParams::new(vec!["any name".into()]).expect("a name");
        params.extended_key_usages = uses.to_vec();
        params.not_after = date_time_ymd(until_year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.0).expect("a certificate").pem(), key.serialize_pem())
    }

    /// A node's, as it should be.
    pub(crate) fn node(&self) -> Tls {
        let uses = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = self.sign(&uses, 2030);
        tls(&self.pem(), &certificate, &key).expect("good certificates")
    }
}

pub(crate) fn tls(authorities: &str, certificate: &str, key: &str) -> Result<Tls, TlsError> {
    let files = Pem { authorities: authorities.as_bytes(), certificate: certificate.as_bytes(), key: key.as_bytes() };
    Tls::new(files, Arc::new(|| NOW))
}
