//! The side that connects, to a node or to a peer that a node dials: TLS 1.3, a certificate derived for the one whom the
//! connection speaks for, the other side's certificate under the Chia CA and, if asked for, of one known identity. Names are
//! not checked, as nodes do it.

use core::fmt;
use std::sync::Arc;

use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;

use super::handshake::Stage;
use super::verify::Verifier;
use super::{Channel, Credential, Failure, Settings, SetupError};
use crate::identity::Fleet;
use crate::session::PeerId;

/// What a connection shows as its own identity.
#[derive(Clone, Debug)]
pub enum Showing {
    /// The identity that the fleet derives for a peer; deriving it is part of the first piece of work.
    Peer(Arc<Fleet>, PeerId),
    /// One that exists already.
    Credential(Arc<Credential>),
}

impl Showing {
    /// The client's configuration with this identity in it.
    pub(super) fn apply(self, config: &ClientConfig) -> Result<Arc<ClientConfig>, Failure> {
        let mut own = config.clone();
        own.client_auth_cert_resolver = self.resolver(config.crypto_provider())?;
        Ok(Arc::new(own))
    }

    /// The server's configuration with this identity in it.
    pub(super) fn serve(self, config: &ServerConfig) -> Result<Arc<ServerConfig>, Failure> {
        let mut own = config.clone();
        own.cert_resolver = self.resolver(config.crypto_provider())?;
        Ok(Arc::new(own))
    }

    fn resolver(self, provider: &CryptoProvider) -> Result<Arc<SingleCertAndKey>, Failure> {
        let credential = match self {
            Showing::Peer(fleet, peer) => fleet.identity(peer).map_err(|_| Failure::Internal)?,
            Showing::Credential(credential) => Credential::clone(&credential),
        };
        let key = provider.key_provider.load_private_key(credential.key).map_err(|_| Failure::Internal)?;
        Ok(Arc::new(CertifiedKey::new(credential.chain, key).into()))
    }
}

/// Makes a [`Channel`] for each connection that is made to the nodes of a pool, or for them.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
}

impl Connector {
    /// Accepts anybody under the configured roots, or only the one whose identity is `pinned`.
    ///
    /// # Errors
    /// If the provider has nothing for TLS 1.3.
    pub fn new(settings: &Settings, pinned: Option<PeerId>) -> Result<Connector, SetupError> {
        let verifier = Verifier::new(settings.roots.clone(), settings.provider.clone());
        let verifier = match pinned {
            Some(id) => verifier.pinned(id),
            None => verifier,
        };
        let mut config =
            ClientConfig::builder_with_details(settings.provider.clone(), settings.clock.clone())
                .with_protocol_versions(&[&TLS13])
                .map_err(|e| SetupError::because("TLS provider", e))?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.enable_secret_extraction = true; // see `super::record`
        Ok(Connector { config: Arc::new(config) })
    }

    /// A channel to whoever was connected. Its first piece of work is ready at once.
    pub fn connect(&self, showing: Showing) -> Channel {
        Channel::new(Stage::Connect { config: self.config.clone(), showing })
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}
