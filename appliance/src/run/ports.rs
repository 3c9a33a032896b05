//! The ports of all shards: each device is opened as many times as there are shards.

use std::sync::Arc;

use hedgerow_dataplane::admit::Census;

use super::RunError;
use crate::config::Config;
use crate::core::CoreConfig;
use crate::identity::random;
use crate::sockets::Sockets;
use crate::{assemble, device};

pub(super) use crate::device::Device;

/// Opens the ports; by shard, then in the order of the configuration.
pub(super) fn open(config: &Config) -> Result<Vec<Vec<Device>>, RunError> {
    let count = usize::from(config.cores.shards());
    let mut shards: Vec<Vec<Device>> = (0..count).map(|_| Vec::new()).collect();
    for (index, port) in config.ports.iter().enumerate() {
        let queues = device::open(config, index, count).map_err(|e| RunError::Port(port.name.clone(), e))?;
        shards.iter_mut().zip(queues).for_each(|(shard, queue)| shard.push(queue));
    }
    Ok(shards)
}

/// What the sockets of all shards count together.
pub(super) fn census(config: &Config) -> Result<Arc<Census>, RunError> {
    Ok(Census::new(config.cores.shards(), config.limits.flows, seed()?))
}

/// The sockets of a shard, listening already; `None` where no port has any.
pub(super) fn sockets(
    config: &Config,
    core: &CoreConfig,
    census: &Arc<Census>,
) -> Result<Option<Sockets>, RunError> {
    let setup = assemble::sockets(config, core, census, seed()?);
    setup.map(Sockets::open).transpose().map_err(RunError::Listen)
}

fn seed() -> Result<[u8; 16], RunError> {
    let random = random().map_err(|e| RunError::System("randomness", e))?;
    Ok(*random.first_chunk().unwrap_or(&[0; 16]))
}
