//! The side that peers connect to: TLS 1.3, a client certificate under the Chia CA required, no tickets, no early data.

use core::fmt;
use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::version::{TLS12, TLS13};

use super::handshake::Stage;
use super::verify::Verifier;
use super::{Channel, Credential, Settings, SetupError};

/// Makes a [`Channel`] for each peer that connects to one service address.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
}

impl Acceptor {
    /// Shows `credential` to peers.
    ///
    /// # Errors
    /// If the credential's key does not parse or does not fit its certificate.
    pub fn new(settings: &Settings, credential: Credential) -> Result<Acceptor, SetupError> {
        let versions: &[_] = if settings.tls12 { &[&TLS13, &TLS12] } else { &[&TLS13] };
        let verifier = Verifier::new(settings.roots.clone(), settings.provider.clone());
        let mut config =
            ServerConfig::builder_with_details(settings.provider.clone(), settings.clock.clone())
                .with_protocol_versions(versions)
                .map_err(|e| SetupError::because("TLS provider", e))?
                .with_client_cert_verifier(Arc::new(verifier))
                .with_single_cert(credential.chain, credential.key)
                .map_err(|e| SetupError::because("server certificate", e))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.ignore_client_order = true; // ours is cheapest first
        config.enable_secret_extraction = true; // see `super::record`
        Ok(Acceptor { config: Arc::new(config) })
    }

    /// A channel for a peer that has just connected. Costs no memory beyond the channel itself until bytes arrive.
    pub fn accept(&self) -> Channel {
        Channel::new(Stage::Accept { config: self.config.clone(), showing: None })
    }

    /// The same for whoever is to see another identity, which is not known yet: a node of ours, that of the peer which it
    /// dials. The channel takes a hello and does nothing about it before [`Channel::answer_as`].
    pub fn hold(&self) -> Channel {
        Channel::new(Stage::Hold(self.config.clone()))
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}
