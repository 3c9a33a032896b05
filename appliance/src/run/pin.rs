//! Which processor core runs which shard.

use core_affinity::CoreId;

use super::RunError;

/// The cores that the configuration names, or the last one that the machine lends us; `None` where it does not say.
pub(super) fn choose(wanted: Option<&[usize]>) -> Result<Vec<Option<CoreId>>, RunError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let Some(wanted) = wanted else { return Ok(vec![cores.last().copied()]) };
    let find = |&number: &usize| {
        let found = cores.iter().find(|core| core.id == number).copied();
        found.map(Some).ok_or(RunError::NoCore(number, cores.len()))
    };
    wanted.iter().map(find).collect()
}

/// Pins the calling thread.
pub(super) fn pin(shard: u16, core: Option<CoreId>) {
    match core {
        Some(id) if core_affinity::set_for_current(id) => tracing::info!(shard, core = id.id, "pinned"),
        _ => tracing::warn!(shard, "the thread could not be pinned; it works, with more jitter"),
    }
}
