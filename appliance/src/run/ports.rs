//! The ports of all shards: each device is opened as many times as there are shards.

use hedgerow_dataplane::frame::Port;

use super::RunError;
use crate::config::Config;

/// One shard's queue of a device.
pub(super) type Device = Box<dyn Port + Send>;

/// Opens the ports; by shard, then in the order of the configuration.
pub(super) fn open(config: &Config) -> Result<Vec<Vec<Device>>, RunError> {
    let count = usize::from(config.cores.shards());
    let mut shards: Vec<Vec<Device>> = (0..count).map(|_| Vec::new()).collect();
    for port in &config.ports {
        let queues = hedgerow_port::open_queues(port.driver_name(), &port.device, count)
            .map_err(|e| RunError::Port(port.name.clone(), e))?;
        shards.iter_mut().zip(queues).for_each(|(shard, queue)| shard.push(queue));
    }
    Ok(shards)
}
