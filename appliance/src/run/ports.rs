//! The ports of all shards: each device is opened as many times as there are shards.

use super::RunError;
use crate::config::Config;
use crate::device;

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
