//! Sleeping until a frame, a command or a timer: the adaptive half of polling.

use std::io;
use std::time::Duration;

use hedgerow_dataplane::frame::Port;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bell::Bell;
use crate::control::Commands;
use crate::core::Core;

/// Sleeps for `nap` at most. Returns at once where a port has frames that no descriptor tells of, or where something was left
/// for the shard.
pub(super) fn park<P: Port>(core: &mut Core<P>, commands: &Commands, nap: Duration) -> io::Result<()> {
    let bell = &commands.bell;
    bell.doze();
    let result = match core.has_mail() || !commands.is_empty() {
        true => Ok(()),
        false => wait(core, bell, nap),
    };
    bell.awake();
    result
}

fn wait<P: Port>(core: &mut Core<P>, bell: &Bell, nap: Duration) -> io::Result<()> {
    let Some(descriptors) = core.park() else { return Ok(()) };
    let mut fds: Vec<PollFd<'_>> =
        descriptors.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    fds.push(PollFd::from_borrowed_fd(bell.fd(), PollFlags::IN));
    let timeout = Timespec { tv_sec: nap.as_secs() as i64, tv_nsec: i64::from(nap.subsec_nanos()) };
    match poll(&mut fds, Some(&timeout)) {
        // An error of a port is found and named by its next receive.
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
