//! Who may go out, as this core has it.

use std::sync::Arc;

use hedgerow_dataplane::egress::NodeTraffic;
use hedgerow_dataplane::frame::Port;

use super::Core;
use crate::egress::Egress;
use crate::rules::swap::Reader;

/// The way out that this core passes packets by.
pub(super) struct Ways {
    egress: Arc<Egress>,
    reader: Reader,
}

impl<P: Port> Core<P> {
    /// Lets nodes out as `egress` says from now on.
    pub fn let_out(&mut self, egress: Arc<Egress>) {
        let reader = egress.swap().reader(self.number);
        self.ways = Some(Ways { egress, reader });
        self.take_ways();
    }

    /// Takes who may go out if that has changed: one atomic load where it has not.
    pub(super) fn take_ways(&mut self) {
        let Some(ways) = &mut self.ways else { return };
        if let Some(rules) = ways.egress.swap().take(&mut ways.reader) {
            self.shard.set_egress(rules);
        }
    }

    /// What each node's way out has carried; nothing but in core 0.
    pub fn egress_traffic(&self) -> &[NodeTraffic] {
        self.shard.egress_traffic()
    }
}
